"""Layers of a short gated convolution in a model: by hand, packed, padded, cached."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import params, short_conv, transformer
from alignjax.models.adapters import adapt, lora, peft_config, prefix
from alignjax.models.config import DeltaConfig
from alignjax.models.config_parts import ConvConfig
from tests.models import cached, tiny
from tests.models.test_gated_delta import gapped

PARTS = {
    "layers": 4,
    "attention": ("conv", "full", "conv", "conv"),
    "conv": ConvConfig(taps=3, bias=True),
    "qk_norm": "scaled",
}
LENGTHS = (9, 5, 7)


@pytest.fixture(scope="module")
def run():
    """(tokens, positions, segments, cache) -> (states, cache) of one model, and the model."""
    model = transformer.transformer(tiny.config(**PARTS))
    weights = jax.jit(model.init)(jax.random.key(2))
    weights = jax.tree.map(lambda x: 1.4 * x + 0.1 * (x == 0), weights)  # biases are not 0

    @jax.jit
    def run(tokens, positions, segments, cache=None):
        return model.hidden(weights, tokens, positions=positions, segments=segments, cache=cache)

    return run, model


def test_a_layer_by_hand():
    """Channel by channel in numpy, of two segments side by side."""
    shape, rng = tiny.config(**PARTS), np.random.default_rng(0)
    declared = short_conv.declare(shape, 1)
    weights = jax.tree.map(
        lambda info: 0.4 * rng.normal(size=info.shape[1:]), declared, is_leaf=params.is_info
    )
    x, segments = rng.normal(size=(1, 6, 16)), np.array([[1, 1, 1, 1, 2, 2]])
    before, after, value = (
        x[0] @ getattr(weights, name) + getattr(weights, f"{name}_bias")
        for name in ("in_gate", "out_gate", "value")
    )
    read = before * value
    mixed = np.tile(weights.taps_bias, (6, 1))
    for start, stop in ((0, 4), (4, 6)):
        for t in range(start, stop):
            for lag in range(3):
                if t - lag >= start:
                    mixed[t] += weights.taps[:, 2 - lag] * read[t - lag]
    want = (after * mixed) @ weights.out + weights.out_bias
    weights, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (weights, x))
    found, states = short_conv.mix(shape, weights, x, jnp.asarray(segments), None, jnp.int32(0))
    assert states is None
    np.testing.assert_allclose(found[0], want, atol=1e-4)


def test_packing_and_padding_change_nothing(run):
    run, _ = run
    sequences = tiny.sequences(LENGTHS)
    plain = run(*tiny.rows(sequences, 24))[0]
    left = run(*tiny.rows(sequences, 24, left=True, pad=4))[0]
    spread, places = gapped(sequences, 24)
    gaps, rows = run(*spread)[0], tiny.packed(sequences, 24)
    joined, start = run(*(np.repeat(x, 3, axis=0) for x in rows))[0][0], 0
    assert float(np.std(plain[0, :9])) > 0.5
    for row, other, wide, at in zip(plain, left, gaps, places, strict=True):
        n = len(at)
        np.testing.assert_allclose(other[-n:], row[:n], atol=2e-5)
        np.testing.assert_allclose(wide[at], row[:n], atol=2e-5)
        np.testing.assert_allclose(joined[start : start + n], row[:n], atol=2e-5)
        start += n


def test_prompts_in_pieces_and_tokens_one_by_one_equal_the_full_forward(run):
    run, model = run
    sequences = tiny.sequences(LENGTHS)
    plain = run(*tiny.rows(sequences, 24))[0]
    spread, places = gapped(sequences, 24)
    cache, parts = model.cache(3, 24), []
    sizes = jax.tree.map(jnp.shape, cache.states)
    for start, stop in [(0, 7), (7, 14), (14, 21), *((n, n + 1) for n in range(21, 24))]:
        part, cache = run(*(x[:, start:stop] for x in spread), cache)
        parts.append(part)
    found = np.concatenate(parts, axis=1)
    for row, other, at in zip(plain, found, places, strict=True):
        np.testing.assert_allclose(other[at], row[: len(at)], atol=2e-5)
    assert jax.tree.map(jnp.shape, cache.states) == sizes
    assert sizes.inputs == (3, 3, 2, 16)
    assert cache.keys.shape[0] == 1  # of the one layer with keys


@pytest.mark.slow
def test_decoding_equals_the_forward_over_4096_tokens(run):
    run, model = run
    sequence = np.random.default_rng(3).integers(0, 16, 4096).astype(np.int32)
    rows = tiny.rows([sequence], 4096)
    whole, cache = run(*rows)[0], model.cache(1, 4096)
    for start, stop in [(0, 1000), (1000, 4090), *((n, n + 1) for n in range(4090, 4096))]:
        part, cache = run(*(x[:, start:stop] for x in rows), cache)
        np.testing.assert_allclose(part, whole[:, start:stop], atol=5e-5)


def test_rows_of_caches_take_their_inputs_along(run):
    cached.check_rows(*run, LENGTHS)


def test_what_is_refused():
    def refused(message, run):
        with pytest.raises(ValueError, match=message) as one:
            run()
        assert "\n" not in str(one.value)

    shape = tiny.config(**PARTS)
    refused(
        "taps must be finite and >= 1", tiny.config(**PARTS | {"conv": ConvConfig(taps=0)}).validate
    )
    own = DeltaConfig(key_heads=2, value_heads=2, key_dim=4, value_dim=4)
    both = tiny.config(attention=("conv", "delta"), delta=own)
    refused("one kind of layer without keys", both.validate)
    model = transformer.transformer(shape)
    refused("of a convolution", lambda: adapt.adapt(model, prefix.PrefixConfig(length=2)))
    refused("short convolution", lambda: peft_config.check_shape(shape, "LORA"))
    targets = lora.LoraConfig(rank=2, targets=("all-linear",)).of(transformer.declare(shape))
    assert {"in_gate", "out_gate", "value", "out"} <= {*targets.targets}

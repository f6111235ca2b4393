"""Layers that see the keys of earlier ones, and full layers whose heads have other sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import cache_rows, config_parts, transformer
from alignjax.models.adapters import adapt, lora, peft_config, prefix
from alignjax.models.config import RopeScaling
from alignjax.models.config_parts import LentConfig, WideConfig
from alignjax.serving import steps
from tests.models import cached, tiny

PARTS = {
    "layers": 6,
    "attention": ("sliding", "full"),
    "window": 3,
    "wide": WideConfig(head_dim=12, kv_heads=2, single=True),
    "lent": LentConfig(layers=3, ff=32),
    "layer_inputs": 8,
    "layer_scales": True,
    "value_norm": True,
    "qk_norm": "scaled",
    "post_norms": True,
    "query_scale": 1.0,
    "rope": RopeScaling(kind="proportional", share=0.5),
    "local_rope_theta": 30.0,
}
LENGTHS = (9, 5, 7)


@pytest.fixture(scope="module")
def run():
    """(tokens, positions, segments, cache) -> (states, cache) of one model, and the model."""
    model = transformer.transformer(tiny.config(**PARTS))
    weights = jax.tree.map(lambda x: 1.4 * x, jax.jit(model.init)(jax.random.key(2)))

    @jax.jit
    def run(tokens, positions, segments, cache=None):
        return model.hidden(weights, tokens, positions=positions, segments=segments, cache=cache)

    return run, model


def test_runs_of_layers_and_their_places():
    shape = tiny.config(**PARTS)
    assert [list(numbers) for _, numbers in shape.stacks()] == [[0], [1], [2], [3], [4], [5]]
    assert [config_parts.lender(shape, n) for n in range(6)] == [0, 1, 2, 1, 2, 1]
    assert config_parts.lenders(shape) == {1, 2}
    assert config_parts.placed(shape) == [0, 0, 1, 0, 1, 0]
    alike = dataclasses.replace(shape, wide=WideConfig(), attention=("full",))
    assert [list(numbers) for _, numbers in alike.stacks()] == [[0, 1], [2], [3, 4, 5]]


def test_only_layers_with_keys_keep_any(run):
    _, model = run
    kept = model.cache(3, 14)
    assert kept.keys.shape == kept.values.shape == (2, 3, 2, 14, 8)
    assert kept.wide.keys.shape == kept.wide.values.shape == (1, 3, 2, 14, 12)


def test_prompts_in_pieces_and_tokens_one_by_one_equal_the_full_forward(run):
    run, model = run
    plain = np.asarray(run(*tiny.rows(tiny.sequences(LENGTHS), 14))[0])
    rows = tiny.rows(tiny.sequences(LENGTHS), 14, left=True)
    cache, parts = model.cache(3, 14), []
    for start, stop in [(0, 8), (8, 11), *((n, n + 1) for n in range(11, 14))]:
        part, cache = run(*(x[:, start:stop] for x in rows), cache)
        parts.append(part)
    found = np.concatenate(parts, axis=1)
    assert np.std(plain[0, :9]) > 0.3
    for row, other, n in zip(plain, found, LENGTHS, strict=True):
        np.testing.assert_allclose(other[-n:], row[:n], atol=2e-5)


def test_packed_rows_equal_separate_ones(run):
    run, _ = run
    sequences = tiny.sequences(LENGTHS)
    plain = np.asarray(run(*tiny.rows(sequences, 24))[0])
    joined, start = np.asarray(run(*tiny.packed(sequences, 24))[0][0]), 0
    for row, n in zip(plain, LENGTHS, strict=True):
        np.testing.assert_allclose(joined[start : start + n], row[:n], atol=2e-5)
        start += n


def test_rows_of_caches_take_their_wide_keys_along(run):
    run, model = run
    cache, more = cached.check_rows(run, model, LENGTHS)
    fresh = cache_rows.by_row(model.cache(3, 14), jnp.zeros((3,), jnp.int32))
    first = (more[0], np.zeros((3, 1), int), more[2])
    np.testing.assert_array_equal(run(*first, steps.reset(cache))[0], run(*first, fresh)[0])


def test_weights_prepared_for_decoding_are_the_same_model(run):
    run, model = run
    weights = jax.tree.map(lambda x: 1.4 * x, jax.jit(model.init)(jax.random.key(2)))
    rows = tiny.rows(tiny.sequences(LENGTHS), 10)
    want, _ = run(*rows, model.cache(3, 14))
    prepared = jax.jit(model.prepare)(weights)
    tokens, positions, segments = rows
    given = {"positions": positions, "segments": segments, "cache": model.cache(3, 14)}
    found, _ = jax.jit(model.hidden)(prepared, tokens, **given)
    np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lent": LentConfig(layers=6)}, "model.lent.layers must be finite and >= 1 and <= 5"),
        ({"lent": LentConfig(layers=5)}, "of a layer of their kind before them; got 5 and none"),
        ({"lent": LentConfig(layers=2, ff=-1)}, "model.lent.ff must be finite and >= 0"),
        ({"wide": WideConfig(head_dim=7, kv_heads=2)}, "model.wide.head_dim must be even"),
        ({"wide": WideConfig(head_dim=8, kv_heads=3)}, "multiple of model.wide.kv_heads; got 4"),
        ({"wide": WideConfig(head_dim=8)}, "model.wide.kv_heads must be finite and >= 1"),
        ({"rope": RopeScaling(kind="proportional", share=1.5)}, "rope.share must be"),
        ({"layer_inputs": -1}, "model.layer_inputs must be finite and >= 0"),
    ],
)
def test_sizes_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as one:
        tiny.config(**{**PARTS, **changes}).validate()
    assert "\n" not in str(one.value)


def test_adapters_that_such_layers_cannot_have():
    shape = tiny.config(**PARTS)
    with pytest.raises(ValueError, match=r"layers without keys or values of their own") as one:
        adapt.adapt(transformer.transformer(shape), prefix.PrefixConfig(length=2))
    assert "\n" not in str(one.value)
    with pytest.raises(ValueError, match="for peft must be of a model whose layers have the same"):
        peft_config.check_shape(shape, "LORA")
    targets = lora.LoraConfig(rank=2, targets=("all-linear",)).of(transformer.declare(shape))
    assert {*targets.targets} == {"query", "key", "value", "out", "gate", "up", "down"}

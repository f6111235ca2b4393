"""Layers of the gated delta rule in a model: packed, padded, cached, resumed, on meshes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import cache_rows, params, scoring, transformer
from alignjax.models.adapters import adapt, lora, prefix
from alignjax.models.config import DeltaConfig, MoeConfig
from alignjax.parallel import axes, hosts, mesh
from alignjax.serving import steps
from tests.models import cached, tiny

ODD = DeltaConfig(key_heads=3, value_heads=6, key_dim=5, value_dim=3, taps=4)
EVEN = dataclasses.replace(ODD, key_heads=2, value_heads=4)
PATTERN = ("delta", "full", "delta")


def config(**changes):
    base = {"layers": 3, "attention": PATTERN, "delta": ODD, "attention_gate": True}
    return tiny.config(**{**base, "rope_dim": 4, "qk_norm": "scaled", **changes})


def made(shape, scale=1.4):
    model = transformer.transformer(shape)
    return model, jax.tree.map(lambda x: scale * x, jax.jit(model.init)(jax.random.key(2)))


@pytest.fixture(scope="module")
def run():
    """(tokens, positions, segments, cache) -> (states, cache) of one model, and the model."""
    model, weights = made(config())

    @jax.jit
    def run(tokens, positions, segments, cache=None):
        return model.hidden(weights, tokens, positions=positions, segments=segments, cache=cache)

    return run, model


LENGTHS = (9, 5, 7)


def test_packing_and_padding_change_nothing(run):
    run, _ = run
    sequences = tiny.sequences(LENGTHS)
    plain = run(*tiny.rows(sequences, 24))[0]
    left = run(*tiny.rows(sequences, 24, left=True, pad=4))[0]
    rows = tiny.packed(sequences, 24)
    joined, start = run(*(np.repeat(x, 3, axis=0) for x in rows))[0][0], 0
    assert float(np.std(plain[0, :9])) > 0.5
    for row, other, sequence in zip(plain, left, sequences, strict=True):
        n = len(sequence)
        np.testing.assert_allclose(other[-n:], row[:n], atol=2e-5)
        np.testing.assert_allclose(joined[start : start + n], row[:n], atol=2e-5)
        start += n


def gapped(sequences, length, pad=5):
    """Rows with padding of several lengths within them; and where their tokens stand."""
    rng = np.random.default_rng(0)
    rows = tiny.rows(sequences, length, pad=pad)
    places = [np.sort(rng.choice(length, len(one), replace=False)) for one in sequences]
    spread = [np.full_like(x, fill) for x, fill in zip(rows, (pad, 0, 0), strict=True)]
    for i, at in enumerate(places):
        for whole, row in zip(spread, rows, strict=True):
            whole[i, at] = row[i, : len(at)]
    return spread, places


def test_padding_within_a_row_changes_nothing(run):
    run, _ = run
    sequences = tiny.sequences(LENGTHS)
    plain = run(*tiny.rows(sequences, 24))[0]
    spread, places = gapped(sequences, 24)
    found = run(*spread)[0]
    for row, other, at in zip(plain, found, places, strict=True):
        np.testing.assert_allclose(other[at], row[: len(at)], atol=2e-5)


def test_prompts_in_pieces_and_tokens_one_by_one_equal_the_full_forward(run):
    """Whatever the pieces' padding: before, between and behind."""
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
    assert sizes.rule == (2, 3, 3, 2, 5, 3)
    assert sizes.inputs == (2, 3, 3, 3, 16)
    assert cache.keys.shape[0] == 1  # of the one layer with keys


def test_a_segment_that_begins_behind_a_cache_finds_an_empty_state(run):
    run, model = run
    rows = tiny.packed(tiny.sequences((9, 11)), 24)
    rows = [np.repeat(x, 3, axis=0) for x in rows]
    whole = run(*rows)[0]
    _, cache = run(*(x[:, :12] for x in rows), model.cache(3, 24))
    found, _ = run(*(x[:, 12:] for x in rows), cache)
    np.testing.assert_allclose(found[:, :8], whole[:, 12:20], atol=2e-5)
    _, cache = run(*(x[:, :9] for x in rows), model.cache(3, 24))
    found, _ = run(*(x[:, 9:] for x in rows), cache)
    np.testing.assert_allclose(found[:, :11], whole[:, 9:20], atol=2e-5)


def test_rows_of_caches_take_their_states_along(run):
    run, model = run
    cache, more = cached.check_rows(run, model, LENGTHS)
    fresh = cache_rows.by_row(model.cache(3, 14), jnp.zeros((3,), jnp.int32))
    first = (more[0], np.zeros((3, 1), int), more[2])
    np.testing.assert_array_equal(run(*first, steps.reset(cache))[0], run(*first, fresh)[0])


@pytest.mark.slow
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_decoding_equals_the_forward_over_4096_tokens(eps):
    """With an epsilon of 0.1 no norm lifts rounding, and states agree to it however many tokens lie
    behind; with a usual one norms of small numbers lift it a hundredfold at a few tokens, anywhere
    in the row, and logits agree as those of all families do."""
    model, weights = made(config(norm_eps=eps))
    unembedding = np.asarray(model.unembedding(weights))
    read = np.eye(len(unembedding)) if eps == 0.1 else unembedding
    run = jax.jit(
        lambda t, p, s, c=None: model.hidden(weights, t, positions=p, segments=s, cache=c)
    )
    sequence = np.random.default_rng(3).integers(0, 16, 4096).astype(np.int32)
    rows = tiny.rows([sequence], 4096)
    whole, cache = run(*rows)[0], model.cache(1, 4096)
    for start, stop in [(0, 1000), (1000, 4090), *((n, n + 1) for n in range(4090, 4096))]:
        part, cache = run(*(x[:, start:stop] for x in rows), cache)
        apart = (np.asarray(part[0]) - np.asarray(whole[0, start:stop])) @ read
        assert np.abs(apart).max() < (2e-6 if eps == 0.1 else 1e-4), (start, stop)


SPREAD = {
    "delta": EVEN,
    "norm_eps": 0.02,
    "moe": MoeConfig(
        experts=4, active=2, ff=8, shared_ff=8, shared_gate=True, balance_loss=0.1, z_loss=0.01
    ),
}


def _objective(model):
    """Log-probabilities and router losses of whole rows: all that training sees."""

    def loss(weights, batch):
        states, terms = scoring.hidden_and_penalties(model, weights, batch)
        stats = scoring.stats_of(model, weights, states, batch["tokens"])
        mask = scoring.counted(batch)
        nll = -jnp.sum(jnp.where(mask, stats.logprob, 0.0)) / jnp.sum(mask)
        return nll + sum(term.total / term.weight for term in terms.values())

    return jax.jit(jax.value_and_grad(loss))


def _batch():
    tokens, positions, segments = tiny.rows(tiny.sequences([6, 3, 5, 6, 2, 4, 6, 5]), 6)
    fields = {"tokens": tokens, "positions": positions, "segments": segments}
    return hosts.to_global({**fields, "loss_mask": segments > 0})


@pytest.fixture(scope="module")
def one_device():
    """(host weights, value, gradients) without a mesh, where nothing is computed again.

    What is read of a state may be as small as rounding; a norm of such has to be told of that, or
    sums in another order differ by more than the tolerance.
    """
    model, weights = made(config(**SPREAD, remat="none"), 1.2)
    value, slopes = _objective(model)(weights, _batch())
    return jax.tree.map(np.asarray, (weights, value, slopes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "remat"),
    [
        ({"data": 4, "model": 2}, "full"),
        ({"data": 8}, "dots"),
        ({"data": 2, "model": 2, "seq": 2}, "attention"),
        ({"expert": 2, "data": 2, "model": 2}, "heads"),
    ],
    ids=str,
)
def test_a_model_is_the_same_on_every_mesh(sizes, remat, one_device):
    host, want, gradients = one_device
    shape = config(**SPREAD, remat=remat)
    with mesh.use(mesh.make_mesh(mesh.MeshConfig(**sizes))):
        model = transformer.transformer(shape)
        weights = jax.tree.map(
            lambda info, x: jax.device_put(x, axes.spec(info.axes)),
            transformer.declare(shape),
            host,
            is_leaf=params.is_info,
        )
        value, slopes = _objective(model)(weights, _batch())
        np.testing.assert_allclose(value, want, rtol=1e-5)
        largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(gradients))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), slopes, gradients
        )
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.sharding, b.sharding), slopes, weights)
        cache = model.cache(8, 6)
        tokens, *rest = (_batch()[name] for name in ("tokens", "positions", "segments"))
        places = dict(zip(("positions", "segments"), rest, strict=True))
        plain, _ = jax.jit(lambda w: model.hidden(w, tokens, **places))(weights)

        def cached(w, c, start, stop):
            own = {name: x[:, start:stop] for name, x in places.items()}
            return model.hidden(w, tokens[:, start:stop], **own, cache=c)

        parts = []
        for at in ((0, 4), (4, 6)):
            part, cache = jax.jit(cached, static_argnums=(2, 3))(weights, cache, *at)
            parts.append(np.asarray(part))
        real = np.asarray(places["segments"]) > 0
        found = np.concatenate(parts, axis=1)
        np.testing.assert_allclose(found[real], np.asarray(plain)[real], atol=2e-5)


def test_heads_that_the_model_axis_does_not_divide_are_refused():
    with (
        mesh.use(mesh.make_mesh(mesh.MeshConfig(data=4, model=2))),
        pytest.raises(ValueError, match=r"delta.key_heads must be a multiple of .* got 3 and 2"),
    ):
        transformer.transformer(config())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": DeltaConfig()}, r"model.delta.key_heads must be .* >= 1; got 0"),
        ({"delta": dataclasses.replace(ODD, value_heads=4)}, "value_heads must be a multiple of"),
        ({"rope_dim": 10}, r"model.rope_dim must be .* <= 8; got 10"),
        ({"rope_dim": 3}, "model.rope_dim must be even for rotary embedding; got 3"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as one:
        config(**changes).validate()
    assert "\n" not in str(one.value)


def test_adapters_of_its_maps_start_as_the_base_and_learn():
    targets = ("query", "key", "value", "out", "out_gate", "write", "decay")
    base = transformer.transformer(config())
    model = adapt.adapt(base, lora.LoraConfig(rank=2, targets=targets))
    own = jax.jit(model.init)(jax.random.key(0))
    weights = jax.jit(base.init)(jax.random.key(1))
    rows = dict(zip(("positions", "segments"), tiny.rows(tiny.sequences([6]), 6)[1:], strict=True))
    tokens = tiny.rows(tiny.sequences([6]), 6)[0]

    def states(own):
        return model.hidden(model.bind(own, {"base": weights}), tokens, **rows)[0]

    plain = base.hidden(weights, tokens, **rows)[0]
    np.testing.assert_allclose(states(own), plain, atol=1e-6)
    slopes = jax.jit(jax.grad(lambda own: jnp.sum(jnp.sin(states(own)))))(own)
    moved = [float(jnp.abs(x).max()) for x in jax.tree.leaves(slopes)]
    assert sum(m > 0 for m in moved) == len(moved) // 2  # ups; downs wait for them
    assert len(moved) == 2 * (2 * len(targets) + 5)


def test_a_prefix_needs_keys():
    with pytest.raises(ValueError, match="needs attention over keys and values"):
        adapt.adapt(transformer.transformer(config()), prefix.PrefixConfig())

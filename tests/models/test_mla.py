"""Latent attention: against a loop over pairs of tokens, in both orders, cached, on meshes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from alignjax.models import attention, cache, mla, params, scoring, transformer
from alignjax.models.config import MlaConfig, MoeConfig, RopeScaling
from alignjax.parallel import axes, hosts, mesh
from tests.models import tiny
from tests.reference import latent as reference

YARN = RopeScaling(
    kind="yarn",
    factor=4.0,
    original_length=16,
    beta_fast=2.0,
    beta_slow=0.1,
    attention_factor=1.0,
    score_mscale=0.7,
)


def config(**changes):
    mla_fields = {"kv_rank": 6, "query_rank": 5, "rope_dim": 8, "value_dim": 3}
    inner = {name: changes.pop(name, value) for name, value in mla_fields.items()}
    base = {"heads": 3, "kv_heads": 3, "head_dim": 5, "rope_interleaved": True}
    return tiny.config(mla=MlaConfig(**inner), **{**base, **changes})


KINDS = {
    "queries from a latent": {},
    "queries from the stream": {"query_rank": 0},
    "halves turn": {"rope_interleaved": False},
    "biases": {"out_bias": True},
    "yarn": {"rope": YARN},
}


def one_layer(shape, seed=0):
    """One layer's host weights away from their gentle start."""
    made = params.init(mla.declare(shape, 1), jax.random.key(seed), jnp.float32)
    rng = np.random.default_rng(seed)

    def roughen(x):
        return (2 * np.asarray(x[0]) + 0.3 * rng.normal(size=x.shape[1:])).astype(np.float32)

    return jax.tree.map(roughen, made)


def view_of(shape, time):
    positions = jnp.arange(time)[None]
    segments = jnp.ones((1, time), jnp.int32)
    views, _ = attention.views(shape, *[positions, segments] * 2)
    return jax.tree.map(lambda v: v[0], views)


def run(shape, weights, x):
    view = view_of(shape, x.shape[1])
    query, *new = mla.project(shape, weights, x, view)
    memory = cache.Memory(None, jnp.zeros((), jnp.int32), None)
    return mla.mix(shape, weights, view, query, *memory.extend(*new)[0])


@pytest.mark.parametrize("by_queries", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_loop_over_pairs_of_tokens(kind, by_queries, monkeypatch):
    shape = config(**KINDS[kind])
    weights = one_layer(shape)
    x = np.random.default_rng(1).normal(size=(1, 9, 16)).astype(np.float32)
    monkeypatch.setattr(mla, "absorbs", lambda *_: by_queries)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), weights)
    want = reference.attention(x[0].astype(np.float64), wide, shape)
    assert np.abs(want).max() > 0.5
    np.testing.assert_allclose(run(shape, weights, jnp.asarray(x))[0], want, atol=2e-5)


def test_yarn_reaches_both_the_angles_and_the_scores():
    weights = one_layer(config())
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 9, 16)), jnp.float32)
    plain, scaled, angles = (
        run(config(rope=rope), weights, x)
        for rope in (RopeScaling(), YARN, dataclasses.replace(YARN, score_mscale=0.0))
    )
    assert float(jnp.abs(angles - plain).max()) > 1e-2
    assert float(jnp.abs(angles - scaled).max()) > 1e-2


def test_the_cheaper_order_is_taken():
    shape = tiny.config(
        heads=8, kv_heads=8, head_dim=128, mla=MlaConfig(kv_rank=512, query_rank=1536)
    )
    assert mla.absorbs(shape, 1, 4096)  # decoding
    assert not mla.absorbs(shape, 4096, 4096)  # training


def _model(scale=1.7, **changes):
    shape = config(**changes)
    model = transformer.transformer(shape)
    made = jax.jit(model.init)(jax.random.key(2))
    return shape, model, jax.tree.map(lambda x: scale * x, made)


@pytest.mark.parametrize("query_rank", [0, 5])
def test_prefill_and_decoding_equal_the_full_forward(query_rank):
    shape, model, weights = _model(rope=YARN, query_rank=query_rank)
    sequences = tiny.sequences([7, 5])
    rows = tiny.rows(sequences, 7)

    @jax.jit
    def run(tokens, positions, segments, cache=None):
        return model.hidden(weights, tokens, positions=positions, segments=segments, cache=cache)

    full, _ = run(*rows)
    cache, parts = model.cache(2, 9), []
    assert cache.keys.shape == (2, 2, 1, 9, shape.mla.kv_rank)
    assert cache.values.shape == (2, 2, 1, 9, shape.mla.rope_dim)
    for at in (slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 7)):
        part, cache = run(*(x[:, at] for x in rows), cache)
        parts.append(part)
    decoded = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(decoded[0], full[0], atol=2e-5)
    np.testing.assert_allclose(decoded[1, :5], full[1, :5], atol=2e-5)


def test_packing_and_padding_change_nothing():
    _, model, weights = _model()
    sequences = tiny.sequences([6, 3, 5])

    @jax.jit
    def run(tokens, positions, segments):
        return model.hidden(weights, tokens, positions=positions, segments=segments)[0]

    plain = run(*tiny.rows(sequences, 6))
    left = run(*tiny.rows(sequences, 9, left=True, pad=4))
    joined, start = run(*tiny.packed(sequences, 16))[0], 0
    for row, other, sequence in zip(plain, left, sequences, strict=True):
        n = len(sequence)
        np.testing.assert_allclose(other[-n:], row[:n], atol=2e-5)
        np.testing.assert_allclose(joined[start : start + n], row[:n], atol=2e-5)
        start += n


SPREAD = {
    "heads": 4,
    "kv_heads": 4,
    "layers": 3,
    "moe": MoeConfig(
        experts=4,
        active=2,
        ff=8,
        shared_ff=8,
        scores="sigmoid",
        groups=2,
        active_groups=2,
        first=1,
        bias_correction=True,
        balance_loss=0.1,
        z_loss=0.01,
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
    """(host weights, value, gradients) without a mesh.

    Rough, but not so that sums in another order differ by more than the tolerance of states.
    """
    _, model, weights = _model(scale=1.2, **SPREAD)
    value, slopes = _objective(model)(weights, _batch())
    return jax.tree.map(np.asarray, (weights, value, slopes))


@pytest.mark.parametrize(
    "sizes",
    [
        {"expert": 2, "model": 2, "seq": 2},
        pytest.param({"data": 8}, marks=pytest.mark.slow),
        pytest.param({"data": 4, "seq": 2}, marks=pytest.mark.slow),
        pytest.param({"data": 2, "model": 4}, marks=pytest.mark.slow),
        pytest.param({"expert": 4, "data": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_model_with_both_is_the_same_on_every_mesh(sizes, one_device):
    host, want, gradients = one_device
    with mesh.use(mesh.make_mesh(mesh.MeshConfig(**sizes))):
        shape = config(**SPREAD, remat="full")
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
        cache = model.cache(8, 4)
        tokens, *rest = (_batch()[name][:, :4] for name in ("tokens", "positions", "segments"))
        places = dict(zip(("positions", "segments"), rest, strict=True))
        plain, _ = jax.jit(lambda w: model.hidden(w, tokens, **places))(weights)
        states, _ = jax.jit(lambda w, c: model.hidden(w, tokens, **places, cache=c))(weights, cache)
        real = np.asarray(places["segments"]) > 0
        np.testing.assert_allclose(np.asarray(states)[real], np.asarray(plain)[real], atol=2e-5)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_gradients_lower_for_accelerators_on_an_abstract_mesh(platform):
    pod = AbstractMesh(
        (2, 4, 4, 8),
        ("replica", "data", "model", "expert"),
        axis_types=(AxisType.Explicit,) * 4,
    )
    with jax.sharding.use_abstract_mesh(pod):
        big = {"vocab_size": 32768, "width": 1024, "ff": 4096, "heads": 16, "kv_heads": 16}
        latent = {"head_dim": 128, "kv_rank": 512, "query_rank": 256, "rope_dim": 64}
        experts = dataclasses.replace(SPREAD["moe"], experts=64, ff=512, shared_ff=512)
        half = {"compute_dtype": "bfloat16", "remat": "full", "layers": 3}
        model = transformer.transformer(config(**big, **latent, **half, moe=experts))
        weights = jax.eval_shape(lambda: model.init(jax.random.key(0)))
        where = jax.NamedSharding(pod, axes.spec("batch time"))
        batch = {
            name: jax.ShapeDtypeStruct((128, 64), jnp.int32, sharding=where)
            for name in ("tokens", "positions", "segments", "loss_mask")
        }
        traced = _objective(model).trace(weights, batch)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "sdy.mesh" in text or "mhlo.sharding" in text
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, traced.out_info[1], weights)
    assert all(jax.tree.leaves(same))
    spec = weights.blocks[1].mlp.gate.sharding.spec
    assert spec == jax.P(None, "expert", "data", "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 1}, "model.kv_heads must equal model.heads under MLA; got 1 and 3"),
        ({"rope_dim": 5}, "model.mla.rope_dim must be even .* got 5"),
        ({"query_rank": -1}, "model.mla.query_rank must"),
        ({"value_dim": 0}, "model.mla.value_dim must"),
        ({"qk_norm": "scaled"}, "model.qk_norm must be 'none' under MLA; got 'scaled'"),
        ({"qkv_bias": True}, "model.qkv_bias must be False under MLA"),
        ({"attention_softcap": 5.0}, "model.attention_softcap must be 0.0 under MLA"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_latent_attention_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        transformer.transformer(config(**changes))

"""Attention kernels against the written-out scores; splash is interpreted where there is no TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import struct
from alignjax.models import attention, config, kernels, sight, transformer
from alignjax.parallel import axes, hosts
from alignjax.parallel import mesh as meshes

KINDS = {
    "full": {},
    "softcap": {"attention_softcap": 5.0},
    "windows": {"attention": ("sliding", "full"), "window": 5},
    "sliding": {"attention": ("sliding",), "window": 150},
    "sinks": {"sinks": True, "attention": ("sliding", "full"), "window": 5},
    "chunked": {"attention": ("chunked", "nope"), "window": 6, "query_tuning": 0.1},
    "mla": {
        "mla": config.MlaConfig(kv_rank=12, query_rank=8, rope_dim=4, value_dim=8),
        "kv_heads": 4,
    },
}


def shape(**changes) -> config.TransformerConfig:
    base = {"vocab_size": 40, "layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8}
    return config.TransformerConfig(**{**base, "ff": 48, **changes})


def packed(rows: int, length: int) -> dict[str, np.ndarray]:
    """Rows of several segments, padded on the left, on the right or not at all."""
    rng = np.random.default_rng(0)
    segments, positions = np.zeros((2, rows, length), np.int32)
    for row in range(rows):
        at, end = (3, length) if row % 3 == 1 else (0, length - 5 * (row % 3 == 2))
        number = 0
        while at < end:
            size, number = min(int(rng.integers(1, length // 2)), end - at), number + 1
            segments[row, at : at + size] = number
            positions[row, at : at + size] = np.arange(size)
            at += size
    tokens = rng.integers(0, 40, (rows, length)).astype(np.int32)
    return {"tokens": tokens, "segments": segments, "positions": positions}


def with_sinks(layers):
    own = layers.attention.sinks
    drawn = jax.random.normal(jax.random.key(9), own.shape)
    drawn = jax.device_put(drawn, own.sharding)
    return struct.replace(layers, attention=struct.replace(layers.attention, sinks=drawn))


def run(settings: config.TransformerConfig, batch):
    """(states of real tokens, gradients) of a sum over them."""
    model = transformer.transformer(settings)
    params = jax.jit(model.init)(jax.random.key(0))
    if settings.sinks:  # which start as 0
        params = struct.replace(params, blocks=tuple(map(with_sinks, params.blocks)))
    batch = hosts.to_global(batch)

    def objective(params):
        places = {name: batch[name] for name in ("positions", "segments")}
        states, _ = model.hidden(params, batch["tokens"], **places)
        real = axes.shard(batch["segments"], "batch time") > 0
        states = jnp.where(real[..., None], states, 0.0)
        return jnp.sum(jnp.sin(states * 3)), states

    grads, states = jax.jit(jax.grad(objective, has_aux=True))(params)
    return jax.device_get((states, grads))


def assert_same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(1, np.abs(b).max()))


def some(names, quick):
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("kind", some(KINDS, ["windows", "sinks"]))
def test_splash_equals_the_written_out_scores(kind):
    batch = packed(3, 200)  # two blocks of 128, the last one padded
    expected = run(shape(attention_kernel="reference", **KINDS[kind]), batch)
    assert_same(run(shape(attention_kernel="splash", **KINDS[kind]), batch), expected)


MESHES = {"data4-model2": {"data": 4, "model": 2}, "seq": {"data": 2, "model": 2, "seq": 2}}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize("kind", ["windows", "sinks"])
def test_splash_on_meshes(sizes, kind):
    batch = packed(4, 256)
    expected = run(shape(attention_kernel="reference", **KINDS[kind]), batch)
    with meshes.use(meshes.make_mesh(meshes.MeshConfig(**MESHES[sizes]))):
        found = run(shape(attention_kernel="splash", **KINDS[kind]), batch)
    assert_same(found, expected)


@pytest.mark.parametrize("remat", ["dots", "heads", "attention", "full"])
@pytest.mark.slow
def test_recomputation_of_kernels_changes_nothing(remat):
    batch = packed(2, 128)
    expected = run(shape(attention_kernel="splash"), batch)
    assert_same(run(shape(attention_kernel="splash", remat=remat), batch), expected)


def test_auto_is_the_kernel_of_the_platform_that_a_program_is_for():
    own = {"queries": 64, "keys": 64, "dtype": "float32"}
    assert kernels.choose("auto", **own) == "reference"
    assert kernels.choose("cudnn", **own) == "cudnn"


def test_a_model_with_a_cache_writes_its_scores_out():
    model = transformer.transformer(shape(attention_kernel="splash"))
    params = jax.jit(model.init)(jax.random.key(0))
    ones = jnp.ones((1, 4), jnp.int32)
    text = str(
        jax.make_jaxpr(
            lambda p: model.hidden(p, ones, positions=ones, segments=ones, cache=model.cache(1, 8))[
                0
            ]
        )(params)
    )
    assert "pallas" not in text


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
def test_cudnn_equals_the_written_out_scores():
    rng = np.random.default_rng(0)
    query, key, value = (
        jnp.asarray(rng.normal(size=(2, *size, 64)), jnp.bfloat16)
        for size in ((64, 2, 3), (2, 64), (2, 64))
    )
    batch = packed(2, 64)
    places = [jnp.asarray(batch[name]) for name in ("positions", "segments")]
    mask = sight.visible(sight.sight(*places, *places))
    expected = attention.attend(query, key, value, mask, scale=0.125)
    found = kernels.cudnn(query, key, value, mask, scale=0.125)
    real = batch["segments"] > 0
    np.testing.assert_allclose(
        np.asarray(found, np.float32)[real], np.asarray(expected, np.float32)[real], atol=3e-2
    )

"""Attention kernels against the written-out scores, interpreted where there is no TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import config, transformer

KINDS = {
    "full": {},
    "softcap": {"attention_softcap": 5.0},
    "windows": {"attention": ("sliding", "full"), "window": 5},
    "sliding": {"attention": ("sliding",), "window": 9},
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
            size, number = min(int(rng.integers(1, 30)), end - at), number + 1
            segments[row, at : at + size] = number
            positions[row, at : at + size] = np.arange(size)
            at += size
    tokens = rng.integers(0, 40, (rows, length)).astype(np.int32)
    return {"tokens": tokens, "segments": segments, "positions": positions}


def run(settings: config.TransformerConfig, batch, params=None):
    """(states of real tokens, gradients) of a sum over them."""
    model = transformer.transformer(settings)
    params = jax.jit(model.init)(jax.random.key(0)) if params is None else params
    real = jnp.asarray(batch["segments"] > 0)

    def objective(params):
        places = {name: batch[name] for name in ("positions", "segments")}
        states, _ = model.hidden(params, batch["tokens"], **places)
        states = jnp.where(real[..., None], states, 0.0)
        return jnp.sum(jnp.sin(states * 3)), states

    grads, states = jax.jit(jax.grad(objective, has_aux=True))(params)
    return jax.device_get((states, grads))


def assert_same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(1, np.abs(b).max()))


@pytest.mark.parametrize(
    "kind", ["windows", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "windows")]
)
def test_splash_equals_the_written_out_scores(kind):
    batch = packed(3, 70)
    expected = run(shape(attention_kernel="reference", **KINDS[kind]), batch)
    assert_same(run(shape(attention_kernel="splash", **KINDS[kind]), batch), expected)

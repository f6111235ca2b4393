"""Rows of caches: written each at its own place, read in part, moved between slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import cache_rows, token_cache
from alignjax.models.config import MlaConfig
from alignjax.parallel import axes, hosts
from tests.models import tiny

LENGTHS = np.array([4, 1, 3, 2, 4, 2, 1, 3], np.int32)
SEQUENCES = tiny.sequences(LENGTHS + 3, seed=1)
ROWS = tiny.rows([s[:n] for s, n in zip(SEQUENCES, LENGTHS, strict=True)], 4)


def states(model, weights, cache, steps=3, order=None):
    """States [B, steps, D] of the tokens behind the prompts, a token at a time; the cache."""
    order = np.arange(8) if order is None else order
    found = []
    for n in range(steps):
        tokens = np.array([[SEQUENCES[i][LENGTHS[i] + n]] for i in order])
        placed = hosts.to_global({"tokens": tokens, "positions": (LENGTHS[order] + n)[:, None]})
        hidden, cache = jax.jit(model.hidden)(
            weights, **placed, segments=placed["tokens"] * 0 + 1, cache=cache
        )
        found.append(hidden)
    return np.concatenate(jax.device_get(found), axis=1), cache


def filled(model, weights, slots, *, by_row):
    """A cache that holds the prompts."""
    given = hosts.to_global(dict(zip(("tokens", "positions", "segments"), ROWS, strict=True)))

    @jax.jit
    def run(weights, lengths, tokens, positions, segments):
        cache = model.cache(8, slots)
        if by_row:
            cache = cache_rows.by_row(cache, lengths * 0)
        seen = {"positions": positions, "segments": segments}
        return model.hidden(weights, tokens, **seen, cache=cache)[1]

    return run(weights, hosts.to_global({"n": LENGTHS})["n"], **given)


@pytest.mark.parametrize("mla", [False, True], ids=["heads", "latents"])
def test_rows_written_at_their_own_places_are_those_written_side_by_side(mla, any_mesh):
    latents = {"mla": MlaConfig(kv_rank=8, rope_dim=4, value_dim=8), "kv_heads": 4}
    model = tiny.model(**(latents if mla else {}))
    weights = jax.jit(model.init)(jax.random.key(0))
    together, _ = states(model, weights, filled(model, weights, 8, by_row=False))
    apart, cache = states(model, weights, filled(model, weights, 8, by_row=True))
    np.testing.assert_allclose(apart, together, atol=2e-5)
    np.testing.assert_array_equal(cache.index, LENGTHS + 3)
    segments = np.arange(8)[None] < (LENGTHS + 3)[:, None]
    np.testing.assert_array_equal(np.asarray(cache.segments) > 0, segments)
    # No row gains a slot by padding, nor by what would not fit in.
    seen = {"positions": jnp.zeros_like(cache.positions[:, :1]), "cache": cache}
    nothing = jnp.zeros_like(cache.segments[:, :1])
    _, after = jax.jit(model.hidden)(weights, nothing, **seen, segments=nothing)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after), jax.device_get(cache))


def test_what_is_not_read_changes_nothing():
    model, weights = tiny.model(), tiny.params()
    whole, _ = states(model, weights, filled(model, weights, 20, by_row=True))
    part = cache_rows.reading(filled(model, weights, 20, by_row=True), 7)
    found, after = states(model, weights, part)
    np.testing.assert_allclose(found, whole, atol=2e-6)
    assert after.keys.shape[3] == 20
    lowered = jax.jit(model.hidden).lower(
        weights, ROWS[0][:, :1], positions=ROWS[1][:, :1], segments=ROWS[2][:, :1], cache=part
    )
    assert "8x2x2x1x20" not in lowered.as_text()  # scores
    assert "8x2x2x1x7" in lowered.as_text()


def test_rows_are_taken_repeated_and_put_where_others_were(any_mesh):
    """On a mesh each device counts its own rows."""
    model = tiny.model()
    weights = tiny.place(tiny.params())
    cache = filled(model, weights, 8, by_row=True)
    shards = axes.axis_size("batch")
    own = 8 // shards
    flip = np.tile(np.arange(own)[::-1], shards)  # of each device
    placed = hosts.to_global({"rows": flip})["rows"]
    order = (np.arange(shards)[:, None] * own + np.arange(own)[::-1]).reshape(-1)
    taken = jax.jit(cache_rows.take)(cache, placed)
    whole, used = states(model, weights, cache)
    found, _ = states(model, weights, taken, order=order)
    np.testing.assert_allclose(found, whole[order], atol=2e-5)
    # Full rows give way to prompts again, row by row.
    stock = filled(model, weights, 4, by_row=True)
    arguments = hosts.to_global({"to": flip, "source": np.tile(np.arange(own), shards)})
    count = hosts.to_global({"count": np.full(shards, own)})["count"]
    back = jax.jit(cache_rows.put)(used, stock, arguments["to"], arguments["source"], count)
    found, after = states(model, weights, back, order=order)
    np.testing.assert_allclose(found, whole[order], atol=2e-5)
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(cache), strict=True):
        assert jax.typeof(x).sharding.spec == jax.typeof(y).sharding.spec
    wide = jax.eval_shape(lambda: cache_rows.repeat(jax.tree.map(lambda x: x, cache), 3))
    assert wide.keys.shape[1] == wide.index.shape[0] == 24


def test_tokens_that_are_kept_are_put_as_rows_are():
    cache, _ = token_cache.append(token_cache.empty(8, 9), *ROWS)
    used, _ = token_cache.append(cache, ROWS[0] + 1, ROWS[1] + 4, ROWS[2])
    stock, _ = token_cache.append(token_cache.empty(8, 4), *ROWS)
    index = jnp.arange(8, dtype=jnp.int32)
    back = cache_rows.put(used, stock, index[::-1], index, jnp.array([5]))
    for x, old, new in zip(*(jax.tree.leaves(tree) for tree in (back, used, cache)), strict=True):
        np.testing.assert_array_equal(x[3:], new[:5][::-1])
        np.testing.assert_array_equal(x[:3], old[:3])

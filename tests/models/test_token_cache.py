"""The cache of models that have none: rows stay contiguous, and lie where the batch does."""

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.models import token_cache
from alignjax.parallel import hosts
from tests.models import flax_toys as toys
from tests.training import tiny


def test_real_tokens_go_behind_those_that_are_there_wherever_padding_stands():
    cache = token_cache.empty(3, 5)
    tokens = np.array([[7, 8, 0], [0, 7, 8], [7, 0, 8]], np.int32)
    segments = (tokens > 0).astype(np.int32)
    positions = np.array([[0, 1, 9], [9, 0, 1], [0, 9, 1]], np.int32)
    cache, slots = token_cache.append(cache, tokens, positions, segments)
    np.testing.assert_array_equal(cache.tokens, [[7, 8, 0, 0, 0]] * 3)
    np.testing.assert_array_equal(cache.positions, [[0, 1, 0, 0, 0]] * 3)
    np.testing.assert_array_equal(slots, [[0, 1, 5], [5, 0, 1], [0, 5, 1]])
    # A row that has ended gives padding: it gains nothing, whatever the others do.
    alive = np.array([[1], [0], [2]], np.int32)
    more, slots = token_cache.append(cache, np.full((3, 1), 4), np.full((3, 1), 2), alive)
    np.testing.assert_array_equal(more.tokens, [[7, 8, 4, 0, 0], [7, 8, 0, 0, 0], [7, 8, 4, 0, 0]])
    np.testing.assert_array_equal(
        more.segments, [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 2, 0, 0]]
    )
    np.testing.assert_array_equal(more.count, [3, 2, 3])
    np.testing.assert_array_equal(slots, [[2], [5], [2]])


def test_a_step_leaves_the_cache_where_it_was(any_mesh):
    model = toys.linen_model()
    given = hosts.to_global(tiny.rows(0, 8))

    @jax.jit
    def run(key, tokens, positions, segments):
        before = model.cache(8, 16)
        weights = model.init(key)
        seen = {"positions": positions, "segments": segments}
        return before, model.hidden(weights, tokens, **seen, cache=before)[1]

    names = ("tokens", "positions", "segments")
    before, after = run(jax.random.key(0), *(given[name] for name in names))
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)
        if any_mesh is not None:
            assert a.sharding.spec[0] is not None
    np.testing.assert_array_equal(after.count, jnp.sum(given["segments"] > 0, axis=1))

"""What holds of every kind of cache, whatever its layers keep."""

import jax.numpy as jnp
import numpy as np

from alignjax.models import cache_rows
from tests.models import tiny


def check_rows(run, model, lengths):
    """Rows of a cache that are taken, repeated or put into another go on as they would have.

    run: (tokens, positions, segments, cache) -> (states, cache), of the model. lengths: of 3 rows.
    Returns the cache and the tokens, positions and segments that go on from it.
    """
    _, cache = run(*tiny.rows(tiny.sequences(lengths), 10), model.cache(3, 14))
    cache = cache_rows.by_row(cache, jnp.array(lengths))
    more = (np.array([[3], [1], [2]]), np.array(lengths)[:, None], np.ones((3, 1), int))
    want = np.asarray(run(*more, cache)[0])

    def after(cache, rows):
        return np.asarray(run(*(x[rows] for x in more), cache)[0])

    taken = cache_rows.take(cache, jnp.array([2, 0, 2]))
    np.testing.assert_allclose(after(taken, [2, 0, 2]), want[[2, 0, 2]], atol=1e-6)
    many = cache_rows.repeat(cache_rows.take(cache, jnp.array([1])), 3)
    np.testing.assert_allclose(after(many, [1, 1, 1]), want[[1, 1, 1]], atol=1e-6)
    other = cache_rows.by_row(model.cache(3, 20), jnp.zeros((3,), jnp.int32))
    to, source = jnp.array([2, 0, 0]), jnp.array([0, 1, 0])
    filled = cache_rows.put(other, cache, to, source, jnp.array([2]))
    np.testing.assert_allclose(after(filled, [1, 1, 0])[[0, 2]], want[[1, 0]], atol=1e-6)
    return cache, more

"""Rows of caches: each several times over."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.models import cache, token_cache


def row_axes(kept: Any) -> list[int | None]:
    """The axis of rows of every leaf of a cache, None where it has none.

    Raises:
      TypeError: the cache is of a Flax model's own.
    """
    if isinstance(kept, cache.KVCache):
        return [1, 1, 0, 0, 0 if kept.index.ndim else None]
    if isinstance(kept, token_cache.TokenCache):
        return [0, 0, 0, 0]
    raise TypeError(f"a cache must be ours for its rows to be told apart; got {type(kept)}.")


def is_ours(kept: Any) -> bool:
    """Whether the rows of a cache can be told apart."""
    return isinstance(kept, cache.KVCache | token_cache.TokenCache)


def repeated(x: jax.Array, count: int, axis: int = 0) -> jax.Array:
    """An array with every entry along `axis` `count` times in a row."""
    if count == 1:
        return x
    shape = (*x.shape[: axis + 1], count, *x.shape[axis + 1 :])
    wide = jnp.broadcast_to(jnp.expand_dims(x, axis + 1), shape)
    return wide.reshape(*x.shape[:axis], count * x.shape[axis], *x.shape[axis + 1 :])


def repeat(kept: Any, count: int) -> Any:
    """A cache with every row `count` times in a row."""
    leaves, structure = jax.tree.flatten(kept)
    wide = [
        x if axis is None else repeated(x, count, axis)
        for x, axis in zip(leaves, row_axes(kept), strict=True)
    ]
    return jax.tree.unflatten(structure, wide)

"""A cache for models that have none: it keeps the tokens, and the model reads them all again."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.parallel import axes


@struct.pytree
class TokenCache:
    """What a model without a cache has read: tokens, positions, segments [B, S]; count [B].

    Each row is contiguous from the left, so that a causal model that knows no padding is right.
    read: how many slots the model reads, that more were not written; 0 is all.
    """

    tokens: jax.Array
    positions: jax.Array
    segments: jax.Array
    count: jax.Array
    read: int = struct.static(default=0)


def empty(batch: int, length: int) -> TokenCache:
    """A cache [batch, length] with nothing in it."""

    def slots() -> jax.Array:
        return axes.shard(jnp.zeros((batch, length), jnp.int32), "batch slot")

    count = axes.shard(jnp.zeros((batch,), jnp.int32), "batch")
    return TokenCache(tokens=slots(), positions=slots(), segments=slots(), count=count)


def append(
    cache: TokenCache, tokens: jax.Array, positions: jax.Array, segments: jax.Array
) -> tuple[TokenCache, jax.Array]:
    """(cache with the real ones of T tokens a row behind those it has, the slots [B, T] of all).

    Padding gets the slot behind the last, where nothing is written.
    """
    real = segments > 0
    slots = cache.count[:, None] + jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1
    slots = jnp.where(real, slots, cache.tokens.shape[1])

    def put(kept: jax.Array, new: jax.Array) -> jax.Array:
        write: Any = jax.vmap(lambda row, at, values: row.at[at].set(values, mode="drop"))
        return write(kept, slots, new.astype(kept.dtype))

    cache = struct.replace(
        cache,
        tokens=put(cache.tokens, tokens),
        positions=put(cache.positions, positions),
        segments=put(cache.segments, segments),
        count=cache.count + jnp.sum(real, axis=1, dtype=jnp.int32),
    )
    return cache, slots

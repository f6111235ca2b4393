"""The key-value cache: slots filled from the left, valid where their segment is not zero."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.parallel import axes


@struct.pytree
class KVCache:
    """Keys [L, B, K, S, H] and values [L, B, K, S, U]; position and segment [B, S] of every slot.

    Slots stand beside the head's own axis, so that accelerators read a layer where it lies.
    Latent attention keeps its latents as keys and the rotated keys as values, K = 1 for all heads.

    index: slots written so far, the same for all rows; ragged rows leave slots of segment 0.
    """

    keys: jax.Array
    values: jax.Array
    positions: jax.Array
    segments: jax.Array
    index: jax.Array


def empty(
    layers: int,
    batch: int,
    length: int,
    key: tuple[int, int],
    value: tuple[int, int],
    dtype: Any,
    *,
    heads: str = "kv",
) -> KVCache:
    """A cache of `length` slots with nothing in it; `key` and `value` are (heads, size) of each.

    heads: logical axis of the heads; "group" where all heads share what is kept.
    """

    def zeros(size: tuple[int, int]) -> jax.Array:
        block = jnp.zeros((layers, batch, size[0], length, size[1]), dtype)
        return axes.shard(block, f"layers batch {heads} slot head")

    def slots() -> jax.Array:
        return axes.shard(jnp.zeros((batch, length), jnp.int32), "batch slot")

    return KVCache(
        keys=zeros(key),
        values=zeros(value),
        positions=slots(),
        segments=slots(),
        index=jnp.zeros((), jnp.int32),
    )


def extend(cache: KVCache, positions: jax.Array, segments: jax.Array) -> KVCache:
    """The cache with the positions and segments [B, T] of the next T slots written."""
    at = (0, cache.index)
    return struct.replace(
        cache,
        positions=jax.lax.dynamic_update_slice(cache.positions, positions.astype(jnp.int32), at),
        segments=jax.lax.dynamic_update_slice(cache.segments, segments.astype(jnp.int32), at),
    )


def write(blocks: jax.Array, layer: jax.Array, index: jax.Array, new: jax.Array) -> jax.Array:
    """All layers' keys (or values) with `new` [B, K, T, H] put into one layer at slot `index`."""
    zero = jnp.zeros((), jnp.int32)
    written = jax.lax.dynamic_update_slice(
        blocks, new[None].astype(blocks.dtype), (layer, zero, zero, index, zero)
    )
    # Left to itself libtpu puts the rows next to the heads' own axis, which suits the write of one
    # slot, and then copies every layer's keys and values for each token.
    return axes.in_memory(written, tuple(range(written.ndim)))


def advance(cache: KVCache, stored: "KeysValues", count: int) -> KVCache:
    """The cache with all layers' keys and values of `count` new slots, that are behind it now."""
    return struct.replace(cache, keys=stored.keys, values=stored.values, index=cache.index + count)


class KeysValues(NamedTuple):
    """Keys [B, K, S, H] and values [B, K, S, U] of a layer; with a leading axis of all layers."""

    keys: jax.Array
    values: jax.Array


class Memory(NamedTuple):
    """Where one layer's keys and values are kept for its queries.

    stored: all layers' cached ones, or None without a cache. layer: the layer's number. start: the
    cache's first free slot.
    """

    stored: KeysValues | None
    layer: jax.Array
    start: jax.Array | None

    def extend(self, key: jax.Array, value: jax.Array) -> tuple[KeysValues, KeysValues | None]:
        """(the keys and values that the layer's queries attend to, `stored` with the new ones).

        key [B, T, K, H] and value [B, T, K, U] of T new tokens. Without a cache the queries attend
        to these alone.
        """
        new = KeysValues(jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2))
        if self.stored is None or self.start is None:
            return new, None
        stored = KeysValues(
            write(self.stored.keys, self.layer, self.start, new.keys),
            write(self.stored.values, self.layer, self.start, new.values),
        )
        own = (jax.lax.dynamic_index_in_dim(b, self.layer, 0, keepdims=False) for b in stored)
        return KeysValues(*own), stored

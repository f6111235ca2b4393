"""The key-value cache: slots filled from the left, valid where their segment is not zero."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from alignjax.core import struct
from alignjax.models import delta_rule, gated_delta, short_conv
from alignjax.parallel import axes

States = gated_delta.States | short_conv.States


@struct.pytree
class KVCache:
    """Keys [L, B, K, S, H] and values [L, B, K, S, U]; position and segment [B, S] of every slot.

    Slots stand beside the head's own axis, so that accelerators read a layer where it lies.
    Latent attention keeps its latents as keys and the rotated keys as values, K = 1 for all heads.

    Layers without keys keep `states` instead, None where there are none; L counts the others.
    `wide`: keys and values of layers whose heads have other sizes (`WideConfig`), likewise.
    Layers that see another one's keys keep nothing.

    index: slots written so far. One number for all rows: ragged rows leave slots of segment 0. Or
    [B], one a row: rows are contiguous, and padding is not written.
    read: how many slots queries see, that more were not written; 0 is all.
    """

    keys: jax.Array
    values: jax.Array
    positions: jax.Array
    segments: jax.Array
    index: jax.Array
    states: States | None = None
    wide: "KeysValues | None" = None
    read: int = struct.static(default=0)

    def seen(self, x: jax.Array, axis: int = 1) -> jax.Array:
        """An array of all slots along `axis`, without those that queries do not see."""
        return jax.lax.slice_in_dim(x, 0, self.read or x.shape[axis], axis=axis)


class Both(NamedTuple):
    """The caches of two models that read the same rows."""

    first: Any
    second: Any


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
        return blocks(layers, batch, length, size, dtype, heads=heads)

    def slots() -> jax.Array:
        return axes.shard(jnp.zeros((batch, length), jnp.int32), "batch slot")

    return KVCache(
        keys=zeros(key),
        values=zeros(value),
        positions=slots(),
        segments=slots(),
        index=jnp.zeros((), jnp.int32),
    )


def blocks(
    layers: int, batch: int, length: int, size: tuple[int, int], dtype: Any, *, heads: str = "kv"
) -> jax.Array:
    """Zeros [L, B, K, S, H] for keys or values of `length` slots; size: (K, H)."""
    block = jnp.zeros((layers, batch, size[0], length, size[1]), dtype)
    return axes.shard(block, f"layers batch {heads} slot head")


def by_row(cache: KVCache, written: jax.Array) -> KVCache:
    """The cache with an index of every row's own, `written` [B] slots of it."""
    return struct.replace(cache, index=written.astype(jnp.int32))


def next_slots(cache: KVCache, segments: jax.Array) -> jax.Array:
    """Where T new tokens are written: the first slot, or with an index a row the slots [B, T].

    segments: [B, T] of the tokens; padding gets the slot behind the last, where nothing is written.
    """
    if not cache.index.ndim:
        return cache.index
    real = segments > 0
    slots = cache.index[:, None] + jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1
    return jnp.where(real, slots, cache.positions.shape[1])


def extend(cache: KVCache, slots: jax.Array, positions: jax.Array, segments: jax.Array) -> KVCache:
    """The cache with the positions and segments [B, T] of new tokens; slots: of `next_slots`."""

    def put(kept: jax.Array, at: jax.Array, new: jax.Array) -> jax.Array:
        rows = jnp.arange(len(at), dtype=jnp.int32)[:, None]
        return kept.at[rows, at].set(new, mode="drop")

    if slots.ndim:
        names = "batch slot"
        write = axes.per_shard(put, (names, names, names), names)
    else:
        write = functools.partial(_put_slice, axis=1)
    return struct.replace(
        cache,
        positions=write(cache.positions, slots, positions.astype(jnp.int32)),
        segments=write(cache.segments, slots, segments.astype(jnp.int32)),
    )


def _put_slice(kept: jax.Array, at: jax.Array, new: jax.Array, *, axis: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(kept, new, at, axis)


def write(blocks: jax.Array, layer: jax.Array, slots: jax.Array, new: jax.Array) -> jax.Array:
    """All layers' keys (or values) with `new` [B, K, T, H] put into one layer at `next_slots`."""
    new = new.astype(blocks.dtype)
    if slots.ndim:
        written = _by_row(blocks, layer, slots, new)
    else:
        zero = jnp.zeros((), jnp.int32)
        written = jax.lax.dynamic_update_slice(blocks, new[None], (layer, zero, zero, slots, zero))
    # Left to itself libtpu puts the rows next to the heads' own axis, which suits the write of one
    # slot, and then copies every layer's keys and values for each token.
    return axes.in_memory(written, tuple(range(written.ndim)))


def _by_row(blocks: jax.Array, layer: jax.Array, slots: jax.Array, new: jax.Array) -> jax.Array:
    """`write` with slots [B, T] of each row."""

    def put(blocks: Any, layer: Any, slots: Any, new: Any) -> Any:
        rows = jnp.arange(len(slots), dtype=jnp.int32)[:, None]
        return blocks.at[layer, rows, :, slots].set(jnp.swapaxes(new, 1, 2), mode="drop")

    if not axes.has_mesh():
        return put(blocks, layer, slots, new)
    where = jax.typeof(blocks).sharding.spec
    inputs = (where, PartitionSpec(), "batch slot", PartitionSpec(*where[1:]))
    return axes.per_shard(put, inputs, where)(blocks, layer, slots, new)


def advance(
    cache: KVCache,
    stored: "KeysValues",
    segments: jax.Array,
    states: States | None = None,
    wide: "KeysValues | None" = None,
) -> KVCache:
    """The cache with all layers' keys, values and states of new tokens [B, T], now behind it."""
    if cache.index.ndim:
        index = cache.index + jnp.sum(segments > 0, axis=1, dtype=jnp.int32)
    else:
        index = cache.index + segments.shape[1]
    states = None if states is None else behind(states, segments)
    kept = {"keys": stored.keys, "values": stored.values, "wide": wide}
    return struct.replace(cache, **kept, index=index, states=states)


def behind(states: Any, segments: jax.Array) -> Any:
    """The states behind new tokens of segments [B, T]."""
    last = axes.per_shard(delta_rule.latest, ("batch slot", "batch"), "batch")
    whole = axes.shard(segments.astype(jnp.int32), "batch slot")
    return struct.replace(states, last=last(whole, states.last))


class KeysValues(NamedTuple):
    """Keys [B, K, S, H] and values [B, K, S, U] of a layer; with a leading axis of all layers."""

    keys: jax.Array
    values: jax.Array


class Memory(NamedTuple):
    """Where one layer's keys and values, or its state, are kept.

    stored: all layers' cached ones, or None without a cache. lent: those of the layer that a layer
    without keys sees, where there is no cache; else None. layer: the layer's place among those of
    its mixer. slots: where new ones are written, of `next_slots`. read: slots that queries see,
    0 is all. segments: [B, T] of the new tokens. states: all layers', or None without a cache.
    """

    stored: KeysValues | None
    layer: jax.Array
    slots: jax.Array | None
    read: int = 0
    segments: jax.Array | None = None
    states: States | None = None
    lent: KeysValues | None = None

    def extend(self, key: jax.Array, value: jax.Array) -> tuple[KeysValues, KeysValues | None]:
        """(the keys and values that the layer's queries attend to, `stored` with the new ones).

        key [B, T, K, H] and value [B, T, K, U] of T new tokens. Without a cache the queries attend
        to these alone.
        """
        new = KeysValues(jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2))
        if self.stored is None or self.slots is None:
            return new, None
        stored = KeysValues(
            write(self.stored.keys, self.layer, self.slots, new.keys),
            write(self.stored.values, self.layer, self.slots, new.values),
        )
        return self._of_layer(stored), stored

    def shown(self) -> KeysValues:
        """The keys and values of the layer that this one sees in place of its own."""
        if self.stored is not None:
            return self._of_layer(self.stored)
        if self.lent is None:
            raise ValueError("a layer without keys must be behind the layer that it sees (Memory).")
        return self.lent

    def _of_layer(self, stored: KeysValues) -> KeysValues:
        own = (jax.lax.dynamic_index_in_dim(b, self.layer, 0, keepdims=False) for b in stored)
        count = self.read or stored.keys.shape[3]
        return KeysValues(*(jax.lax.slice_in_dim(x, 0, count, axis=2) for x in own))

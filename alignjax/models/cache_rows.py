"""Rows of caches: each several times over, some of them alone, or in the places of others."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from alignjax.core import struct
from alignjax.models import cache, token_cache
from alignjax.parallel import axes


class Place(NamedTuple):
    """Axes of a leaf of a cache: of rows, None where there is none, and of slots, None likewise."""

    row: int | None
    slot: int | None = None


def is_ours(kept: Any) -> bool:
    """Whether the rows of a cache can be told apart: a Flax model may have one of its own."""
    if isinstance(kept, cache.Both):
        return is_ours(kept.first) and is_ours(kept.second)
    return isinstance(kept, cache.KVCache | token_cache.TokenCache)


def places(kept: Any) -> list[Place]:
    """The axes of every leaf."""
    if isinstance(kept, cache.Both):
        return [*places(kept.first), *places(kept.second)]
    if isinstance(kept, cache.KVCache):
        index = Place(0 if kept.index.ndim else None)
        count = len(jax.tree.leaves(kept.states))  # the last of them is of rows alone
        states = [*[Place(1)] * (count - 1), Place(0)] if count else []
        wide = [] if kept.wide is None else [Place(1, 3), Place(1, 3)]
        return [Place(1, 3), Place(1, 3), Place(0, 1), Place(0, 1), index, *states, *wide]
    return [Place(0, 1), Place(0, 1), Place(0, 1), Place(0)]


def by_row(kept: Any, written: jax.Array) -> Any:
    """A cache whose rows are written each at its own slot, of which `written` [B] are."""
    if isinstance(kept, cache.Both):
        return cache.Both(by_row(kept.first, written), by_row(kept.second, written))
    return cache.by_row(kept, written) if isinstance(kept, cache.KVCache) else kept


def reading(kept: Any, slots: int) -> Any:
    """A cache whose queries see the first slots only, all if 0; more must not be written."""
    if isinstance(kept, cache.Both):
        return cache.Both(reading(kept.first, slots), reading(kept.second, slots))
    return struct.replace(kept, read=slots)


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
        x if place.row is None else repeated(x, count, place.row)
        for x, place in zip(leaves, places(kept), strict=True)
    ]
    return jax.tree.unflatten(structure, wide)


def take(kept: Any, rows: jax.Array) -> Any:
    """A cache of the rows [B'] of one of B.

    On a mesh a device counts its own rows from 0 and keeps some of them: none moves to another.
    """
    leaves, structure = jax.tree.flatten(kept)
    found = [
        x if place.row is None else taken(x, rows, place.row)
        for x, place in zip(leaves, places(kept), strict=True)
    ]
    return jax.tree.unflatten(structure, found)


def taken(x: jax.Array, rows: jax.Array, axis: int = 0) -> jax.Array:
    """Entries of an array along its axis of rows, that a device counts from 0 for itself."""

    def own(x: jax.Array, rows: jax.Array) -> jax.Array:
        return jnp.take(x, rows, axis=axis, mode="clip")

    where = _spec(x)
    return axes.per_shard(own, (where, "batch"), where)(x, rows)


def put(kept: Any, other: Any, to: jax.Array, source: jax.Array, count: jax.Array) -> Any:
    """A cache with rows of another one, of fewer slots, in the places of some of its own.

    What a place held before is gone: its slots behind the new row's are of segment 0.

    to, source: [B] int; the first `count` (an array of one number a shard of the rows) of them are
    pairs of a row of `kept` and one of `other`. A device counts its own rows from 0.
    """
    leaves, structure = jax.tree.flatten(kept)
    others, where = jax.tree.leaves(other), places(kept)

    def own(leaves: Any, others: Any, to: Any, source: Any, count: Any) -> Any:
        def one(number: jax.Array, leaves: Any) -> Any:
            return [
                _put_row(x, new, to[number], source[number], place)
                for x, new, place in zip(leaves, others, where, strict=True)
            ]

        return jax.lax.fori_loop(0, count[0], one, leaves)

    specs = [_spec(x) for x in leaves]
    inputs = (specs, [_spec(x) for x in others], "batch", "batch", "batch")
    filled = axes.per_shard(own, inputs, specs)(leaves, others, to, source, count)
    return jax.tree.unflatten(structure, filled)


def _put_row(
    x: jax.Array, new: jax.Array, to: jax.Array, source: jax.Array, place: Place
) -> jax.Array:
    """A leaf with a row of another; numbers of slots go to the end of the row, and clear it."""
    row = jax.lax.dynamic_slice_in_dim(new, source, 1, place.row or 0)
    if place.slot is not None and x.ndim == 2:
        row = cleared(row, x.shape[1])
    at = [jnp.zeros((), jnp.int32)] * x.ndim
    at[place.row or 0] = to
    return jax.lax.dynamic_update_slice(x, row, at)


def cleared(row: jax.Array, slots: int) -> jax.Array:
    """Tokens, positions or segments [1, S] of a row, with zeros up to `slots` behind them."""
    return jnp.pad(row, ((0, 0), (0, slots - row.shape[1])))


def _spec(x: jax.Array) -> PartitionSpec:
    return jax.typeof(x).sharding.spec if axes.has_mesh() else PartitionSpec()

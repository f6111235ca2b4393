"""Attention in tiles of queries and keys, forward and backward, in plain JAX: for any sight.

Scores of whole rows never exist. Tiles of keys that no query of a tile sees are skipped, as the
data at hand says: those that are later, of other segments or behind the window, on rows read whole,
packed, padded or with a cache.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from alignjax.core import struct
from alignjax.models import sight as sights
from alignjax.parallel import axes

# Queries and keys of a tile. A CPU's tile of all heads at once should stay near its cores; on
# others a step of a loop costs more than the scores that it skips.
CPU_TILE, TILE = 128, 512
CPU_BYTES = 640 * 2**10  # fp32 scores of one step: larger ones took 1.1 to 1.5 times as long
# Below every score and far from overflow; a hidden score, which is lower still, then weighs exp of
# minus infinity against it: nothing.
_LOW, _HIDDEN = -1e30, jnp.finfo(jnp.float32).min


class _Sizes(NamedTuple):
    """Of tiles: queries, keys; of a step: rows, heads of keys. And the scores' two numbers."""

    queries: int
    keys: int
    rows: int
    heads: int
    scale: float
    softcap: float


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    seen: sights.Sight,
    *,
    scale: float,
    softcap: float = 0.0,
    sinks: jax.Array | None = None,
    tile: int = 0,
) -> jax.Array:
    """softmax(softcap tanh(scale q k / softcap)) v, with fp32 scores; no cap where softcap is 0.

    Args:
      query: [B, T, K, G, H]. key: [B, K, S, H]. value: [B, K, S, U]. seen: of T queries, S keys.
      sinks: [K, G], one more score of each softmax, uncapped and with a value of 0; or None.
      tile: queries and keys of a tile at most; 0 chooses by the platform.

    Returns:
      [B, T, K, G, U]; 0 of a query that sees nothing. It keeps for its gradient its arguments, this
      result and the logsumexp of the scores and the sink [B, T, K, G].

    Reference: Dao 2023 (FlashAttention-2), algorithms 1 and 2; Gemma Team 2024 (soft cap).
    """
    near, far = "batch time kv group head", "batch kv slot head"
    own: Any = "batch time"
    other: Any = "batch slot"
    places = sights.Sight(
        positions=own, segments=own, earliest=own, key_positions=other, key_segments=other
    )
    most = tile or (CPU_TILE if axes.platform() == "cpu" else TILE)
    local = functools.partial(_local, scale=scale, softcap=softcap, most=most)
    own_sinks = None if sinks is None else "kv group"
    inputs = (near, far, far, own_sinks, places)
    run = axes.per_shard(local, inputs, near, replication=False)
    key, value = axes.shard(key, far), axes.shard(value, far)
    seen = struct.replace(
        seen,
        key_positions=axes.shard(seen.key_positions, other),
        key_segments=axes.shard(seen.key_segments, other),
    )
    return run(query, key, value, sinks, seen)


def _even(length: int, most: int) -> int:
    """The size of equal tiles of at most `most`, with little behind the end."""
    tiles = -(-length // most)
    return -(-length // (8 * tiles)) * 8


def _divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most `most`, or 1."""
    return next((n for n in range(min(number, most), 1, -1) if number % n == 0), 1)


def _local(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sinks: jax.Array | None,
    seen: sights.Sight,
    *,
    scale: float,
    softcap: float,
    most: int,
) -> jax.Array:
    """`attend` of one device's part."""
    rows, length, kv, group = query.shape[:4]
    by = _even(length, most), _even(key.shape[2], most)
    heads = kv
    if axes.platform() == "cpu":
        fit = max(CPU_BYTES // (4 * math.prod(by) * group), 1)
        heads = _divisor(kv, fit)
        rows = _divisor(rows, fit // kv)
    sizes = _Sizes(*by, rows, heads, scale, softcap)

    def pad(x: jax.Array, axis: int, size: int) -> jax.Array:
        more = -x.shape[axis] % size
        return jnp.pad(x, [(0, more if n == axis else 0) for n in range(x.ndim)]) if more else x

    places = sights.Sight(
        positions=pad(seen.positions, 1, by[0]),
        segments=pad(seen.segments, 1, by[0]),
        earliest=pad(seen.earliest, 1, by[0]),
        key_positions=pad(seen.key_positions, 1, by[1]),
        key_segments=pad(seen.key_segments, 1, by[1]),
    )
    arrays = pad(query, 1, by[0]), pad(key, 2, by[1]), pad(value, 2, by[1])
    return _attend(sizes, *arrays, sinks, places)[:, :length]


def _bounds(sizes: _Sizes, seen: sights.Sight) -> tuple[jax.Array, jax.Array]:
    """First and one behind the last tile of keys [steps of rows, tiles of queries] that may be
    seen; all others are not, whatever the data.

    A query sees of its own segment a range of positions, so of the numbers segment * (largest
    position + 1) + position a range, which begins in its trunk if it has one. Rounded they keep
    their order: a tile whose numbers all lie outside of all ranges holds nothing that is seen.
    """
    last = jnp.maximum(jnp.max(seen.positions), jnp.max(seen.key_positions))
    span = last.astype(jnp.float32) + 1

    def number(segments: jax.Array, positions: jax.Array) -> jax.Array:
        return segments.astype(jnp.float32) * span + positions.astype(jnp.float32)

    def tiles(x: jax.Array, size: int, reduce: Any) -> jax.Array:
        by = x.reshape(x.shape[0] // sizes.rows, sizes.rows, x.shape[1] // size, size)
        return reduce(by, axis=(1, 3))

    real, every = seen.segments > 0, seen.key_segments == sights.EVERY
    earliest = jnp.maximum(seen.earliest, jnp.min(seen.key_positions))
    trunk = sights.trunk(seen.segments)
    begin = jnp.where(trunk > 0, trunk, seen.segments)
    low = jnp.where(real, number(begin, earliest), jnp.inf)
    high = jnp.where(real, number(seen.segments, seen.positions), -jnp.inf)
    keys = number(seen.key_segments, seen.key_positions)
    least = jnp.where(seen.key_segments > 0, keys, jnp.where(every, -jnp.inf, jnp.inf))
    most = jnp.where(seen.key_segments > 0, keys, jnp.where(every, jnp.inf, -jnp.inf))
    below = (
        tiles(least, sizes.keys, jnp.min)[:, None] <= tiles(high, sizes.queries, jnp.max)[..., None]
    )
    above = (
        tiles(most, sizes.keys, jnp.max)[:, None] >= tiles(low, sizes.queries, jnp.min)[..., None]
    )
    maybe, count = below & above, keys.shape[1] // sizes.keys
    some = jnp.any(maybe, axis=-1)
    first = jnp.where(some, jnp.argmax(maybe, axis=-1), 0)
    end = jnp.where(some, count - jnp.argmax(maybe[..., ::-1], axis=-1), 0)
    return first.astype(jnp.int32), end.astype(jnp.int32)


class _Step(NamedTuple):
    """Where one step of the outer loop is: first row, first head of keys, first query."""

    row: jax.Array
    head: jax.Array
    query: jax.Array
    tiles: tuple[jax.Array, jax.Array]  # of keys: the first and one behind the last


def _outer(sizes: _Sizes, shape: tuple[int, ...], seen: sights.Sight, body: Any, carry: Any) -> Any:
    """body(step, carry) for all rows, heads and tiles of queries; shape: of the queries."""
    tiles, heads = shape[1] // sizes.queries, shape[2] // sizes.heads
    first, end = _bounds(sizes, seen)

    def step(n: jax.Array, carry: Any) -> Any:
        by, tile = n // tiles, n % tiles
        row, head = by // heads, by % heads
        place = row * sizes.rows, head * sizes.heads, tile * sizes.queries
        return body(_Step(*place, (first[row, tile], end[row, tile])), carry)

    return jax.lax.fori_loop(0, shape[0] // sizes.rows * heads * tiles, step, carry)


def _near(sizes: _Sizes, step: _Step, x: jax.Array) -> jax.Array:
    """A tile [rows x heads, G x queries, N] of [B, T, K, G, N]."""
    _, _, _, g, n = x.shape
    zero = jnp.zeros((), jnp.int32)
    at, size = (step.row, step.query, step.head, zero, zero), (sizes.rows, sizes.queries)
    part = jax.lax.dynamic_slice(x, at, (*size, sizes.heads, g, n))
    return part.transpose(0, 2, 3, 1, 4).reshape(sizes.rows * sizes.heads, g * sizes.queries, n)


def _put_near(sizes: _Sizes, step: _Step, x: jax.Array, part: jax.Array) -> jax.Array:
    """x [B, T, K, G, N] with a tile of `_near` in its place."""
    _, _, _, g, n = x.shape
    part = part.reshape(sizes.rows, sizes.heads, g, sizes.queries, n).transpose(0, 3, 1, 2, 4)
    zero = jnp.zeros((), jnp.int32)
    at = (step.row, step.query, step.head, zero, zero)
    return jax.lax.dynamic_update_slice(x, part.astype(x.dtype), at)


def _far(sizes: _Sizes, step: _Step, tile: jax.Array, x: jax.Array) -> jax.Array:
    """A tile [rows x heads, keys, N] of [B, K, S, N]."""
    at = (step.row, step.head, tile * sizes.keys, jnp.zeros((), jnp.int32))
    part = jax.lax.dynamic_slice(x, at, (sizes.rows, sizes.heads, sizes.keys, x.shape[3]))
    return part.reshape(sizes.rows * sizes.heads, sizes.keys, x.shape[3])


def _mask(sizes: _Sizes, step: _Step, tile: jax.Array, seen: sights.Sight, group: int) -> jax.Array:
    """[rows x heads, G x queries, keys]: what is seen in a pair of tiles."""

    def near(x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(x, (step.row, step.query), (sizes.rows, sizes.queries))

    def far(x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(x, (step.row, tile * sizes.keys), (sizes.rows, sizes.keys))

    part = sights.Sight(
        positions=near(seen.positions),
        segments=near(seen.segments),
        earliest=near(seen.earliest),
        key_positions=far(seen.key_positions),
        key_segments=far(seen.key_segments),
    )
    mask = sights.visible(part)[:, None, None]
    shape = (sizes.rows, sizes.heads, group, sizes.queries, sizes.keys)
    return jnp.broadcast_to(mask, shape).reshape(
        sizes.rows * sizes.heads, group * sizes.queries, sizes.keys
    )


def _dot(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
    """The products of matrices, one for each row and head, summed over an axis of each; fp32."""
    contract = ((over[0],), (over[1],))
    return jax.lax.dot_general(a, b, (contract, ((0,), (0,))), preferred_element_type=jnp.float32)


def _scores(sizes: _Sizes, query: jax.Array, key: jax.Array) -> jax.Array:
    """[rows x heads, G x queries, keys] fp32, capped."""
    scores = sizes.scale * _dot(query, key, (2, 2))
    return sizes.softcap * jnp.tanh(scores / sizes.softcap) if sizes.softcap else scores


def _start(sizes: _Sizes, step: _Step, sinks: Any, group: int) -> tuple[jax.Array, jax.Array]:
    """(the largest score, the sum of exponentials) before any key: [rows x heads, G x queries, 1].

    A sink is there from the start: then no sum is ever 0."""
    shape = (sizes.rows, sizes.heads, group, sizes.queries)
    flat = (sizes.rows * sizes.heads, group * sizes.queries, 1)
    if sinks is None:
        return jnp.full(flat, _LOW, jnp.float32), jnp.zeros(flat, jnp.float32)
    at = (step.head, jnp.zeros((), jnp.int32))
    own = jax.lax.dynamic_slice(sinks.astype(jnp.float32), at, (sizes.heads, group))
    return jnp.broadcast_to(own[None, :, :, None], shape).reshape(flat), jnp.ones(flat, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    sizes: _Sizes,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sinks: jax.Array | None,
    seen: sights.Sight,
) -> jax.Array:
    return _forward(sizes, query, key, value, sinks, seen)[0]


def _forward(
    sizes: _Sizes,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sinks: jax.Array | None,
    seen: sights.Sight,
) -> tuple[jax.Array, jax.Array]:
    """(the mixtures [B, T, K, G, U], the logsumexp [B, T, K, G, 1] of the scores)."""
    group, width = query.shape[3], value.shape[3]
    near = (sizes.rows * sizes.heads, group * sizes.queries)

    def one(step: _Step, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        own = _near(sizes, step, query)

        def add_tile(tile: jax.Array, carry: Any) -> Any:
            mixed, largest, total = carry
            keys, values = (_far(sizes, step, tile, x) for x in (key, value))
            mask = _mask(sizes, step, tile, seen, group)
            scores = jnp.where(mask, _scores(sizes, own, keys), _HIDDEN)
            new = jnp.maximum(largest, jnp.max(scores, axis=-1, keepdims=True))
            weights, before = jnp.exp(scores - new), jnp.exp(largest - new)
            total = total * before + jnp.sum(weights, axis=-1, keepdims=True)
            mixed = mixed * before + _dot(weights.astype(value.dtype), values, (2, 1))
            return mixed, new, total

        start = jnp.zeros((*near, width), jnp.float32), *_start(sizes, step, sinks, group)
        mixed, largest, total = jax.lax.fori_loop(*step.tiles, add_tile, start)
        total = jnp.where(total > 0, total, 1.0)
        logsumexp = largest + jnp.log(total)
        return (
            _put_near(sizes, step, carry[0], mixed / total),
            _put_near(sizes, step, carry[1], logsumexp),
        )

    shape = query.shape
    blank = (
        jnp.zeros((*shape[:4], width), value.dtype),
        jnp.zeros((*shape[:4], 1), jnp.float32),
    )
    return _outer(sizes, shape, seen, one, blank)


def _attend_fwd(
    sizes: _Sizes,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    sinks: jax.Array | None,
    seen: sights.Sight,
) -> tuple[jax.Array, tuple[Any, ...]]:
    found = _forward(sizes, query, key, value, sinks, seen)
    mixed, logsumexp = (checkpoint_name(x, "mixed") for x in found)
    return mixed, (query, key, value, sinks, seen, mixed, logsumexp)


def _attend_bwd(sizes: _Sizes, kept: tuple[Any, ...], cotangent: jax.Array) -> tuple[Any, ...]:
    """With p = exp(s - logsumexp): dv = p^T do; ds = p (do v^T - sum(do out)), times the cap's
    slope; dq = scale ds k; dk = scale ds^T q; a sink, whose value is 0, gets -p sum(do out).
    Gradients of keys and values are summed turned, [B, K, N, S], as their products come without a
    transposed copy of p or ds."""
    query, key, value, sinks, seen, mixed, logsumexp = kept
    group = query.shape[3]
    wide = cotangent.astype(jnp.float32) * mixed.astype(jnp.float32)
    inner = jnp.sum(wide, axis=-1, keepdims=True)

    def one(step: _Step, carry: Any) -> Any:
        own, by_mixed = _near(sizes, step, query), _near(sizes, step, cotangent)
        level, base = _near(sizes, step, logsumexp), _near(sizes, step, inner)
        turned = jnp.swapaxes(own, 1, 2), jnp.swapaxes(by_mixed, 1, 2)

        def add_tile(tile: jax.Array, carry: Any) -> Any:
            by_query, by_key, by_value = carry
            keys, values = (_far(sizes, step, tile, x) for x in (key, value))
            mask = _mask(sizes, step, tile, seen, group)
            scores = _scores(sizes, own, keys)
            weights = jnp.where(mask, jnp.exp(scores - level), 0.0)
            slope = weights * (_dot(by_mixed, values, (2, 2)) - base)
            if sizes.softcap:
                bent = scores / sizes.softcap
                slope = slope * (1 - bent * bent)
            slope = slope.astype(query.dtype)

            def add(total: jax.Array, more: jax.Array) -> jax.Array:
                shape = (sizes.rows, sizes.heads, total.shape[2], sizes.keys)
                at = (step.row, step.head, jnp.zeros((), jnp.int32), tile * sizes.keys)
                more = jax.lax.dynamic_slice(total, at, shape) + more.reshape(shape)
                return jax.lax.dynamic_update_slice(total, more, at)

            return (
                by_query + _dot(slope, keys, (2, 1)),
                add(by_key, _dot(turned[0], slope, (2, 1))),
                add(by_value, _dot(turned[1], weights.astype(value.dtype), (2, 1))),
            )

        start = jnp.zeros(own.shape, jnp.float32)
        by_query, *others = jax.lax.fori_loop(*step.tiles, add_tile, (start, *carry[1:]))
        return _put_near(sizes, step, carry[0], sizes.scale * by_query), *others

    def blank(x: jax.Array) -> jax.Array:
        return jnp.zeros((*x.shape[:2], x.shape[3], x.shape[2]), jnp.float32)

    start = jnp.zeros_like(query), blank(key), blank(value)
    by_query, by_key, by_value = _outer(sizes, query.shape, seen, one, start)
    by_key = sizes.scale * jnp.swapaxes(by_key, 2, 3)
    by_value = jnp.swapaxes(by_value, 2, 3)
    by_sinks = None
    if sinks is not None:
        taken = jnp.exp(sinks.astype(jnp.float32)[..., None] - logsumexp)
        by_sinks = -jnp.sum(taken * inner, axis=(0, 1, 4)).astype(sinks.dtype)
    return by_query, by_key.astype(key.dtype), by_value.astype(value.dtype), by_sinks, None


_attend.defvjp(_attend_fwd, _attend_bwd)

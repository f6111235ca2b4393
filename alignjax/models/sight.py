"""Which keys a query sees: the one place that knows the rules of all kinds of layer."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct

EVERY = -1  # segment of a key that every query sees, at any distance
# Segments n * BRANCHES + b, n and b from 1 on, are branches: each sees the trunk n * BRANCHES too,
# whose positions come before its own. Models say whether they read such rows (`Model.branches`).
BRANCHES = 1 << 16


@struct.pytree
class Sight:
    """What decides it: a position, a segment and the earliest position seen of each query [B, T],
    a position and a segment of each key [B, S]; all int32.

    Positions and segments decide, never slots: packed rows, padding on either side and a cache
    with gaps are all the same case.
    """

    positions: jax.Array
    segments: jax.Array
    earliest: jax.Array
    key_positions: jax.Array
    key_segments: jax.Array


def sight(
    positions: jax.Array,
    segments: jax.Array,
    key_positions: jax.Array,
    key_segments: jax.Array,
    *,
    kind: str = "full",
    window: int = 0,
) -> Sight:
    """The sight of queries in a layer of one kind.

    A "sliding" layer sees the last `window` positions, a "chunked" one those of its own chunk.
    """
    positions, segments, key_positions, key_segments = (
        x.astype(jnp.int32) for x in (positions, segments, key_positions, key_segments)
    )
    if kind == "sliding":
        earliest = positions - window + 1
    elif kind == "chunked":
        earliest = positions // window * window
    else:
        earliest = jnp.full_like(positions, jnp.iinfo(jnp.int32).min)
    return Sight(
        positions=positions,
        segments=segments,
        earliest=earliest,
        key_positions=key_positions,
        key_segments=key_segments,
    )


def trunk(segments: jax.Array) -> jax.Array:
    """The trunk of each branch, a trunk's own number, and 0 for all other segments."""
    return segments - segments % BRANCHES


def visible(seen: Sight) -> jax.Array:
    """[B, T, S]: whether a query sees a key: of its own non-zero segment or of that one's trunk,
    not later than itself and not before the earliest position that it sees."""
    segment, key_segment = seen.segments[:, :, None], seen.key_segments[:, None]
    place = seen.key_positions[:, None]
    own = (segment == key_segment) | (trunk(segment) == key_segment)
    own &= (segment > 0) & (key_segment > 0)
    within = (place <= seen.positions[:, :, None]) & (place >= seen.earliest[:, :, None])
    return own & within | (key_segment == EVERY)


def preceded(seen: Any, count: int) -> Any:
    """A sight, or a mask [B, T, S], of `count` keys that every query sees, and then the others."""
    if not isinstance(seen, Sight):
        return jnp.concatenate([only(seen, count), seen], axis=-1)
    before = only(seen, count)
    return struct.replace(
        seen,
        key_positions=jnp.concatenate([before.key_positions, seen.key_positions], axis=1),
        key_segments=jnp.concatenate([before.key_segments, seen.key_segments], axis=1),
    )


def only(seen: Any, count: int) -> Any:
    """A sight, or a mask [B, T, S], of `count` keys alone that every query sees."""
    if not isinstance(seen, Sight):
        return jnp.zeros_like(seen[:, :, :1]) | jnp.ones((count,), jnp.bool_)
    none = jnp.zeros_like(seen.key_segments[:, :1]) + jnp.zeros((count,), jnp.int32)
    return struct.replace(seen, key_positions=none, key_segments=none + EVERY)

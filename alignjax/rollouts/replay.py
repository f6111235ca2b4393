"""Groups of earlier steps, which stand in for groups without signal."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import struct
from alignjax.losses import inputs
from alignjax.parallel import axes
from alignjax.rollouts import rollouts, settings


@struct.pytree
class Stored:
    """The newest informative groups, newest first: K groups of G rows, whole on every device.

    samples, reward, valid, greedy: as in `rollouts.Groups`. count: how many of the K are there.
    """

    samples: rollouts.Rollouts
    reward: jax.Array
    valid: jax.Array
    greedy: jax.Array | None
    count: jax.Array


def empty(config: settings.GroupConfig, width: int) -> Stored:
    """The store before the first step; width: tokens of a row, its prompt included."""
    rows = config.replay * config.group
    number, flag = np.zeros(rows, np.int32), np.zeros(rows, bool)
    real = np.zeros(rows, np.float32)
    wide = np.zeros((rows, width), np.int32)
    samples: Any = {
        "tokens": wide,
        "mask": wide.astype(bool),
        "logprobs": wide.astype(np.float32),
        "ended": flag,
        "returns": real,
        **dict.fromkeys(("lengths", "prompt_lengths", "task", "version", "turns"), number),
    }
    parts: Any = {
        "samples": rollouts.Rollouts(**samples),
        "reward": real,
        "valid": flag,
        "greedy": real if config.reads_greedy else None,
        "count": np.int32(0),
    }
    return Stored(**parts)


def stand_in(
    config: settings.GroupConfig, chosen: rollouts.Groups, kept: jax.Array, stored: Stored
) -> tuple[rollouts.Groups, jax.Array]:
    """(the chosen groups, which of them [K] are stored ones): the newest, for those not `kept` [K].

    A group stands in once a step at most; where too few are stored, the others stay as they are.
    """
    free = ~inputs.gathered(kept)
    source = jnp.cumsum(free) - 1
    used = free & (source < stored.count)
    source = jnp.where(used, source, 0)
    rows = rollouts.rows_of(source, config.group)
    own = (stored.samples, stored.reward, stored.valid, stored.greedy)
    old = jax.tree.map(lambda x: _take(x, rows, "batch"), own)
    replayed = axes.shard(jnp.repeat(used, config.group), "batch")

    def either(new: jax.Array, old: jax.Array) -> jax.Array:
        flag = replayed.reshape(-1, *[1] * (new.ndim - 1))
        return jnp.where(flag, old, new)

    samples, reward, valid, greedy = jax.tree.map(
        either, (chosen.samples, chosen.reward, chosen.valid, chosen.greedy), old
    )
    samples = struct.replace(samples, mask=samples.mask & valid[:, None])
    parts = {name: jnp.where(replayed, jnp.nan, x) for name, x in chosen.parts.items()}
    groups = rollouts.Groups(samples, reward, valid, parts, greedy, replayed)
    return groups, rollouts.in_groups(replayed, config.group)[:, 0]


def stored_after(
    config: settings.GroupConfig,
    sampled: rollouts.Groups,
    first: jax.Array,
    count: jax.Array,
    stored: Stored,
) -> Stored:
    """The store after a step: its informative groups before the older ones, the oldest leave.

    first: numbers of the sampled groups, `count` informative ones first.
    """
    size, room = config.group, config.replay
    newest = first[:room]
    fresh = jnp.minimum(count, newest.shape[0]).astype(jnp.int32)
    place = jnp.arange(room)
    source = jnp.where(place < fresh, place, newest.shape[0] + place - fresh)
    rows = rollouts.rows_of(source, size)
    new = (sampled.samples, sampled.reward, sampled.valid, sampled.greedy)
    new = jax.tree.map(lambda x: _take(x, rollouts.rows_of(newest, size), "slot"), new)
    old = (stored.samples, stored.reward, stored.valid, stored.greedy)

    def joined(new: jax.Array, old: jax.Array) -> jax.Array:
        return _take(jnp.concatenate([new, old]), rows, "slot")

    samples, reward, valid, greedy = jax.tree.map(joined, new, old)
    count = jnp.minimum(fresh + stored.count, room).astype(jnp.int32)
    return Stored(samples=samples, reward=reward, valid=valid, greedy=greedy, count=count)


def _take(x: jax.Array, rows: jax.Array, axis: str) -> jax.Array:
    return axes.take(x, rows, axis + " slot" * (x.ndim - 1))

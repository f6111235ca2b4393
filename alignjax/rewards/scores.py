"""Scores of sampled completions: a number, nothing, or a failure, never a silent 0."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Scores(NamedTuple):
    """What a reward function says of R rows.

    reward: [R] fp32, reward units; NaN where a row cannot be scored. parts: by name, [R], what the
    reward is made of. failed: [R] bool, rows whose verifier raised or ran out of time; their reward
    is NaN. problems: a few lines on failures.
    """

    reward: jax.Array
    parts: dict[str, jax.Array]
    failed: jax.Array
    problems: tuple[str, ...] = ()


def as_scores(returned: Any, rows: int) -> Scores:
    """The scores of a reward function that returned them, or a bare array [R].

    Raises:
      ValueError: there is not one number a row.
    """
    if isinstance(returned, Scores):
        return returned
    reward = jnp.asarray(returned, jnp.float32)
    if reward.shape != (rows,):
        raise ValueError(
            f"a reward function must return one number for each of {rows} rows; got an array of "
            f"shape {list(reward.shape)} (reward)."
        )
    return Scores(reward, {}, jnp.zeros_like(reward, jnp.bool_))

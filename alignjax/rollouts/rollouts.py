"""What was sampled, with what a method must know of it later."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.parallel import axes
from alignjax.sampling import generate
from alignjax.training import algorithm


@struct.pytree
class Rollouts(generate.Samples):
    """Samples of P prompts, G of each: R = P G rows, group-major (row p G + g).

    Beside the columns of `generate.Samples`: task [R]: the prompt's row number in its split;
    version [R]: steps of the policy that sampled; turns [R]: answers in the row; returns [R]: what
    an environment paid for them, 0 without one, NaN where it can't say.
    With an environment the mask is true on what was sampled alone, and `ended` means that it said
    so: a row is cut where its turns ran out, or where an observation found no room.
    A group is an axis of arrays, whatever its tokens: equal prompts stay groups of their own.
    """

    task: jax.Array
    version: jax.Array
    turns: jax.Array
    returns: jax.Array

    @property
    def cut(self) -> jax.Array:
        """[R] bool: rows that reached the limit without an end."""
        return ~self.ended


def repeated(x: jax.Array, size: int) -> jax.Array:
    """[P, ...] -> [P G, ...], each entry G times in a row."""
    if size == 1:
        return x
    wide = jnp.broadcast_to(x[:, None], (x.shape[0], size, *x.shape[1:]))
    return wide.reshape(x.shape[0] * size, *x.shape[1:])


def in_groups(x: jax.Array, size: int) -> jax.Array:
    """[P G, ...] -> [P, G, ...]."""
    return x.reshape(x.shape[0] // size, size, *x.shape[1:])


def of_samples(
    samples: generate.Samples,
    batch: algorithm.Batch,
    size: int,
    version: jax.Array,
    turns: jax.Array | None = None,
    returns: jax.Array | None = None,
) -> Rollouts:
    """Samples of a batch of prompts, `size` of each; version: steps of the policy.

    turns, returns: of episodes; None where every prompt was answered once.
    """
    index = batch["index"] if "index" in batch else jnp.arange(batch["lengths"].shape[0])
    return Rollouts(
        tokens=samples.tokens,
        mask=samples.mask,
        logprobs=samples.logprobs,
        lengths=samples.lengths,
        prompt_lengths=samples.prompt_lengths,
        ended=samples.ended,
        task=repeated(jnp.asarray(index, jnp.int32), size),
        version=jnp.zeros_like(samples.lengths) + version.astype(jnp.int32),
        turns=jnp.ones_like(samples.lengths) if turns is None else turns,
        returns=jnp.zeros_like(samples.lengths, jnp.float32) if returns is None else returns,
    )


def rows_of(groups: jax.Array, size: int) -> jax.Array:
    """[K] numbers of groups -> [K G] numbers of their rows."""
    return (groups[:, None] * size + jnp.arange(size)[None]).reshape(-1)


def taken(tree: Any, groups: jax.Array, size: int) -> Any:
    """The rows [K G, ...] of the chosen groups [K] of rows [P G, ...]."""
    rows = rows_of(groups, size)
    return jax.tree.map(lambda x: axes.take(x, rows, "batch" + " slot" * (x.ndim - 1)), tree)


class Groups(NamedTuple):
    """Groups with their rewards, R rows of G a group: the mask of a row that does not count is
    empty once they are chosen to train on.

    greedy: rewards of greedy answers to the prompts, None where no estimator reads them. replayed:
    rows of an earlier step, None where there are none.
    """

    samples: Rollouts
    reward: jax.Array  # [R], 0 where a row does not count
    valid: jax.Array  # [R] bool
    parts: dict[str, jax.Array]
    greedy: jax.Array | None  # [R]
    replayed: jax.Array | None = None  # [R] bool

"""What was sampled, with what a method must know of it later."""

import jax
import jax.numpy as jnp

from alignjax.core import struct
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

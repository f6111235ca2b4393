"""Votes on pairs: a batch's probabilities and weights, as losses on pairs read them."""

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.blocks import pair_scores
from alignjax.core import mean
from alignjax.training import algorithm

Arrays = dict[str, jax.Array]


def columns(batch: algorithm.Batch, mask: jax.Array) -> Arrays:
    """preference, ties, accuracies and pair_weight, [B P], where the batch has them.

    mask: [B, P], the comparisons; all of a row have its weight.
    """
    named = ("preference", "ties", "accuracies")
    arrays = {name: batch[name].reshape(-1) for name in named if name in batch}
    if "weight" in batch:
        arrays["pair_weight"] = jnp.broadcast_to(batch["weight"][:, None], mask.shape).reshape(-1)
    return arrays


def averaged(values: jax.Array, arrays: Arrays) -> mean.Mean:
    """The mean over the pairs that count, each at its weight."""
    return pair_scores.over_pairs(values, arrays)


def accuracy(chosen: jax.Array, rejected: jax.Array, arrays: Arrays) -> mean.Mean:
    """The share of votes that the scores [B P] agree with; equal scores count half."""
    right = losses.preference_accuracy(chosen, rejected)
    if "preference" in arrays:
        right = arrays["preference"] * right + (1 - arrays["preference"]) * (1 - right)
    return averaged(right, arrays)

"""BCO's shift on pairs: the running mean of the rewards of both answers, of whole batches."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.algorithms import votes
from alignjax.core import mean
from alignjax.models import model as models
from alignjax.training import algorithm, update

# (params, frozen, batch) -> chosen and rejected, rewards, and the masks and weights of
# comparisons, each [B, P].
Rewards = Callable[[models.Params, models.Frozen, algorithm.Batch], dict[str, jax.Array]]


def no_rewards() -> dict[str, np.ndarray]:
    """The carry at the start: the mean of all rewards so far, and how many answers they are of."""
    return {"mean": np.zeros((), np.float32), "weight": np.zeros((), np.float32)}


def joined(carry: Mapping[str, jax.Array], part: mean.Mean) -> dict[str, jax.Array]:
    """The carry with a batch's rewards in it."""
    weight = carry["weight"] + part.weight
    moved = (part.total - part.weight * carry["mean"]) / jnp.where(weight > 0, weight, 1.0)
    return {"mean": carry["mean"] + moved, "weight": weight}


def make_collect(rewards: Rewards, micro_batches: int) -> algorithm.Collect:
    """`collect` that adds the column shift, [B]: one number, this batch included, in every row.

    Half the sum of the running means of chosen and of rejected answers (Jung et al. 2024, section
    4) is the running mean of both, since a pair has one of each. A pair of weight w counts as w
    pairs.
    """

    @jax.jit
    def in_batch(params: models.Params, frozen: models.Frozen, batch: algorithm.Batch) -> mean.Mean:
        rows = update.in_chunks(
            lambda part: rewards(params, frozen, part), dict(batch), micro_batches
        )
        arrays = jax.tree.map(jnp.ravel, rows)
        good, bad = (votes.averaged(arrays[side], arrays) for side in ("chosen", "rejected"))
        return mean.Mean(total=good.total + bad.total, weight=good.weight + bad.weight)

    def collect(
        state: algorithm.TrainState,
        frozen: models.Frozen,
        batch: algorithm.Batch,
        key: jax.Array,
    ) -> tuple[algorithm.Batch, algorithm.Carry, algorithm.Metrics]:
        carry = joined(state.carry, in_batch(state.params, frozen, batch))
        column = batch["reference_logprobs"][:, 0, 0] * 0.0 + carry["mean"]
        return {**batch, "shift": column}, carry, {"shift": mean.single(carry["mean"])}

    return collect

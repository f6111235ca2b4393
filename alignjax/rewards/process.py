"""The score of a process reward model: the chances of an answer's steps, as one number."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import values
from alignjax.data import step_ends
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import axes
from alignjax.rewards import learned
from alignjax.sampling import generate
from alignjax.training import algorithm, update

# That every step is right, if one tells nothing of another; that of the worst step; of the last.
PRODUCT, LOWEST, LAST = "product", "min", "last"
JOINED = (PRODUCT, LOWEST, LAST)


def step_logits(
    model: models.Model, params: models.Params, batch: algorithm.Batch
) -> tuple[jax.Array, algorithm.Terms]:
    """(logits [B, T] that the step which ends with a token is right, the model's own losses)."""
    hidden, penalties = scoring.hidden_and_penalties(model, params, batch)
    return axes.shard(model.scalar(params, hidden), "batch slot"), penalties


def joined(logits: jax.Array, mask: jax.Array, how: str = PRODUCT) -> jax.Array:
    """[B] nats, at most 0: the log-probability of the steps of each row.

    product: sum over steps of log sig(z). min: the smallest of them. last: that of the last step.
    A row without a step has -inf: an empty product would be the best answer of all.

    Args:
      logits: [B, T]. mask: [B, T] bool, true where a step ends. how: product, min or last.

    Reference: Lightman et al. 2023, arXiv 2305.20050, appendix E (product and minimum); Uesato et
    al. 2022, arXiv 2211.14275 (last).
    """
    values.check_choice("how steps are joined", how, JOINED)
    each = jax.nn.log_sigmoid(logits.astype(jnp.float32))
    some = jnp.any(mask, axis=1)
    if how == PRODUCT:
        found = jnp.sum(jnp.where(mask, each, 0.0), axis=1)
    elif how == LOWEST:
        found = jnp.min(jnp.where(mask, each, 0.0), axis=1)
    else:
        slot = jnp.arange(mask.shape[1])[None]
        last = slot == jnp.max(jnp.where(mask, slot, -1), axis=1, keepdims=True)
        found = jnp.sum(jnp.where(last & mask, each, 0.0), axis=1)
    return jnp.where(some, found, -jnp.inf)


def make_score(
    model: models.Model,
    ends: step_ends.StepEnds,
    *,
    eos: int | Sequence[int],
    how: str = PRODUCT,
    chunks: int = 1,
) -> learned.Score:
    """Jitted (bound params, batch) -> [B]: `joined` over the steps inside each loss mask."""
    values.check_choice("how steps are joined", how, JOINED)

    @jax.jit
    def score(params: models.Params, batch: algorithm.Batch) -> jax.Array:
        def one(rows: algorithm.Batch) -> jax.Array:
            logits, _ = step_logits(model, params, rows)
            mask = step_ends.mask(ends, rows["tokens"], rows["loss_mask"], eos)
            return joined(logits, mask, how)

        return update.in_chunks(one, batch, chunks)

    return score


def process(
    model: models.Model,
    ends: step_ends.StepEnds,
    *,
    eos: int | Sequence[int],
    how: str = LOWEST,
    name: str = "reward",
    chunks: int = 1,
) -> learned.RewardFn:
    """The probability of an answer's steps under frozen[name], in [0, 1]; 0 without a step."""
    score = make_score(model, ends, eos=eos, how=how, chunks=chunks)

    def reward(frozen: models.Frozen, samples: generate.Samples, columns: Any) -> jax.Array:
        return jnp.exp(score(model.bind(frozen[name], frozen), learned.as_batch(samples)))

    return reward

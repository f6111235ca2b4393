"""How often scores put the chosen answer first."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.data import corpus, pipeline
from alignjax.evals import estimate
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts

AnswerScores = Callable[[Any, Any], jax.Array]  # (trees, batch [B, K, T]) -> [B, K]


def reward_scores(model: models.Model) -> AnswerScores:
    """Scores [B, K] of a batch of answers by a reward model; trees are its parameters."""

    def score(params: Any, batch: Any) -> jax.Array:
        rows = scoring.flatten_choices(batch)
        return scoring.sequence_scores(model, params, rows).reshape(-1, batch["tokens"].shape[1])

    return jax.jit(score)


def implicit_scores(model: models.Model) -> AnswerScores:
    """log pi/ref [B, K] of a batch of answers, nats; trees are (policy, reference).

    Reference: Rafailov et al. 2023, equation 5, up to beta.
    """

    def score(trees: Any, batch: Any) -> jax.Array:
        rows = scoring.flatten_choices(batch)
        mask = scoring.counted(rows)
        policy, reference = (scoring.token_stats(model, t, rows).logprob for t in trees)
        ratio = jnp.sum(jnp.where(mask, policy - reference, 0.0), axis=1)
        return ratio.reshape(-1, batch["tokens"].shape[1])

    return jax.jit(score)


def answer_scores(score: AnswerScores, trees: Any, table: corpus.Table, rows: int) -> np.ndarray:
    """Scores [N, K] of all answers of a table."""
    parts = [
        hosts.to_host(score(trees, hosts.to_global(batch)))[:real]
        for batch, real in pipeline.in_order(table, rows)
    ]
    return np.concatenate(parts)


def in_pairs(values: np.ndarray, table: corpus.Table) -> np.ndarray:
    """[M, 2]: the values [N, K] of every compared pair of a table, the preferred one first."""
    chosen, rejected, mask = (np.asarray(x) for x in scoring.compared(jnp.asarray(values), table))
    return np.stack([chosen[mask], rejected[mask]], axis=1)


def accuracy(scores: np.ndarray) -> estimate.Estimate:
    """Share of pairs [N, 2] whose choice 0 scores higher; a tie counts half."""
    margin = scores[:, 0] - scores[:, 1]
    return estimate.mean((margin > 0) + 0.5 * (margin == 0))

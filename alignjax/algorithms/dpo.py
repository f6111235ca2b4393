"""Direct preference optimization."""

import dataclasses
import math

import jax.numpy as jnp

from alignjax import losses
from alignjax.core import mean, shapes
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.training import algorithm


@dataclasses.dataclass(kw_only=True)
class DpoConfig:
    """DPO and its label-smoothed form."""

    beta: float = 0.1  # strength of the pull to the reference, per nat of log-ratio
    label_smoothing: float = 0.0  # chance that a label is wrong (conservative DPO)

    def validate(self) -> None:
        shapes.check_number("algorithm.beta", self.beta, above=0)
        shapes.check_number("algorithm.label_smoothing", self.label_smoothing, minimum=0, below=0.5)


def dpo(model: models.Model, config: DpoConfig) -> algorithm.Algorithm:
    """Minimises -log sigmoid(beta (log pi/ref (chosen) - log pi/ref (rejected))), mean over pairs.

    Batch: tokens, loss_mask, segments, positions [B, K, T], and what is compared as
    `scoring.compared` reads it.
    Frozen: "reference", read once for all rows by `annotate`. The policy starts as the reference,
    so the first loss is log 2.
    Reference: Rafailov et al. 2023, equation 7.
    """
    config.validate()

    def sequence_logprobs(params, batch):
        rows = scoring.flatten_choices(batch)
        stats = scoring.token_stats(model, params, rows)
        counted = jnp.where(scoring.counted(rows), stats.logprob, 0.0)
        return jnp.sum(counted, axis=1).reshape(-1, batch["tokens"].shape[1])

    def init(key, start):
        return algorithm.copy(start["policy"])

    def annotate(frozen, batch):
        return {"reference_logprobs": sequence_logprobs(frozen["reference"], batch)}

    def loss(params, frozen, batch, key):
        logprobs = sequence_logprobs(model.bind(params, frozen), batch)
        pairs = scoring.compared(logprobs - batch["reference_logprobs"], batch)
        chosen, rejected, mask = (x.reshape(-1) for x in pairs)
        nll = losses.dpo(chosen, rejected, beta=config.beta, label_smoothing=config.label_smoothing)
        terms = {"dpo": mean.masked(nll, mask)}
        return terms, {
            **terms,
            "accuracy": mean.masked(losses.preference_accuracy(chosen, rejected), mask),
            "chosen_reward": mean.masked(config.beta * chosen, mask),
            "rejected_reward": mean.masked(config.beta * rejected, mask),
            "margin": mean.masked(config.beta * (chosen - rejected), mask),
        }

    # Two programs compute the same log-probabilities (annotate and loss): rounding is what remains.
    first = {"dpo": algorithm.Expected(math.log(2), 10 * model.rounding * max(config.beta, 1.0))}
    return algorithm.Algorithm(init=init, loss=loss, annotate=annotate, first=first)

"""A Bradley-Terry reward model: one scalar at the last token of each answer."""

import dataclasses
import math

from alignjax import losses
from alignjax.core import mean, shapes
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.training import algorithm


@dataclasses.dataclass(kw_only=True)
class RewardConfig:
    """Bradley-Terry on pairs."""

    label_smoothing: float = 0.0  # chance that a label is wrong
    centering: float = 0.0  # weight of (r_chosen + r_rejected)^2, which fixes the free offset

    def validate(self) -> None:
        shapes.check_number("algorithm.label_smoothing", self.label_smoothing, minimum=0, below=0.5)
        shapes.check_number("algorithm.centering", self.centering, minimum=0)


def reward(model: models.Model, config: RewardConfig) -> algorithm.Algorithm:
    """Minimises -log sigmoid(r(chosen) - r(rejected)), averaged over pairs.

    Batch: tokens, segments, positions, loss_mask [B, K, T], and what is compared as
    `scoring.compared` reads it. The scalar head starts at zero, so the first loss is log 2.
    Reference: Ouyang et al. 2022, equation 1.
    """
    config.validate()

    def init(key, start):
        return model.with_scalar(algorithm.from_policy(model)(key, start))

    def loss(params, frozen, batch, key):
        params = model.bind(params, frozen, key)
        answers = batch["tokens"].shape[1]
        rows = scoring.flatten_choices(batch)
        scores, penalties = scoring.scores_and_penalties(model, params, rows)
        pairs = scoring.compared(scores.reshape(-1, answers), batch)
        chosen, rejected, mask = (x.reshape(-1) for x in pairs)
        nll = losses.bradley_terry(chosen, rejected, label_smoothing=config.label_smoothing)
        terms = {"bradley_terry": mean.masked(nll, mask), **penalties}
        if config.centering:
            penalty = config.centering * losses.center_penalty(chosen, rejected)
            terms["centering"] = mean.masked(penalty, mask)
        return terms, {
            **terms,
            "accuracy": mean.masked(losses.preference_accuracy(chosen, rejected), mask),
            "margin": mean.masked(chosen - rejected, mask),
        }

    return algorithm.Algorithm(
        init=init, loss=loss, first={"bradley_terry": algorithm.Expected(math.log(2), 1e-6)}
    )

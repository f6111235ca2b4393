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

    Batch: tokens, segments, positions, loss_mask [B, 2, T]; choice 0 is the chosen answer. The
    scalar head starts at zero, so the first loss is log 2.
    Reference: Ouyang et al. 2022, equation 1.
    """
    config.validate()

    def init(key, start):
        body = algorithm.copy(start["policy"]) if "policy" in start else model.init(key)
        return model.with_scalar(body)

    def loss(params, frozen, batch, key):
        params = model.bind(params, frozen)
        rows = scoring.flatten_choices(batch)
        scores = scoring.sequence_scores(model, params, rows)
        chosen, rejected = scores.reshape(-1, 2).T
        pairs = losses.bradley_terry(chosen, rejected, label_smoothing=config.label_smoothing)
        terms = {"bradley_terry": mean.of(pairs)}
        if config.centering:
            penalty = config.centering * losses.center_penalty(chosen, rejected)
            terms["centering"] = mean.of(penalty)
        return terms, {
            **terms,
            "accuracy": mean.of(losses.preference_accuracy(chosen, rejected)),
            "margin": mean.of(chosen - rejected),
        }

    return algorithm.Algorithm(
        init=init, loss=loss, first={"bradley_terry": algorithm.Expected(math.log(2), 1e-6)}
    )

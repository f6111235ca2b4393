"""A reward model of pairs: one scalar at the last token of each answer.

Bradley-Terry, or a model that knows ties or raters who err.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from alignjax.algorithms import preset, votes
from alignjax.core import shapes
from alignjax.evals import preferences
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.training import algorithm, method, program


@dataclasses.dataclass(kw_only=True)
class RewardConfig(preset.PresetConfig):
    """A loss on two scores, as a paper or a release computes it."""

    TABLE = "pairs"
    MUST = frozenset({"scores"})

    method: str = "bradley_terry"  # a loss on two scores of the preset
    compat: str = "paper"  # whose formula, reduction and defaults
    label_smoothing: float = 0.0  # chance that a label is wrong
    centering: float = 0.0  # weight of (r_chosen + r_rejected)^2, which fixes the free offset
    tie_strength: float | None = None  # Davidson's nu: how often equal answers tie
    threshold: float | None = None  # Rao and Kupper's, reward units: gaps that are not noticed
    accuracy: float | None = None  # of labels without the column accuracies, in (0.5, 1]

    def validate(self) -> None:
        shapes.check_number("algorithm.label_smoothing", self.label_smoothing, minimum=0, below=0.5)
        shapes.check_number("algorithm.centering", self.centering, minimum=0)
        self.check()
        zeros = {f"{side}_scores": np.zeros(1, np.float32) for side in ("chosen", "rejected")}
        try:
            jax.eval_shape(lambda: self.recipe(zeros, **self.options))
        except ValueError as error:
            raise ValueError(f"{error} (algorithm)") from None

    @property
    def options(self) -> dict[str, Any]:
        named = {"label_smoothing": self.label_smoothing, "center_coefficient": self.centering}
        numbers = {n: getattr(self, n) for n in ("tie_strength", "threshold", "accuracy")}
        return {
            **{name: value for name, value in named.items() if value},
            **{name: value for name, value in numbers.items() if value is not None},
        }


def score_answers(
    model: models.Model, params: models.Params, batch: algorithm.Batch
) -> tuple[jax.Array, algorithm.Terms]:
    """(scores [B, K] of all answers of a batch [B, K, T], the model's own losses)."""
    rows = scoring.flatten_choices(batch)
    scores, penalties = scoring.scores_and_penalties(model, params, rows)
    return scores.reshape(batch["tokens"].shape[:2]), penalties


def reward(model: models.Model, config: RewardConfig) -> algorithm.Algorithm:
    """Minimises -log sigmoid(r(chosen) - r(rejected) - margin), averaged over pairs.

    Batch: a table of pairs, and what is compared as `scoring.compared` reads it; its columns
    margin, preference, ties and accuracies [B, C] and weight [B] are used where they are there.
    The scalar head starts at zero, so the first loss is known: log 2 for Bradley-Terry without a
    margin.
    Reference: Ouyang et al. 2022, equation 1; margin: Touvron et al. 2023, equation 2.
    """
    config.validate()

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        scores, penalties = score_answers(model, model.bind(params, frozen, key), batch)
        better, worse, mask = scoring.compared(scores, batch)
        chosen, rejected = better.reshape(-1), worse.reshape(-1)
        arrays = {"chosen_scores": chosen, "rejected_scores": rejected}
        arrays |= {"pair_mask": mask.reshape(-1), **votes.columns(batch, mask)}
        if "margin" in batch:
            arrays["margin"] = batch["margin"].reshape(-1)
        terms = config.recipe(arrays, **config.options)
        names = {"loss": config.method, "center": "centering"}
        terms = {names.get(name, name): term for name, term in terms.items()} | penalties
        return terms, {
            **terms,
            "accuracy": votes.accuracy(chosen, rejected, arrays),
            "margin": votes.averaged(chosen - rejected, arrays),
        }

    def first(batch: algorithm.Batch) -> Mapping[str, algorithm.Expected]:
        if "margin" in batch or config.method != "bradley_terry":
            return {}
        return {"bradley_terry": algorithm.Expected(math.log(2), 1e-6)}

    return algorithm.Algorithm(
        init=algorithm.from_policy(model, head=True),
        loss=loss,
        first=first,
        passes=(program.Pass("policy", head=False, trained=True),),
    )


RewardConfig.METHOD = method.Method(
    name="reward",
    make=lambda networks, config, task: reward(networks["policy"], config),
    table=lambda config: "pairs",
    roles=lambda config: {"policy": method.Role(trained=True, source="policy", head=True)},
    product=lambda config: {method.SCORER: method.whole()},
    evaluators=lambda config: (preferences.SCORER,),
    formula=RewardConfig.formula,
    curves=("loss", "accuracy"),
)

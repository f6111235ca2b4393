"""A reward model of single answers: regression on scores, or the probability of being right."""

import dataclasses

import jax
import numpy as np

from alignjax.algorithms import preset
from alignjax.core import mean
from alignjax.data import pipeline
from alignjax.evals import estimate, evaluator
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts
from alignjax.rewards import learned
from alignjax.training import algorithm, method, program


@dataclasses.dataclass(kw_only=True)
class ScoredRewardConfig(preset.PresetConfig):
    """A loss on one score an answer, as a paper or a release computes it."""

    TABLE = "scored"

    method: str = "score_regression"  # score_regression, or outcome_reward (scores in [0, 1])
    compat: str = "paper"  # whose formula, reduction and defaults

    def validate(self) -> None:
        self.check()

    @property
    def is_chance(self) -> bool:
        """Whether the head is a logit of the label, not the score itself."""
        return "logits" in self.recipe.reads


def scored_reward(model: models.Model, config: ScoredRewardConfig) -> algorithm.Algorithm:
    """Minimises (r - score)^2, or the cross-entropy of labels, averaged over answers.

    Batch: a table of scored answers; labels of `outcome_reward` are scores in [0, 1].
    Reference: least squares; Cobbe et al. 2021.
    """
    config.validate()

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        bound = model.bind(params, frozen, key)
        scores, penalties = scoring.scores_and_penalties(model, bound, batch)
        names = ("logits", "labels") if config.is_chance else ("scores", "targets")
        terms = config.terms(dict(zip(names, (scores, batch["scores"]), strict=True)))
        terms = {**terms, **penalties}
        metrics = {**terms, "score": mean.of(scores), "target": mean.of(batch["scores"])}
        if config.is_chance:
            right = (scores > 0) == (batch["scores"] > 0.5)
            metrics["accuracy"] = mean.of(right)
        return terms, metrics

    def prepare(table: algorithm.Table) -> algorithm.Table:
        labels = np.asarray(table["scores"])
        if config.is_chance and not np.all((labels >= 0) & (labels <= 1)):
            raise ValueError(
                f"scores must lie in [0, 1] for {config.method}; got {labels.min():g} to "
                f"{labels.max():g} (data). Use score_regression, or labels."
            )
        if config.is_chance and labels.min() == labels.max():
            raise ValueError(
                f"scores must differ for {config.method}, or nothing is learnt; got {len(labels)} "
                f"that are all {labels[0]:g} (data). Label right and wrong answers."
            )
        return {}

    return algorithm.Algorithm(
        init=algorithm.from_policy(model, head=True),
        loss=loss,
        prepare=prepare,
        passes=(program.Pass("policy", head=False, trained=True),),
    )


def _fit(subject: evaluator.Subject) -> evaluator.Numbers:
    """How the scores fit held-out ones: correlation and mean square error, or accuracy."""
    table, parts = subject.corpus.read("scored", "eval"), []
    model, params = subject.networks["scorer"], subject.trees["scorer"]
    score = subject.once("scores of answers", lambda: learned.make_score(model))
    for batch, real in pipeline.in_order(table, subject.rows):
        parts.append(hosts.to_host(score(params, hosts.to_global(batch)))[:real])
    scores, targets = np.concatenate(parts), np.asarray(table["scores"])
    if subject.config.is_chance:
        right = (scores > 0) == (targets > 0.5)
        return {"accuracy": estimate.mean(right)}
    return {
        "mean square error": estimate.mean((scores - targets) ** 2),
        "correlation": estimate.correlation(scores, targets),
    }


FIT = evaluator.Evaluator("fit of scores", _fit, reads=("scorer",))
ScoredRewardConfig.METHOD = method.Method(
    name="scored_reward",
    make=lambda networks, config, task: scored_reward(networks["policy"], config),
    table=lambda config: "scored",
    roles=lambda config: {"policy": method.Role(trained=True, source="policy", head=True)},
    product=lambda config: {method.SCORER: method.whole()},
    evaluators=lambda config: (FIT,),
    formula=ScoredRewardConfig.formula,
)

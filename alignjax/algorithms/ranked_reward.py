"""A reward model of rankings: Plackett-Luce over K answers, with ties and partial rankings."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.algorithms import preset, reward
from alignjax.core import mean
from alignjax.data import pipeline
from alignjax.evals import estimate, evaluator
from alignjax.models import model as models
from alignjax.parallel import hosts
from alignjax.training import algorithm, method, program


@dataclasses.dataclass(kw_only=True)
class RankedRewardConfig(preset.PresetConfig):
    """A loss on the scores of a ranking's answers, as a paper or a release computes it."""

    TABLE = "rankings"

    method: str = "plackett_luce"  # a loss on rankings of the preset: plackett_luce, all_pairs
    compat: str = "paper"  # whose formula, reduction and defaults

    def validate(self) -> None:
        self.check()


def ordered_pairs(
    scores: jax.Array | np.ndarray, ranks: jax.Array | np.ndarray, mask: jax.Array | np.ndarray
) -> tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]:
    """(whether answer i has a larger score than answer j, whether it ranks before j), [B, K, K].

    Entry (i, j) of both; equal scores count half. scores, ranks, mask: [B, K].
    """
    better = (ranks[:, :, None] < ranks[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    margin = scores[:, :, None] - scores[:, None, :]
    return (margin > 0) + 0.5 * (margin == 0), better


def ranked_reward(model: models.Model, config: RankedRewardConfig) -> algorithm.Algorithm:
    """Minimises the negative log-likelihood of rankings, averaged over prompts.

    Batch: a table of rankings. The scalar head starts at zero, so that Plackett-Luce's first loss
    is the mean over prompts of sum over ranked answers of the log of how many are not yet placed.
    Reference: Plackett 1975; Luce 1959; ties: Breslow 1974; Ouyang et al. 2022, equation 1.
    """
    config.validate()

    def terms_of(batch: algorithm.Batch, scores: jax.Array) -> algorithm.Terms:
        arrays = {"scores": scores, "ranks": batch["ranks"], "mask": batch["answer_mask"]}
        return config.terms(arrays)

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        scores, penalties = reward.score_answers(model, model.bind(params, frozen, key), batch)
        terms = {**terms_of(batch, scores), **penalties}
        right, better = ordered_pairs(scores, batch["ranks"], batch["answer_mask"] != 0)
        return terms, {**terms, "accuracy": mean.masked(right, better)}

    def first(batch: algorithm.Batch) -> Mapping[str, algorithm.Expected]:
        shape = batch["tokens"].shape[:2]
        values = jax.jit(lambda b: terms_of(b, jnp.zeros(shape))[config.method].value)(dict(batch))
        value = float(values)
        return {config.method: algorithm.Expected(value, 1e-6 * max(1.0, math.fabs(value)))}

    return algorithm.Algorithm(
        init=algorithm.from_policy(model, head=True),
        loss=loss,
        first=first,
        passes=(program.Pass("policy", head=False, trained=True),),
    )


def _accuracy(subject: evaluator.Subject) -> evaluator.Numbers:
    """Share of the ordered pairs of held-out rankings that the scores order alike."""
    model, params = subject.networks["scorer"], subject.trees["scorer"]
    table, shares = subject.corpus.read("rankings", "eval"), []

    def make() -> Callable[[models.Params, algorithm.Batch], jax.Array]:
        return jax.jit(lambda params, batch: reward.score_answers(model, params, batch)[0])

    score = subject.once("scores of rankings", make)
    for batch, real in pipeline.in_order(table, subject.rows):
        scores = hosts.to_host(score(params, hosts.to_global(batch)))
        right, better = (
            np.asarray(x)[:real]
            for x in ordered_pairs(scores, batch["ranks"], batch["answer_mask"] != 0)
        )
        kept = better.any(axis=(1, 2))
        right, better = right[kept], better[kept]
        shares.append((right * better).sum(axis=(1, 2)) / better.sum(axis=(1, 2)))
    return {"pair accuracy": estimate.mean(np.concatenate(shares))}


ACCURACY = evaluator.Evaluator("pair accuracy of rankings", _accuracy, reads=("scorer",))
RankedRewardConfig.METHOD = method.Method(
    name="ranked_reward",
    make=lambda networks, config, task: ranked_reward(networks["policy"], config),
    table=lambda config: "rankings",
    roles=lambda config: {"policy": method.Role(trained=True, source="policy", head=True)},
    product=lambda config: {method.SCORER: method.whole()},
    evaluators=lambda config: (ACCURACY,),
    formula=RankedRewardConfig.formula,
    curves=("loss", "accuracy"),
)

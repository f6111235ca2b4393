"""A process reward model: the probability that each step of an answer is right, at its end."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.algorithms import preset
from alignjax.core import mean
from alignjax.data import pipeline
from alignjax.evals import estimate, evaluator
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import axes, hosts
from alignjax.training import algorithm, method, program


@dataclasses.dataclass(kw_only=True)
class ProcessRewardConfig(preset.PresetConfig):
    """A loss on labelled steps, as a paper or a release computes it."""

    TABLE = "steps"

    method: str = "process_reward"  # a loss on steps of the preset
    compat: str = "paper"  # whose formula, reduction and defaults

    def validate(self) -> None:
        self.check()


def step_logits(
    model: models.Model, params: models.Params, batch: algorithm.Batch
) -> tuple[jax.Array, algorithm.Terms]:
    """(logits [B, T] that the step which ends with a token is right, the model's own losses).

    The head reads the state after a step's last token: `step_mask` names the position, whatever
    token is there.
    """
    hidden, penalties = scoring.hidden_and_penalties(model, params, batch)
    return axes.shard(model.scalar(params, hidden), "batch slot"), penalties


def process_reward(model: models.Model, config: ProcessRewardConfig) -> algorithm.Algorithm:
    """Minimises the cross-entropy of step labels, averaged over all steps of the batch.

    Batch: a table of steps. The scalar head starts at zero, so the first loss is known: log 2
    where labels are 0 or 1.
    Reference: Lightman et al. 2023; soft labels: Wang et al. 2024 (Math-Shepherd).
    """
    config.validate()
    two_classes = "two" in config.recipe.link or "two" in config.recipe.score

    def terms_of(batch: algorithm.Batch, logits: jax.Array) -> algorithm.Terms:
        if two_classes:  # logits of (wrong, right): only their difference counts
            logits = jnp.stack([jnp.zeros_like(logits), logits], axis=-1)
        arrays = {
            "logits": logits,
            "labels": batch["step_labels"],
            "mask": batch["step_mask"],
        }
        return config.terms(arrays)

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        logits, penalties = step_logits(model, model.bind(params, frozen, key), batch)
        terms, mask = {**terms_of(batch, logits), **penalties}, batch["step_mask"] != 0
        right = (logits > 0) == (batch["step_labels"] > 0.5)
        return terms, {**terms, "accuracy": mean.masked(right, mask)}

    def first(batch: algorithm.Batch) -> Mapping[str, algorithm.Expected]:
        zeros = batch["step_labels"] * 0.0
        value = float(jax.jit(lambda b, z: terms_of(b, z)[config.method].value)(dict(batch), zeros))
        return {config.method: algorithm.Expected(value, 1e-6)}

    return algorithm.Algorithm(
        init=algorithm.from_policy(model, head=True),
        loss=loss,
        first=first,
        passes=(program.Pass("policy", head=False, trained=True),),
    )


def _steps(subject: evaluator.Subject) -> evaluator.Numbers:
    """Share of held-out steps whose label is predicted, and their cross-entropy in nats."""
    table, model = subject.corpus.read("steps", "eval"), subject.networks["scorer"]
    score = subject.once(
        "logits of steps",
        lambda: jax.jit(lambda params, batch: step_logits(model, params, batch)[0]),
    )
    right, nll = [], []
    for batch, real in pipeline.in_order(table, subject.rows):
        logits = hosts.to_host(score(subject.trees["scorer"], hosts.to_global(batch)))[:real]
        mask, labels = batch["step_mask"][:real], batch["step_labels"][:real]
        right.append(((logits > 0) == (labels > 0.5))[mask])
        nll.append((np.logaddexp(0.0, logits) - labels * logits)[mask])
    return {
        "step accuracy": estimate.mean(np.concatenate(right)),
        "nats a step": estimate.mean(np.concatenate(nll)),
    }


STEPS = evaluator.Evaluator("steps", _steps, reads=("scorer",))
ProcessRewardConfig.METHOD = method.Method(
    name="process_reward",
    make=lambda networks, config, task: process_reward(networks["policy"], config),
    table=lambda config: "steps",
    roles=lambda config: {"policy": method.Role(trained=True, source="policy", head=True)},
    product=lambda config: {method.SCORER: method.whole()},
    evaluators=lambda config: (STEPS,),
    formula=ProcessRewardConfig.formula,
    curves=("loss", "accuracy"),
)

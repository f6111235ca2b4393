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
from alignjax.parallel import hosts
from alignjax.rewards import process
from alignjax.training import algorithm, method, program


@dataclasses.dataclass(kw_only=True)
class ProcessRewardConfig(preset.PresetConfig):
    """A loss on labelled steps, as a paper or a release computes it."""

    TABLE = "steps"

    method: str = "process_reward"  # a loss on steps of the preset
    compat: str = "paper"  # whose formula, reduction and defaults

    def validate(self) -> None:
        self.check()


def process_reward(model: models.Model, config: ProcessRewardConfig) -> algorithm.Algorithm:
    """Minimises the cross-entropy of step labels, averaged over all steps of the batch.

    Batch: a table of steps. The head reads the state after a step's last token: `step_mask` names
    the position, whatever token is there. It starts at zero, so the first loss is
    known: log 2 where labels are 0 or 1.
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
        logits, penalties = process.step_logits(model, model.bind(params, frozen, key), batch)
        terms, mask = {**terms_of(batch, logits), **penalties}, batch["step_mask"] != 0
        right = (logits > 0) == (batch["step_labels"] > 0.5)
        return terms, {**terms, "accuracy": mean.masked(right, mask)}

    def prepare(table: algorithm.Table) -> algorithm.Table:
        check_steps(table)
        return {}

    def first(batch: algorithm.Batch) -> Mapping[str, algorithm.Expected]:
        zeros = batch["step_labels"] * 0.0
        value = float(jax.jit(lambda b, z: terms_of(b, z)[config.method].value)(dict(batch), zeros))
        return {config.method: algorithm.Expected(value, 1e-6)}

    return algorithm.Algorithm(
        init=algorithm.from_policy(model, head=True),
        loss=loss,
        first=first,
        prepare=prepare,
        passes=(program.Pass("policy", head=False, trained=True),),
    )


def check_steps(table: algorithm.Table) -> None:
    """Compares labelled steps with what a process reward model can learn from.

    Raises:
      ValueError: there is no step, one ends outside its answer, a label is outside [0, 1], or all
        labels are the same.
    """
    mask = np.asarray(table["step_mask"], bool)
    outside = mask & ~np.asarray(table["loss_mask"], bool)
    if outside.any():
        row, slot = np.argwhere(outside)[0]
        raise ValueError(
            f"steps must end inside their answers; got {int(outside.sum())} of {int(mask.sum())} "
            f"that do not, the first at token {slot} of row {row} (data). Correct step_mask."
        )
    labels = np.asarray(table["step_labels"])[mask]
    if not labels.size:
        raise ValueError("a table of steps must have steps; got none (data). Label some.")
    if not np.all((labels >= 0) & (labels <= 1)):
        raise ValueError(
            f"labels of steps must lie in [0, 1]; got {labels.min():g} to {labels.max():g} (data)."
        )
    if labels.min() == labels.max():
        raise ValueError(
            f"labels of steps must differ, or nothing is learnt; got {labels.size} that are all "
            f"{labels[0]:g} (data). Label right and wrong steps."
        )


def _steps(subject: evaluator.Subject) -> evaluator.Numbers:
    """Share of held-out steps whose label is predicted, and their cross-entropy in nats."""
    table, model = subject.corpus.read("steps", "eval"), subject.networks["scorer"]
    score = subject.once(
        "logits of steps",
        lambda: jax.jit(lambda params, batch: process.step_logits(model, params, batch)[0]),
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
    scores=method.STEPS,
)

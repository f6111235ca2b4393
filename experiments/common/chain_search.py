"""Reward models of steps and of outcomes on equal labelled solutions, compared by search."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignjax.algorithms.process_reward import ProcessRewardConfig
from alignjax.algorithms.scored_reward import ScoredRewardConfig
from alignjax.algorithms.sft import SftConfig
from alignjax.core import shapes
from alignjax.data import step_ends
from alignjax.evals import estimate
from alignjax.experiments.common.chain_policy import (
    ROLLOUTS,
    LabelledChainConfig,
    last_numbers,
    make_draw,
    right_numbers,
)
from alignjax.lifecycles import lifecycle
from alignjax.rewards import process
from alignjax.runs.experiment import Training
from alignjax.search import accuracy, beam, scorer, solutions

# How the steps' probabilities become one: a label by rollouts is of the whole answer already.
STAGES = {"prm": process.PRODUCT, "mc": process.LOWEST, "orm": ""}


def trained_by(algorithm: type, **options: Any) -> Any:
    """A field whose default trains with an algorithm."""
    return dataclasses.field(default_factory=lambda: Training(algorithm=algorithm(**options)))


@dataclasses.dataclass(kw_only=True)
class ChainSearch(lifecycle.Lifecycle):
    """Three reward models of the same solutions; best of n, votes and beams by each of them.

    taught: a language model of chains without errors, from which all of them start. prm: labels of
    steps are exact. mc: they are made by rollouts. orm: the outcome alone.
    """

    data: LabelledChainConfig = dataclasses.field(default_factory=LabelledChainConfig)
    taught: Training = trained_by(SftConfig)
    prm: Training = trained_by(ProcessRewardConfig)
    mc: Training = trained_by(ProcessRewardConfig)
    orm: Training = trained_by(ScoredRewardConfig, method="outcome_reward")
    questions: int = 512  # of the eval split
    sizes: tuple[int, ...] = (1, 4, 16, 64)
    branches: int = 4
    least: float = 0.05  # by which PRM is to beat ORM at the sizes of `judged`
    judged: tuple[int, ...] = (16,)

    def validate(self) -> None:
        super().validate()
        shapes.check_number("questions", self.questions, minimum=2)
        for size in self.sizes:
            beam.check(size, self.branches)

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Course(self, space)


class _Course:
    """The stages, and accuracy by the number of samples."""

    def __init__(self, config: ChainSearch, space: lifecycle.Workspace):
        self.config, self.space = config, space
        self.world: LabelledChainConfig = config.data

    @property
    def stages(self) -> Sequence[lifecycle.Stage]:
        by_rollouts = dataclasses.replace(self.world, labels=ROLLOUTS)
        return (
            lifecycle.Stage("taught", self.config.taught),
            lifecycle.Stage("prm", self.config.prm, policy="taught"),
            lifecycle.Stage("mc", self.config.mc, policy="taught", data=by_rollouts),
            lifecycle.Stage("orm", self.config.orm, policy="taught"),
        )

    def _scorer(self, stage: str) -> scorer.Scorer:
        model, params, rows = self.space.model, self.space.scorer(stage), self.config.eval_batch
        if not STAGES[stage]:
            return scorer.of_answers(model, params, rows=rows)
        ends = step_ends.of_corpus(self.space.corpus)
        eos = self.space.corpus.ends
        return scorer.of_steps(model, params, ends, eos=eos, rows=rows, how=STAGES[stage])

    def _asked(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        table = self.space.corpus.read("prompts", "eval")
        count = self.config.questions
        prompts, lengths = table["prompts"][:count], table["lengths"][:count]
        return prompts, lengths, right_numbers(self.world, prompts, lengths).tolist()

    def _drawn(self) -> tuple[solutions.Rows, accuracy.Pool]:
        """The same draws for every stage."""
        prompts, lengths, right = self._asked()
        draw = make_draw(self.world, self.config.seed + 2)
        size = max(self.config.sizes)
        rows = solutions.several(draw, prompts, lengths, size)
        numbers = last_numbers(self.world, rows.tokens, rows.lengths).reshape(-1, size)
        return rows, accuracy.Pool(numbers.tolist(), right)

    def _plain(self) -> dict[str, Any]:
        _, pool = self._drawn()
        return accuracy.curves(pool, (accuracy.COVERAGE, accuracy.MAJORITY), self.config.sizes)

    def _judged(self, stage: str) -> dict[str, Any]:
        rows, pool = self._drawn()
        judge = self._scorer(stage)
        scores = judge.score(rows).reshape(-1, max(self.config.sizes))
        pool = pool._replace(scores=scores, weights=judge.weights(scores))
        found = dict(accuracy.curves(pool, accuracy.SCORED, self.config.sizes))
        if judge.by_step:
            found[accuracy.BEAM] = self._beams(judge)
        return found

    def _beams(self, judge: scorer.Scorer) -> dict[int, estimate.Estimate]:
        prompts, lengths, right = self._asked()
        step, found = make_draw(self.world, self.config.seed + 3, one_step=True), {}
        for size in self.config.sizes:
            beams = beam.search(
                step, judge.score, prompts, lengths, size=size, branches=self.config.branches,
                new=self.world.longest + 1,
            )  # fmt: skip
            best = beams.rows.take(beams.best(size))
            numbers = last_numbers(self.world, best.tokens, best.lengths)
            found[size] = estimate.mean(numbers == np.array(right))
        return found

    def _remembered(self, stage: str, make: Any) -> dict[str, Any]:
        def told() -> dict[str, Any]:
            return {
                name: {str(n): value.as_dict() for n, value in curve.items()}
                for name, curve in make().items()
            }

        return self.space.remember(stage, "search", told)

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        curves = {"prm": self._remembered("prm", lambda: self._judged("prm"))}
        curves["mc"] = self._remembered("mc", lambda: self._judged("mc"))
        curves["orm"] = self._remembered("orm", lambda: self._judged("orm"))
        plain = self._remembered("prm-free", self._plain)
        rows = [_row("", name, curve) for name, curve in plain.items()]
        rows += [
            _row(stage, f"{stage} {name}", curve)
            for stage, found in curves.items()
            for name, curve in found.items()
        ]
        gates = []
        for n in self.config.judged:
            value = {
                stage: found[accuracy.BEST][str(n)]["value"] for stage, found in curves.items()
            }
            most = plain[accuracy.COVERAGE][str(n)]["value"]
            gates += [
                lifecycle.Gate(
                    f"PRM - ORM, best of {n}", value["prm"] - value["orm"], ">=", self.config.least
                ),
                lifecycle.Gate(f"PRM - coverage at {n}", value["prm"] - most, "<=", 0.0),
            ]  # fmt: skip
        return self._results(rows, gates), gates

    def _results(self, rows: list[dict[str, Any]], gates: list[lifecycle.Gate]) -> dict[str, Any]:
        keys = [{"key": f"n={n}", "label": f"n={n}", "digits": 3} for n in self.config.sizes]
        return {
            "title": "ChainWorld: process and outcome rewards in search",
            "description": "The share of held-out chains whose chosen answer is right, of n drawn "
            "from a policy whose steps are right with a known probability.",
            "environment": lifecycle.environment(),
            "seconds": self.space.seconds,
            "columns": keys,
            "rows": rows,
            "frontier": None,
            "curves": [{"stage": stage, "label": stage, "keys": ["accuracy"]} for stage in STAGES],
            "samples": [],
            "gates": [gate.as_dict() for gate in gates],
            "notes": list(self.space.corpus.summary),
        }


def _row(stage: str, label: str, curve: dict[str, Any]) -> dict[str, Any]:
    cells = {f"n={n}": value for n, value in curve.items()}
    return {"stage": stage, "label": label, "family": label, "metrics": cells}

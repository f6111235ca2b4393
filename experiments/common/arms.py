"""Arms of reinforcement learning that start from one stage: their curves, and their gates."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignjax.core import shapes
from alignjax.lifecycles import lifecycle, listed
from alignjax.training import metrics

WINDOW = 10  # steps of a running mean
HELD_OUT = "pass@1"


@dataclasses.dataclass(kw_only=True)
class ArmsLifecycle(listed.ListedLifecycle):
    """Stages of which some are arms of one comparison, each with as many samples."""

    arms: tuple[str, ...] = ()  # names of stages
    reach: float = 0.8  # mean reward to which the steps of an arm are counted
    target: float = 0.0  # held-out pass rate that every arm must reach; 0 asks for none

    def validate(self) -> None:
        super().validate()
        for name in self.arms:
            shapes.check_choice("arms", name, [stage.name for stage in self.stages])

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Arms(self, space, super().course(space))


class _Arms:
    """The report of the stages, with what is told of the arms alone."""

    def __init__(self, config: ArmsLifecycle, space: lifecycle.Workspace, inner: lifecycle.Course):
        self.config, self.space, self.inner = config, space, inner

    @property
    def stages(self) -> Sequence[lifecycle.Stage]:
        return self.inner.stages

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        results, gates = self.inner.report()
        by_name = {row["stage"]: row["metrics"] for row in results["rows"]}
        for name in self.config.arms:
            rows = metrics.read(self.space.path(name) / metrics.FILE)
            by_name[name] |= learning(rows, self.config.reach)
            if self.config.target:
                value = by_name[name][HELD_OUT]["value"]
                gates.append(lifecycle.Gate(f"{name}: {HELD_OUT}", value, ">=", self.config.target))
        results["columns"] += [
            {"key": "first", "label": "first reward", "digits": 3},
            {"key": "last", "label": "last reward", "digits": 3},
            {"key": "dead", "label": "dead groups", "digits": 3},
            {"key": "steps", "label": f"steps to {self.config.reach:g}", "digits": 0},
        ]
        results["gates"] = [gate.as_dict() for gate in gates]
        return results, gates


def learning(rows: Sequence[dict[str, Any]], reach: float) -> dict[str, dict[str, float]]:
    """What the log of an arm says: first and last reward, dead groups, steps to a mean reward.

    first: of the first step, before any update. last, dead: means of the last WINDOW steps. steps:
    the first step that ends WINDOW steps of mean reward >= reach; nan where none does.
    """
    reward = np.array([row["reward"] for row in rows])
    wide = np.convolve(reward, np.ones(WINDOW) / WINDOW, "valid") if len(rows) >= WINDOW else []
    there = np.flatnonzero(np.asarray(wide) >= reach)
    found = {
        "first": reward[0],
        "last": reward[-WINDOW:].mean(),
        "dead": np.mean([row.get("dead", np.nan) for row in rows[-WINDOW:]]),
        "steps": there[0] + WINDOW if len(there) else np.nan,
    }
    return {name: {"value": float(value)} for name, value in found.items()}

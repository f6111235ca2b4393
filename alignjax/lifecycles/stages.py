"""What lifecycles share: training a stage, remembering an evaluation, judging a gate."""

import dataclasses
import json
import operator
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax

import alignjax
from alignjax import experiment
from alignjax.evals import estimate

RULES = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
# What may differ when a lifecycle is continued.
HARMLESS = ("mesh.", "data.path")


@dataclasses.dataclass(frozen=True)
class Gate:
    """A number that must satisfy a rule, such as `name` <= 0.04."""

    name: str
    value: float
    rule: str
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the rule holds; nan never passes."""
        return bool(RULES[self.rule](self.value, self.bound))  # nan compares false

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        rule = f"{self.rule} {self.bound:g}"
        return {"name": self.name, "value": self.value, "rule": rule, "passed": self.passed}


class Workspace:
    """A lifecycle's folder, one subfolder a stage."""

    def __init__(self, folder: pathlib.Path, say: Callable[[str], None]):
        self.folder, self.say = pathlib.Path(folder), say
        self.seconds: dict[str, float] = {}

    def path(self, stage: str) -> pathlib.Path:
        """The folder of a stage."""
        return self.folder / stage

    def train(self, stage: str, config: experiment.Experiment) -> None:
        """Trains a stage; one that is finished returns at once."""
        begin = time.monotonic()
        if not self._finished(stage, config.loop.steps):
            experiment.train(config, self.path(stage), name=stage, say=self.say)
        self._note(stage, begin)

    def _finished(self, stage: str, steps: int) -> bool:
        return (self.path(stage) / "checkpoints" / str(steps)).is_dir()

    def _note(self, stage: str, begin: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - begin

    def remember(self, stage: str, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The JSON that `make` returns, made once and read from the stage's folder afterwards."""
        begin = time.monotonic()
        file = self.path(stage) / f"{name}.json"
        if not file.exists():
            found = make()
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(found))
            partial.replace(file)
            self._note(f"{stage} {name}", begin)
        return json.loads(file.read_text())

    def write_results(self, results: dict[str, Any]) -> None:
        """results.json, which the report reads."""
        file = self.folder / "results.json"
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1))
        partial.replace(file)


def environment() -> dict[str, str]:
    """Versions and devices, for the report."""
    kinds = {device.device_kind for device in jax.devices()}
    return {
        "alignjax": alignjax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "devices": f"{jax.device_count()} x {', '.join(sorted(kinds))}",
    }


def show(value: estimate.Estimate) -> dict[str, float]:
    """An estimate as a cell of the report's table."""
    return value.as_dict()

"""A lifecycle that is a list of stages, evaluated by their own methods' evaluators."""

import dataclasses
from typing import Any, NamedTuple

from alignjax.core import shapes
from alignjax.lifecycles import lifecycle
from alignjax.runs import evaluation
from alignjax.training import method as methods


class Bound(NamedTuple):
    """A number of a stage's evaluation that must satisfy a rule: `number` >= bound, or alike."""

    stage: str
    number: str
    rule: str
    bound: float


@dataclasses.dataclass(kw_only=True)
class ListedLifecycle(lifecycle.Lifecycle):
    """Stages in the order in which they run.

    ListedLifecycle(
        data=..., model=...,
        stages=(
            Stage("tuned", Training(algorithm=FirstConfig(), ...)),
            Stage("mine", Training(algorithm=MyConfig(), ...), policy="tuned"),
        ),
    )
    """

    title: str = "A lifecycle"
    stages: tuple[lifecycle.Stage, ...] = ()
    bounds: tuple[Bound, ...] = ()  # what must be reached, or the run fails

    def validate(self) -> None:
        super().validate()
        seen: list[str] = []
        for stage in self.stages:
            stage.training.validate()
            algorithm = stage.training.algorithm
            roles = algorithm.METHOD.roles(algorithm).values()
            for field in stage.sources:
                own = [role.source for role in roles if role.source not in ("", *methods.SOURCES)]
                what = f"a source of the stage {stage.name}"
                shapes.check_choice(what, field, own)
            for field, other in stage.starts.items():
                if other not in seen:
                    raise ValueError(
                        f"{field} of the stage {stage.name} must be an earlier stage: "
                        f"{', '.join(seen) or 'there is none'}; got {other!r} (stages)."
                    )
            if not stage.name or stage.name in seen:
                raise ValueError(
                    f"stages must have names of their own; got {stage.name!r} twice or empty."
                )
            seen.append(stage.name)
        for bound in self.bounds:
            shapes.check_choice("the stage of a bound", bound.stage, seen)
            shapes.check_choice("the rule of a bound", bound.rule, tuple(lifecycle.RULES))
        if not seen:
            raise ValueError("stages must name at least one stage; got none.")

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Listed(self, space)


class _Listed:
    """The stages, and a table of their evaluators' numbers."""

    def __init__(self, config: ListedLifecycle, space: lifecycle.Workspace):
        self.config, self.space, self.stages = config, space, config.stages

    def _numbers(self, stage: lifecycle.Stage) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            numbers = evaluation.evaluate(
                self.space.path(stage.name), rows=self.config.eval_batch, seed=self.config.seed
            )
            return {name: value.as_dict() for name, value in numbers.items()}

        return self.space.remember(stage.name, "evaluation", make)

    def _value(self, numbers: dict[str, Any], bound: Bound) -> float:
        cells = numbers[bound.stage]
        shapes.check_choice("the number of a bound", bound.number, tuple(cells))
        return float(cells[bound.number]["value"])

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        numbers = {stage.name: self._numbers(stage) for stage in self.stages}
        columns = dict.fromkeys(name for cells in numbers.values() for name in cells)
        rows = [
            {"stage": name, "label": name, "family": name, "metrics": cells}
            for name, cells in numbers.items()
        ]
        curves = [
            {
                "stage": stage.name,
                "label": stage.name,
                "keys": list(stage.training.algorithm.METHOD.curves),
            }
            for stage in self.stages
        ]
        gates = [
            lifecycle.Gate(f"{b.stage}: {b.number}", self._value(numbers, b), b.rule, b.bound)
            for b in self.config.bounds
        ]
        results = {
            "title": self.config.title,
            "description": "Every stage, evaluated on the eval split by its method's evaluators.",
            "environment": lifecycle.environment(),
            "seconds": self.space.seconds,
            "columns": [{"key": name, "label": name, "digits": 3} for name in columns],
            "rows": rows,
            "frontier": None,
            "curves": curves,
            "samples": [],
            "gates": [gate.as_dict() for gate in gates],
            "notes": list(self.space.corpus.summary),
        }
        return results, gates

"""Evaluations in the loop: run at an interval of steps; the best state by one metric is kept."""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from alignjax.training import algorithm, checkpoint

BEST = "best"  # folder of the best state


class Number(Protocol):
    """A number with its standard error."""

    @property
    def value(self) -> float: ...
    @property
    def se(self) -> float: ...


class Evaluator(NamedTuple):
    """An evaluation of the state.

    name: in messages. every: steps between runs; it also runs after the last step. run: state ->
    numbers by name.
    """

    name: str
    every: int
    run: Callable[[algorithm.TrainState], Mapping[str, Number]]


def due(evaluators: Sequence[Evaluator], step: int, *, last: bool) -> list[Evaluator]:
    """Those that run after `step` steps; all of them after the last."""
    return [evaluator for evaluator in evaluators if last or step % evaluator.every == 0]


def judge(evaluators: Sequence[Evaluator], state: algorithm.TrainState) -> dict[str, float]:
    """Numbers for metrics.jsonl: "eval/NAME" and "eval/NAME se"."""
    numbers: dict[str, float] = {}
    for evaluator in evaluators:
        for name, number in evaluator.run(state).items():
            numbers[f"eval/{name}"] = float(number.value)
            numbers[f"eval/{name} se"] = float(number.se)
    return numbers


class Best:
    """The state whose metric is best so far, kept as a checkpoint of its own.

    metric: a number's name as evaluators give it; "-NAME" where less is better.
    """

    def __init__(self, workdir: pathlib.Path, metric: str, log: Callable[[str], None]):
        self.sign, self.name = (-1.0, metric[1:]) if metric.startswith("-") else (1.0, metric)
        self.folder, self._log = pathlib.Path(workdir) / BEST, log
        self._checkpoints = checkpoint.Checkpoints(self.folder, keep=1)
        self._value: float | None = None
        steps = self._checkpoints.steps()
        if steps:
            best = self._checkpoints.meta(steps[-1])["best"]
            if best["metric"] == metric:  # else what was kept is the best by something else
                self._value = float(best["value"])

    @property
    def is_begun(self) -> bool:
        """Whether a state was kept by this metric before."""
        return self._value is not None

    def check(self, numbers: Mapping[str, float]) -> None:
        """Refuses a metric that is not among the numbers.

        Raises:
          ValueError: no evaluator gives the metric.
        """
        known = [n.removeprefix("eval/") for n in numbers if not n.endswith(" se")]
        if self.name in known:
            return
        raise ValueError(
            f"loop.keep_best must be a number that is evaluated, or -NAME where less is better: "
            f"{', '.join(known) or 'none is'}; got {self.name!r} (loop)."
        )

    def offer(
        self, numbers: Mapping[str, float], state: algorithm.TrainState, meta: Mapping[str, Any]
    ) -> None:
        """Keeps the state if its metric is better than all before; NaN never is.

        Raises:
          ValueError: no evaluator gives the metric.
        """
        self.check(numbers)
        value = numbers[f"eval/{self.name}"]
        if math.isnan(value):
            self._log(f"{self.name} is not a number at step {int(state.step)}: not kept as best.")
            return
        if self._value is not None and not self.sign * value > self.sign * self._value:
            return
        self._value = value
        metric = self.name if self.sign > 0 else f"-{self.name}"
        best = {"metric": metric, "value": value, "step": int(state.step)}
        for later in [n for n in self._checkpoints.steps() if n >= int(state.step)]:
            self._checkpoints.delete(later)  # a save must be the newest
        self._checkpoints.save(state, {**meta, "best": best, "finished": True})
        self._checkpoints.wait()

    def close(self) -> None:
        """Waits for the last save."""
        self._checkpoints.close()

"""What an experiment file says of its sweep: a claim, arms, what is measured, and gates.

`sweep(variant)` of a file returns a `Sweep`; what it measured itself stands in the file's
`EXPECTED[variant][arm][measure] = (mean, sd, seeds)`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax.core import shapes

TAKES = ("last", "max", "min", "mean", "area")
RULES = (">=", "<=", ">", "<", "within")
KINDS = ("premise", "shape", "size")
REPRODUCED, SHAPE, NOT, UNTESTABLE = (
    "reproduced",
    "shape only",
    "not reproduced",
    "not testable at this size",
)
VERDICTS = (REPRODUCED, SHAPE, NOT, UNTESTABLE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a run.

    Of a lifecycle's results.json with `row`, its label or stage; else of metrics.jsonl, of the
    lifecycle's `stage` or of the run itself.
    """

    name: str
    key: str  # of a row's metrics, or of metrics.jsonl
    row: str = ""
    stage: str = ""
    take: str = "last"  # of the log: last | max | min | mean of the last 10 rows | area: of all
    digits: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """What must hold of a measure: of an arm alone, or of its paired difference to another arm.

    It holds where the whole 95% t interval over seeds satisfies the rule, fails where none of it
    does, and is open else. within: -bound <= x <= bound, as a null effect.
    """

    measure: str
    arm: str
    rule: str
    bound: float
    other: str = ""  # arm that is subtracted, seed by seed
    ratio: bool = False  # divide by it instead
    # premise: without it the claim can't be tested. shape: the claim's order or sign. size: how
    # large its effect is.
    kind: str = "shape"

    @property
    def name(self) -> str:
        """What the gate compares, in words."""
        if not self.other:
            return f"{self.measure} of {self.arm}"
        word = "over" if self.ratio else "minus"
        return f"{self.measure}: {self.arm} {word} {self.other}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """A paper's claim, the arms that test it, and what is read of them.

    arms: {name: {dotted field of the configuration: value}}; of each, seeds `seed`, `seed` + 1, ...
    """

    arms: Mapping[str, Mapping[str, Any]]
    baseline: str
    measures: tuple[Measure, ...]
    paper: str = ""  # with its figure or table
    claim: str = ""  # one sentence
    analogue: str = ""  # ours, and why the shape carries over
    seeds: int = 5
    gates: tuple[Gate, ...] = ()
    curves: tuple[tuple[str, str], ...] = ()  # (stage, key of its metrics.jsonl)
    verdict: str = ""  # that the file states for this variant
    cost: str = ""  # wall time and machine of it

    def validate(self) -> None:
        """Refuses what names something that is not there.

        Raises:
          ValueError: naming it.
        """
        if self.seeds < 2:
            raise ValueError(
                f"the seeds of sweep() must be at least 2, or no interval can be told; got "
                f"{self.seeds}."
            )
        shapes.check_choice("the baseline of sweep()", self.baseline, tuple(self.arms))
        names = [measure.name for measure in self.measures]
        if not names or len({*names}) < len(names):
            raise ValueError(
                "the measures of sweep() must have names of their own; got "
                f"{', '.join(names) or 'none'}."
            )
        for measure in self.measures:
            shapes.check_choice(f"take of the measure {measure.name}", measure.take, TAKES)
        for gate in self.gates:
            shapes.check_choice("the measure of a gate", gate.measure, names)
            shapes.check_choice("the rule of a gate", gate.rule, RULES)
            shapes.check_choice("the kind of a gate", gate.kind, KINDS)
            for arm in (gate.arm, *([gate.other] if gate.other else [])):
                shapes.check_choice("the arm of a gate", arm, tuple(self.arms))
        if self.verdict:
            shapes.check_choice("the verdict of sweep()", self.verdict, VERDICTS)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the arms' values, which are texts of a command line there."""
        values = dataclasses.asdict(dataclasses.replace(self, arms={}))
        del values["arms"]
        return values


def from_dict(values: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> Sweep:
    """The sweep that `as_dict` wrote.

    Raises:
      ValueError: it is no such record.
    """
    try:
        parts = dict(values)
        parts["measures"] = tuple(Measure(**own) for own in parts["measures"])
        parts["gates"] = tuple(Gate(**own) for own in parts["gates"])
        parts["curves"] = tuple((str(stage), str(key)) for stage, key in parts["curves"])
        return Sweep(arms=arms, **parts)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"sweep.json must hold a sweep; got {error!r:.100}.") from None


Expected = Mapping[str, Mapping[str, tuple[float, float, int]]]  # (mean, sd, seeds)


def check_expected(expected: Any, own: Sweep, where: str) -> Expected:
    """EXPECTED of one variant, checked.

    Raises:
      ValueError: an arm or measure that is not there, or a number that is no (mean, sd, seeds).
    """
    names = tuple(measure.name for measure in own.measures)
    for arm, numbers in expected.items():
        shapes.check_choice(f"an arm of EXPECTED ({where})", arm, tuple(own.arms))
        for measure, value in numbers.items():
            shapes.check_choice(f"a measure of EXPECTED, {arm} ({where})", measure, names)
            right = isinstance(value, tuple) and len(value) == 3
            if not right or value[1] < 0 or value[2] < 2:
                raise ValueError(
                    "EXPECTED must hold (mean, sd, seeds) with at least 2 seeds; got "
                    f"{value!r} for {measure} of {arm} ({where})."
                )
    return expected

"""What a sweep's numbers say: means, paired differences, gates, EXPECTED, and a verdict."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.evals import estimate, significance
from alignjax.lifecycles import lifecycle
from alignjax.sweeps import numbers, record

FALSE_ALARM = 0.01  # chance that any number of a sound sweep leaves its band
LEVEL = 0.95  # of every interval
ROUNDING = 1e-6  # relative: what an sd of 0 still allows
HOLDS, FAILS, OPEN = "holds", "fails", "open"


class Summary(NamedTuple):
    """Of a measure of an arm over seeds; sd is that of one seed."""

    mean: float
    sd: float
    n: int


class Difference(NamedTuple):
    """Of a measure: an arm minus the baseline over the seeds that both have."""

    measure: str
    arm: str
    value: float
    low: float
    high: float
    p: float
    adjusted: float  # by Holm over the arms
    n: int


class Agreement(NamedTuple):
    """Of a number with EXPECTED: its place in units of the standard error, and the band's edge."""

    arm: str
    measure: str
    ours: Summary
    expected: Summary
    z: float
    band: float

    @property
    def agrees(self) -> bool:
        return abs(self.z) <= self.band


class Gate(NamedTuple):
    """A gate with its estimate over seeds."""

    gate: record.Gate
    value: float
    low: float
    high: float
    n: int
    state: str  # holds | fails | open


def _known(values: Mapping[int, float]) -> dict[int, float]:
    return {seed: x for seed, x in values.items() if math.isfinite(x)}


def summary(values: Mapping[int, float]) -> Summary:
    """Mean and sd (of n - 1) over the seeds with a finite number."""
    own = np.array([*_known(values).values()], np.float64)
    if not len(own):
        return Summary(math.nan, math.nan, 0)
    return Summary(
        float(own.mean()), float(own.std(ddof=1)) if len(own) > 1 else math.nan, len(own)
    )


def _estimate(values: Sequence[float]) -> estimate.Estimate:
    own = estimate.mean(np.array(values)) if values else estimate.Estimate(math.nan, math.nan, 0)
    return own if own.n > 1 else own._replace(se=math.nan)


def differences(measured: numbers.Values, own: record.Sweep) -> list[Difference]:
    """Every arm against the baseline, by measure: paired t intervals, Holm over the arms."""
    every = []
    for measure in own.measures:
        base, rows = _known(measured[own.baseline][measure.name]), []
        for arm in own.arms:
            if arm == own.baseline:
                continue
            other = _known(measured[arm][measure.name])
            gap = _estimate([other[seed] - base[seed] for seed in base if seed in other])
            low, high = significance.t_interval(gap, LEVEL)
            rows.append(
                Difference(
                    measure.name,
                    arm,
                    gap.value,
                    low,
                    high,
                    significance.t_test(gap),
                    math.nan,
                    gap.n,
                )
            )
        adjusted = significance.holm([row.p for row in rows])
        every += [row._replace(adjusted=p) for row, p in zip(rows, adjusted, strict=True)]
    return every


def gates(measured: numbers.Values, own: record.Sweep) -> list[Gate]:
    """The gates, each with its interval."""
    return [_gate(measured, gate) for gate in own.gates]


def _gate(measured: numbers.Values, gate: record.Gate) -> Gate:
    values = _known(measured[gate.arm][gate.measure])
    if gate.other:
        other = _known(measured[gate.other][gate.measure])
        both = [seed for seed in values if seed in other]
        if gate.ratio:
            values = {s: values[s] / other[s] for s in both if other[s] != 0}
        else:
            values = {s: values[s] - other[s] for s in both}
    mean = _estimate([*values.values()])
    low, high = significance.t_interval(mean, LEVEL)
    return Gate(gate, mean.value, low, high, mean.n, state(gate, low, high))


def state(gate: record.Gate, low: float, high: float) -> str:
    """Whether the interval satisfies the rule as a whole, nowhere, or in part."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return OPEN
    if gate.rule == "within":
        if abs(low) <= gate.bound and abs(high) <= gate.bound:
            return HOLDS
        return FAILS if low > gate.bound or high < -gate.bound else OPEN
    rule = lifecycle.RULES[gate.rule]
    ends = rule(low, gate.bound), rule(high, gate.bound)
    return HOLDS if all(ends) else OPEN if any(ends) else FAILS


def verdict(judged: Sequence[Gate]) -> str:
    """What the gates say of the claim.

    A premise that does not hold, or a shape of which the seeds do not tell: not testable. A shape
    that fails: not reproduced. All shapes, but not all sizes: shape only. All gates must hold
    together, so each is tested at the whole level.
    """
    by_kind = {kind: [g.state for g in judged if g.gate.kind == kind] for kind in record.KINDS}
    if not judged or any(own != HOLDS for own in by_kind["premise"]):
        return record.UNTESTABLE
    if FAILS in by_kind["shape"]:
        return record.NOT
    if OPEN in by_kind["shape"]:
        return record.UNTESTABLE
    return record.REPRODUCED if all(own == HOLDS for own in by_kind["size"]) else record.SHAPE


def agreements(measured: numbers.Values, expected: record.Expected) -> list[Agreement]:
    """Every number of EXPECTED beside ours.

    z = (ours - mean) / (sd sqrt(1 / n + 1 / m)), of n seeds there and m here, is Student's t with
    n - 1 degrees of freedom where both are of one normal law. The band's edge is its quantile of
    `FALSE_ALARM` over the count of numbers (Bonferroni).
    """
    rows = []
    count = sum(len(own) for own in expected.values())
    for arm, own in expected.items():
        for measure, (mean, sd, n) in own.items():
            ours = summary(measured[arm][measure])
            band = significance.t_quantile(FALSE_ALARM / count, n - 1)
            there = Summary(mean, sd, n)
            rows.append(Agreement(arm, measure, ours, there, place(ours, there), band))
    return rows


def place(ours: Summary, expected: Summary) -> float:
    """How many standard errors our mean is from the expected one; nan without seeds of ours."""
    if not ours.n:
        return math.nan
    gap = ours.mean - expected.mean
    error = max(expected.sd, ROUNDING * abs(expected.mean))
    error *= math.sqrt(1 / expected.n + 1 / ours.n)
    return 0.0 if gap == 0 else gap / error if error else math.copysign(math.inf, gap)


def as_dict(row: Any) -> dict[str, Any]:
    """A row for JSON; what is not finite is null."""
    plain: dict[str, Any] = {}
    for name, value in row._asdict().items():
        if isinstance(value, Summary):
            plain[name] = as_dict(value)
        elif not isinstance(value, record.Gate):
            lost = isinstance(value, float) and not math.isfinite(value)
            plain[name] = None if lost else value
    return plain

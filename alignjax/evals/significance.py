"""Tests of differences: exact for pairs of right and wrong, by t, and for many at once."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from alignjax.evals import estimate


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p of rows that only one side has right: each is a toss of a fair coin.

    Reference: McNemar (1947), by the binomial distribution.
    """
    total = only_a + only_b
    return 1.0 if total == 0 else float(stats.binomtest(only_a, total).pvalue)


def holm(chances: Sequence[float]) -> list[float]:
    """p adjusted so that the chance of any false finding among all stays below the level.

    NaN stays, and counts for nothing.

    Reference: Holm (1979).
    """
    values = np.array(chances, np.float64)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    values[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in values]


def t_test(own: estimate.Estimate) -> float:
    """The two-sided p of an estimate's being 0, by t with a degree of freedom for each cluster
    but one."""
    if own.n < 2 or not (math.isfinite(own.se) and math.isfinite(own.value)):
        return math.nan
    if own.se == 0:
        return 1.0 if own.value == 0 else 0.0
    return float(2 * stats.t.sf(abs(own.value) / own.se, own.n - 1))


def t_interval(own: estimate.Estimate, level: float = 0.95) -> tuple[float, float]:
    """value -+ t se, with the quantile of t of (1 + level) / 2; NaN where nothing tells the error.

    Reference: Student (1908).
    """
    if own.n < 2 or not math.isfinite(own.se):
        return math.nan, math.nan
    reach = float(stats.t.ppf((1 + level) / 2, own.n - 1)) * own.se
    return own.value - reach, own.value + reach


def t_quantile(chance: float, freedom: int) -> float:
    """The number that |t| of so many degrees of freedom exceeds with this chance."""
    return float(stats.t.isf(chance / 2, freedom))

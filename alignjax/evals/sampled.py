"""Rates of all traffic from a sample of it whose probabilities are known: Horvitz and Thompson."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignjax.evals import estimate


class Rates(NamedTuple):
    """A guard's errors on all traffic. false_positive: blocked among safe exchanges.
    false_negative: allowed among unsafe ones. unsafe: their share of all."""

    false_positive: estimate.Estimate
    false_negative: estimate.Estimate
    unsafe: estimate.Estimate


def total(values: np.ndarray, probability: np.ndarray) -> estimate.Estimate:
    """The sum over all traffic of values [n] that the sample shows; unbiased.

    sum y / pi, with the standard error of independent choices, sqrt(sum (1 - pi) y^2 / pi^2).
    Reference: Horvitz and Thompson (1952).
    """
    values, pi = np.asarray(values, np.float64), _checked(probability)
    variance = np.sum((1 - pi) * values**2 / pi**2)
    return estimate.Estimate(float(np.sum(values / pi)), math.sqrt(variance), len(values))


def ratio(above: np.ndarray, below: np.ndarray, probability: np.ndarray) -> estimate.Estimate:
    """sum(above) / sum(below) over all traffic, [n] each of the sample; NaN where below is all 0.

    The standard error is of the linearised ratio over samples of new traffic like this one:
    sqrt(sum (e / pi)^2) / sum(below / pi), e = above - ratio below.
    """
    pi = _checked(probability)
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    size = float(np.sum(below / pi))
    n = int(np.sum(below != 0))
    if not size:
        return estimate.Estimate(math.nan, math.nan, 0)
    value = float(np.sum(above / pi)) / size
    error = math.sqrt(np.sum(((above - value * below) / pi) ** 2)) / size
    return estimate.Estimate(value, error, n)


def _checked(probability: np.ndarray) -> np.ndarray:
    pi = np.asarray(probability, np.float64)
    if len(pi) and not (pi.min() > 0 and pi.max() <= 1):
        raise ValueError(f"probabilities must lie in (0, 1]; got {pi.min():g} to {pi.max():g}.")
    return pi


def reviewed_probability(
    probability: Sequence[float], strata: Sequence[str], is_reviewed: np.ndarray
) -> np.ndarray:
    """[n]: the probability that an exchange was taken and has been judged by now.

    Exchanges of a stratum are judged in random order: each had the same chance to be among those
    judged so far. A stratum of which none is judged keeps 0.
    """
    pi, kinds = np.asarray(probability, np.float64), np.asarray(strata, object)
    found = pi.copy()
    for kind in set(strata):
        found[kinds == kind] *= np.mean(is_reviewed[kinds == kind])
    return found


def rates(blocked: np.ndarray, unsafe: np.ndarray, probability: np.ndarray) -> Rates:
    """A guard's error rates on all traffic, of judged exchanges [n].

    unsafe: [n] in [0, 1], the share of raters who say so.
    """
    blocked, unsafe = np.asarray(blocked, np.float64), np.asarray(unsafe, np.float64)
    safe = 1 - unsafe
    return Rates(
        ratio(blocked * safe, safe, probability),
        ratio((1 - blocked) * unsafe, unsafe, probability),
        ratio(unsafe, np.ones_like(unsafe), probability),
    )


def log_wealth(unsafe: np.ndarray, probability: np.ndarray, size: int, baseline: float) -> float:
    """Log evidence in nats that the share of unsafe traffic is above a baseline.

    Above log(1 / alpha) the baseline is refuted at level alpha, one-sided, at any time: it is a bet
    on unsafe / pi, whose mean over traffic is the share, averaged over stakes. Exchanges that
    are not judged are evidence of nothing unsafe.

    Args:
      unsafe, probability: [n] of judged exchanges. size: all exchanges of that time. baseline: in
      (0, 1).

    Raises:
      ValueError: baseline outside (0, 1), or fewer exchanges than judged ones.

    Reference: Waudby-Smith and Ramdas (2024), arXiv 2010.09686, section 4.
    """
    if not 0 < baseline < 1 or size < len(unsafe):
        raise ValueError(
            f"a baseline must lie in (0, 1), and all exchanges be no fewer than judged ones; got "
            f"{baseline:g}, {size} and {len(unsafe)} (drift)."
        )
    seen = np.asarray(unsafe, np.float64) / _checked(probability)
    stakes = np.array([0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]) / baseline
    logs = np.sum(np.log1p(stakes[:, None] * (seen[None] - baseline)), axis=1)
    logs += (size - len(seen)) * np.log1p(-stakes * baseline)
    return float(np.logaddexp.reduce(logs) - math.log(len(stakes)))

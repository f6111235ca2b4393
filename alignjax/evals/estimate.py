"""Estimates: a mean with its standard error."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean over `n` independent rows and its standard error."""

    value: float
    se: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """For results.json."""
        return {"value": self.value, "se": self.se, "n": self.n}


def mean(rows: np.ndarray) -> Estimate:
    """The mean of [n] values; se = sd / sqrt(n)."""
    rows = np.asarray(rows, np.float64)
    se = rows.std(ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
    return Estimate(float(rows.mean()), float(se), len(rows))


def clustered(rows: np.ndarray) -> Estimate:
    """The mean over [P] prompts of the means of their [P, n] samples; se of the prompts' means.

    Samples of a prompt are not independent of one another, prompts are. NaN counts for nothing; a
    prompt without a number is left out.
    """
    rows = np.asarray(rows, np.float64)
    rows = rows[np.isfinite(rows).any(axis=1)]
    return mean(np.nanmean(rows, axis=1)) if len(rows) else Estimate(math.nan, math.nan, 0)


def ratio(totals: np.ndarray, weights: np.ndarray) -> Estimate:
    """sum(totals) / sum(weights) over [n] rows, for per-token means of rows of different lengths.

    The standard error is that of the linearised ratio: residuals total - ratio * weight.
    """
    totals, weights = np.asarray(totals, np.float64), np.asarray(weights, np.float64)
    value = totals.sum() / weights.sum()
    residual = totals - value * weights
    n = len(totals)
    se = math.sqrt(n / max(n - 1, 1) * float(np.sum(residual**2))) / weights.sum()
    return Estimate(float(value), float(se), n)


def cluster_se(influences: np.ndarray, clusters: Sequence[Hashable]) -> float:
    """The standard error of a statistic of [n] rows that hang together within clusters.

    sqrt(C / (C - 1) sum over clusters of (sum of its influences)^2), C clusters. Of a mean, a row's
    influence is (x - mean) / n. NaN for a single cluster: nothing tells how clusters differ.

    Reference: Miller (2024), arXiv 2411.00640, section 2.2, with the correction for few clusters.
    """
    numbers = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    count = len(numbers)
    if count < 2:
        return math.nan
    places = np.array([numbers[cluster] for cluster in clusters])
    sums = np.bincount(places, np.asarray(influences, np.float64), count)
    return math.sqrt(count / (count - 1) * float(np.sum(sums**2)))


def influences(totals: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """(sum(totals) / sum(weights), the influence of each of [n] rows on it); NaN without weight."""
    totals, weights = np.asarray(totals, np.float64), np.asarray(weights, np.float64)
    whole = weights.sum()
    if not whole > 0:
        return math.nan, np.zeros_like(totals)
    value = float(totals.sum() / whole)
    return value, (totals - value * weights) / whole


def clustered_ratio(
    totals: np.ndarray, weights: np.ndarray, clusters: Sequence[Hashable]
) -> Estimate:
    """sum(totals) / sum(weights) over [n] rows in clusters; n counts the clusters.

    With weights of 1 it is the mean, with clusters of one row each the error of `ratio`.
    """
    value, own = influences(totals, weights)
    if math.isnan(value):
        return Estimate(math.nan, math.nan, 0)
    return Estimate(value, cluster_se(own, clusters), len(set(clusters)))


def exponential(own: Estimate) -> Estimate:
    """exp of an estimate, such as the perplexity of nats a token; se = exp(value) se."""
    value = math.exp(own.value)
    return Estimate(value, value * own.se, own.n)


def correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Pearson's correlation of [n] pairs; se = (1 - r^2) / sqrt(n)."""
    r = float(np.corrcoef(np.asarray(x, np.float64), np.asarray(y, np.float64))[0, 1])
    return Estimate(r, (1 - r * r) / math.sqrt(len(x)), len(x))

"""Rates of a population by an imperfect judge, corrected by what people labelled of it.

Two ways: with the judge's sensitivity and specificity (`rogan_gladen`), measured on labelled items
and uncertain themselves; or by adding to people's own mean what the judge explains of their
labels (`prediction_powered`), which needs no model of its errors.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from alignjax.core import shapes
from alignjax.evals import estimate

LEVEL = 0.95
WEAKEST = 0.1  # Se + Sp - 1 below which a judge says next to nothing


class Rate(NamedTuple):
    """An estimate, its standard error and its interval, cut to [0, 1] where it is a share."""

    value: float
    se: float
    low: float
    high: float


def _rate(value: float, variance: float, level: float, within: bool) -> Rate:
    se = float(max(variance, 0.0)) ** 0.5
    far = float(stats.norm.ppf((1 + level) / 2)) * se
    low, high = value - far, value + far
    if within:
        value, low, high = (float(np.clip(x, 0.0, 1.0)) for x in (value, low, high))
    return Rate(float(value), se, float(low), float(high))


def rogan_gladen(
    positive: int,
    judged: int,
    *,
    true_positive: int,
    labelled_positive: int,
    true_negative: int,
    labelled_negative: int,
    level: float = LEVEL,
) -> Rate:
    """The share of positives, (p + Sp - 1) / (Se + Sp - 1), p the share that the judge calls so.

    Its variance has three terms (delta method): of p, of Se and of Sp.

    Args:
      positive, judged: items that the judge called positive, of how many. true_positive,
      labelled_positive: those that it called so, of items that people called positive: Se.
      true_negative, labelled_negative: the same of negatives: Sp.

    Raises:
      ValueError: counts do not fit, or Se + Sp - 1 < 0.1: no correction makes such a judge useful.

    Reference: Rogan and Gladen (1978).
    """
    p, p_var = _share("positive", positive, judged)
    return _corrected(
        p, p_var,
        _share("true_positive", true_positive, labelled_positive),
        _share("true_negative", true_negative, labelled_negative),
        level,
    )  # fmt: skip


def rogan_gladen_of(
    judged: estimate.Estimate,
    *,
    true_positive: int,
    labelled_positive: int,
    true_negative: int,
    labelled_negative: int,
    level: float = LEVEL,
) -> Rate:
    """The same of a share with its own standard error, such as one over clusters.

    Raises:
      ValueError: there is no share, and as of `rogan_gladen`.
    """
    if not np.isfinite(judged.value):
        raise ValueError("a share must be of one item at least; got none (rogan_gladen_of).")
    return _corrected(
        judged.value, judged.se**2,
        _share("true_positive", true_positive, labelled_positive),
        _share("true_negative", true_negative, labelled_negative),
        level,
    )  # fmt: skip


def _share(name: str, hits: int, n: int) -> tuple[float, float]:
    """(the share, its variance) of a count."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(
            f"{name} must lie in 0 .. {n}, of one item at least; got {hits} of {n} "
            "(rogan_gladen). Count again."
        )
    return hits / n, hits / n * (1 - hits / n) / n


def _corrected(
    p: float,
    p_var: float,
    sensitivity: tuple[float, float],
    specificity: tuple[float, float],
    level: float,
) -> Rate:
    (se, se_var), (sp, sp_var) = sensitivity, specificity
    power = se + sp - 1
    if power < WEAKEST:
        raise ValueError(
            f"sensitivity + specificity - 1 must be {WEAKEST} at least; got {power:.3f} (Se "
            f"{se:.3f}, Sp {sp:.3f}). Label more items, or take another judge."
        )
    value = (p + sp - 1) / power
    variance = (p_var + value**2 * se_var + (1 - value) ** 2 * sp_var) / power**2
    return _rate(value, variance, level, True)


class Powered(NamedTuple):
    """rate: the estimate. weight: lambda, how far the judge is used. effective_n: labels by people
    alone that would give the same error."""

    rate: Rate
    weight: float
    effective_n: float


def prediction_powered(
    labels: np.ndarray,
    judged: np.ndarray,
    unlabelled: np.ndarray,
    *,
    tuned: bool = True,
    level: float = LEVEL,
) -> Powered:
    """The mean label of a population of which people labelled n items and a judge all n + N.

    mean(y) + lambda (mean f of the N - mean f of the n); lambda = cov(y, f) / ((1 + n / N) var f)
    has the least variance, and 1 (`tuned=False`) may be worse than people alone.

    Args:
      labels: [n], by people. judged: [n], the judge's of the same items. unlabelled: [N], the
      judge's of the others. NaN is left out, of a labelled item both numbers.

    Raises:
      ValueError: labels and judged differ in shape, or fewer than two items on a side.

    Reference: Angelopoulos et al. (2023), arXiv 2301.09633; tuning: (2023), arXiv 2311.01453.
    """
    y, f, rest = (np.asarray(x, np.float64) for x in (labels, judged, unlabelled))
    if y.shape != f.shape or y.ndim != 1:
        raise ValueError(
            f"labels and judged must be [n] both; got {list(y.shape)} and {list(f.shape)}."
        )
    kept = np.isfinite(y) & np.isfinite(f)
    y, f, rest = y[kept], f[kept], rest[np.isfinite(rest)]
    n, others = len(y), len(rest)
    if n < 2 or others < 2:
        raise ValueError(f"two items at least must be on both sides; got {n} and {others}.")
    weight = 1.0
    if tuned:
        spread = float(np.concatenate([f, rest]).var(ddof=1))
        both = float(np.cov(y, f)[0, 1])
        weight = both / ((1 + n / others) * spread) if spread > 0 else 0.0
    value = float(y.mean() + weight * (rest.mean() - f.mean()))
    variance = float((y - weight * f).var(ddof=1) / n + weight**2 * rest.var(ddof=1) / others)
    alone = float(y.var(ddof=1))
    rate = _rate(value, variance, level, bool(np.isin(y, (0, 1)).all()))
    return Powered(rate, weight, alone / variance if variance > 0 else float("inf"))


def effective_labels(labels: int, judged: int, correlation: float) -> float:
    """n / (1 - rho^2 N / (n + N)): labels by people that tuned prediction-powered ones are worth.

    labels: n. judged: N. correlation: of the judge's labels with people's; 2 a - 1 for a judge of
    accuracy a on balanced labels.
    """
    shapes.check_number("labels", labels, minimum=1)
    shapes.check_number("correlation", correlation, minimum=-1, maximum=1)
    return labels / (1 - correlation**2 * judged / (labels + judged))

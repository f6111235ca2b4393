"""How far raters agree: raw, Cohen, Fleiss, Krippendorff, Kendall, each with an interval.

Ratings are an array [R, N] of float64, rater by item, NaN where a rater did not judge: a gap. Two
things are no agreement and no disagreement, and never counted: an item that only one rater saw, and
a skip, which is a gap. What can't be computed (no overlap, one category alone) is NaN, not 0 or 1.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

SKIP = "skip"  # the label of a judgement that is none
METRICS = ("nominal", "ordinal", "interval")
DRAWS = 1000  # of a bootstrap
LEVEL = 0.95

Statistic = Callable[[np.ndarray], float]  # of ratings [R, N]


class Ratings(NamedTuple):
    """Judgements as a table.

    values: [R, N] float64, NaN where there is none; codes of `labels`, or numbers. raters: R names.
    items: N names. labels: the name of each code, in order; () where values are numbers.
    """

    values: np.ndarray
    raters: tuple[str, ...]
    items: tuple[str, ...]
    labels: tuple[str, ...] = ()


class Interval(NamedTuple):
    """An estimate and its confidence interval, over `n` items; NaN where it is undefined."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, which has no NaN: undefined is null."""
        named = {"value": self.value, "low": self.low, "high": self.high}
        return {**{k: float(v) if np.isfinite(v) else None for k, v in named.items()}, "n": self.n}


UNDEFINED = Interval(float("nan"), float("nan"), float("nan"), 0)


def table(
    judgements: Iterable[tuple[str, str, str | float]], labels: Sequence[str] = ()
) -> Ratings:
    """Ratings of (item, rater, value) triples; items and raters in the order of their first one.

    Args:
      judgements: value is a label or a number; "skip" and NaN are gaps.
      labels: of the codes, in order; with none, values must be numbers.

    Raises:
      ValueError: a rater judged an item twice, or a value is no label and no number.
    """
    codes = {label: float(code) for code, label in enumerate(labels)}
    raters: dict[str, int] = {}
    items: dict[str, int] = {}
    cells: dict[tuple[int, int], float] = {}
    for item, rater, value in judgements:
        place = (raters.setdefault(rater, len(raters)), items.setdefault(item, len(items)))
        if place in cells:
            raise ValueError(
                f"a rater must judge an item once; got two judgements by {rater!r} (item {item!r})."
                " Pass the latest, and repeats as a rater of their own."
            )
        cells[place] = _code(value, codes, item)
    values = np.full((len(raters), len(items)), np.nan)
    for place, number in cells.items():
        values[place] = number
    return Ratings(values, tuple(raters), tuple(items), tuple(labels))


def _code(value: str | float, codes: dict[str, float], item: str) -> float:
    if value == SKIP:
        return float("nan")
    if isinstance(value, str):
        if value not in codes:
            raise ValueError(
                f"a judgement must be one of {', '.join((*codes, SKIP))}; got {value!r} (item "
                f"{item!r}). Name its label, or correct it."
            )
        return codes[value]
    return float(value)


def checked(values: np.ndarray) -> np.ndarray:
    """[R, M] float64: the items that two raters or more judged.

    Raises:
      ValueError: not an array of two axes, or an infinite rating.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2:
        raise ValueError(f"ratings must have shape [R, N]; got {list(values.shape)}. Add an axis.")
    if np.isinf(values).any():
        raise ValueError("ratings must be finite, or NaN for a gap; got an infinity. Correct it.")
    return values[:, np.isfinite(values).sum(axis=0) >= 2]


def counts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(categories [C] ascending, how many raters gave each [M, C]) of the items of `checked`."""
    values = checked(values)
    categories = np.unique(values[np.isfinite(values)])
    return categories, (values[:, :, None] == categories).sum(axis=0).astype(np.float64)


def raw(values: np.ndarray) -> float:
    """Share of pairs of judgements on the same item that are equal; every pair counts alike."""
    _, given = counts(values)
    pairs = given.sum(axis=1) * (given.sum(axis=1) - 1)
    return _ratio(float((given * (given - 1)).sum()), float(pairs.sum()))


def unanimous(values: np.ndarray) -> float:
    """Share of the items with two judgements or more on which all are equal."""
    _, given = counts(values)
    return _ratio(float((given.max(axis=1, initial=0) == given.sum(axis=1)).sum()), len(given))


def cohen(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa of two raters, [N] each: (p_o - p_e) / (1 - p_e), p_e from each one's own use
    of the categories.

    Reference: Cohen (1960).
    """
    first, second = checked(np.stack([first, second]))
    if not len(first):
        return float("nan")
    categories = np.unique([first, second])
    shares = [(row[:, None] == categories).mean(axis=0) for row in (first, second)]
    chance = float(shares[0] @ shares[1])
    return _ratio(float(np.mean(first == second)) - chance, 1.0 - chance)


def fleiss(values: np.ndarray) -> float:
    """Fleiss' kappa of items that equally many raters judged, who may differ between items.

    NaN where items have different numbers of judgements: it is not defined for gaps, alpha is.

    Reference: Fleiss (1971).
    """
    _, given = counts(values)
    if not len(given) or len(set(given.sum(axis=1))) > 1:
        return float("nan")
    raters = given[0].sum()
    observed = float(np.mean((given * (given - 1)).sum(axis=1) / (raters * (raters - 1))))
    chance = float(np.sum(np.square(given.sum(axis=0) / given.sum())))
    return _ratio(observed - chance, 1.0 - chance)


def krippendorff(values: np.ndarray, metric: str = "nominal") -> float:
    """Krippendorff's alpha, 1 - observed / expected disagreement; gaps are allowed.

    A pair of values c, k on an item disagrees by 1 (nominal), by (c - k)^2 (interval), or by the
    square of the number of judgements between the two, half of those at either end (ordinal).

    Raises:
      ValueError: an unknown metric.

    Reference: Krippendorff (2011), Computing Krippendorff's alpha-reliability.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {metric!r}. Take one.")
    categories, given = counts(values)
    weight = 1.0 / np.maximum(given.sum(axis=1, keepdims=True) - 1, 1)
    together = given.T @ (weight * given) - np.diag((weight * given).sum(axis=0))
    total = together.sum(axis=0)
    far = _distance(categories, total, metric)
    expected = float(total @ far @ total) / max(float(total.sum()) - 1, 1)
    return 1.0 - _ratio(float((together * far).sum()), expected)


def _distance(categories: np.ndarray, total: np.ndarray, metric: str) -> np.ndarray:
    """[C, C]: squared distances of categories."""
    if metric == "nominal":
        return 1.0 - np.eye(len(categories))
    place = categories if metric == "interval" else np.cumsum(total) - total / 2
    return np.square(place[:, None] - place[None, :])


def kendall(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau-b of two rankings of the same K candidates, ties allowed, NaN is unranked.

    NaN where fewer than two candidates are ranked by both, or one ranks all alike.
    """
    first, second = checked(np.stack([first, second]))
    return float(stats.kendalltau(first, second).statistic) if len(first) > 1 else float("nan")


def kendall_mean(rankings: np.ndarray) -> np.ndarray:
    """[N]: the mean tau-b over the pairs of raters that ranked an item, of rankings [R, N, K]."""
    rankings = np.asarray(rankings, np.float64)
    found = np.full(rankings.shape[1], np.nan)
    for item in range(rankings.shape[1]):
        both = itertools.combinations(rankings[:, item], 2)
        taus = [tau for pair in both if np.isfinite(tau := kendall(*pair))]
        found[item] = np.mean(taus) if taus else np.nan
    return found


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def share(hits: int, n: int, *, level: float = LEVEL) -> Interval:
    """The exact interval of a share of `n` independent items (Clopper and Pearson 1934)."""
    if not n:
        return UNDEFINED
    found = stats.binomtest(hits, n).proportion_ci(level, method="exact")
    return Interval(hits / n, float(found.low), float(found.high), n)


def bootstrap(
    statistic: Statistic,
    values: np.ndarray,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """A statistic of ratings [R, N] with its percentile interval: items are drawn again, not
    judgements, as those of one item are not independent of one another.

    The same seed gives the same interval. Draws on which the statistic is undefined are left out.
    """
    values = checked(values)
    n = values.shape[1]
    if not n:
        return UNDEFINED
    rng = np.random.default_rng(seed)
    found = np.array([statistic(values[:, rng.integers(0, n, n)]) for _ in range(draws)])
    found = found[np.isfinite(found)]
    ends = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]) if len(found) else [np.nan] * 2
    return Interval(statistic(values), float(ends[0]), float(ends[1]), n)


def expected_agreement(accuracy: float) -> float:
    """a^2 + (1 - a)^2: raw agreement of two raters of that accuracy on two balanced labels."""
    return accuracy**2 + (1 - accuracy) ** 2


def expected_kappa(accuracy: float) -> float:
    """(2 a - 1)^2: the kappa of two raters of that accuracy on two balanced labels.

    The truth itself has kappa 2 a - 1 with either, the root of that: no judge can have more.
    """
    return (2 * accuracy - 1) ** 2

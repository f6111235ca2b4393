"""What is known of a set of raters: their agreement with intervals, together and each by itself."""

from typing import Any, NamedTuple

import numpy as np

from alignjax.feedback import agreement


class RaterSummary(NamedTuple):
    """One rater beside the others, over items that another one saw too.

    judged: items with a judgement. overlapping: those of them that others judged. raw: share of
    pairs of own and others' judgements that are equal. kappa: the mean of Cohen's kappa with each
    other rater, weighted by common items. alpha_without: Krippendorff's alpha of all the others.
    """

    rater: str
    judged: int
    overlapping: int
    raw: agreement.Interval
    kappa: agreement.Interval
    alpha_without: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        intervals = {"raw": self.raw.as_dict(), "kappa": self.kappa.as_dict()}
        alpha = float(self.alpha_without) if np.isfinite(self.alpha_without) else None
        return {**self._asdict(), **intervals, "alpha_without": alpha}


class Summary(NamedTuple):
    """Agreement of all raters, and of each.

    items: with a judgement. overlapping: those that two or more judged, on which all else is
    computed. gaps: pairs of rater and item without a judgement.
    """

    metric: str
    items: int
    overlapping: int
    gaps: int
    raw: agreement.Interval
    unanimous: agreement.Interval
    fleiss: agreement.Interval
    alpha: agreement.Interval
    raters: tuple[RaterSummary, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {
            name: value.as_dict() if isinstance(value, agreement.Interval) else value
            for name, value in self._asdict().items()
        }
        return {**found, "raters": [rater.as_dict() for rater in self.raters]}


def summary(
    ratings: agreement.Ratings,
    metric: str = "nominal",
    *,
    seed: int = 0,
    draws: int = agreement.DRAWS,
) -> Summary:
    """The agreement of raters; intervals are at 95 %.

    The share of unanimous items, and raw agreement where two raters judged each, are shares of
    independent items, with exact intervals; the others are drawn again over items.

    Raises:
      ValueError: an unknown metric, or ratings of another shape.
    """
    values = np.asarray(ratings.values, np.float64)
    both = agreement.checked(values)
    judged = np.isfinite(values)

    def alpha(rows: np.ndarray) -> float:
        return agreement.krippendorff(rows, metric)

    options = {"seed": seed, "draws": draws}
    equal = agreement.unanimous(both)
    once = agreement.share(round(np.nan_to_num(equal) * both.shape[1]), both.shape[1])
    pairs_only = bool((np.isfinite(both).sum(axis=0) == 2).all())
    return Summary(
        metric=metric,
        items=int(judged.any(axis=0).sum()),
        overlapping=both.shape[1],
        gaps=int((~judged).sum()),
        raw=once if pairs_only else agreement.bootstrap(agreement.raw, both, **options),
        unanimous=once,
        fleiss=agreement.bootstrap(agreement.fleiss, both, **options),
        alpha=agreement.bootstrap(alpha, both, **options),
        raters=tuple(
            _rater(ratings, row, metric, seed, draws) for row in range(len(ratings.raters))
        ),
    )


def _rater(
    ratings: agreement.Ratings, row: int, metric: str, seed: int, draws: int
) -> RaterSummary:
    values = np.asarray(ratings.values, np.float64)
    order = [row, *(other for other in range(len(values)) if other != row)]
    own = values[order][:, np.isfinite(values[row])]
    options = {"seed": seed, "draws": draws}
    return RaterSummary(
        rater=ratings.raters[row],
        judged=own.shape[1],
        overlapping=agreement.checked(own).shape[1],
        raw=agreement.bootstrap(_own_raw, own, **options),
        kappa=agreement.bootstrap(_own_kappa, own, **options),
        alpha_without=agreement.krippendorff(np.delete(values, row, axis=0), metric),
    )


def _own_raw(values: np.ndarray) -> float:
    """Share of pairs of the first rater's and another's judgement that are equal."""
    pairs = np.isfinite(values[1:]) & np.isfinite(values[0])
    if not pairs.any():
        return float("nan")
    return float((pairs & (values[1:] == values[0])).sum() / pairs.sum())


def _own_kappa(values: np.ndarray) -> float:
    """The mean kappa of the first rater with each other one, by common items."""
    kappas = np.array([agreement.cohen(values[0], other) for other in values[1:]])
    common = (np.isfinite(values[1:]) & np.isfinite(values[0])).sum(axis=1)
    known = np.isfinite(kappas)
    return float(np.average(kappas[known], weights=common[known])) if known.any() else float("nan")

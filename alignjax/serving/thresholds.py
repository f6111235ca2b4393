"""Thresholds of a guard by order statistics, with what is known of the rate that they let happen.

Of n safe rows, which the guard was not trained on, the threshold is the k-th smallest score,
k = ceil((n + 1)(1 - alpha)); a text is blocked above it. Safe texts like those rows are then
blocked at a rate that is Beta(n + 1 - k, k) over calibration sets: its mean (n + 1 - k) / (n + 1)
is at most alpha, whatever the law of the scores (exactly so without ties; ties make it lower).
"""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from alignjax.core import shapes, untrusted

ALL = "*"  # all languages together: for texts of a language without thresholds of its own


class Threshold(NamedTuple):
    """A threshold: the k-th of n safe scores, for a false-positive rate of at most alpha."""

    value: float
    n: int
    k: int
    alpha: float

    @property
    def mean(self) -> float:
        """The expected false-positive rate."""
        return (self.n + 1 - self.k) / (self.n + 1)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the false-positive rate lies in this share of calibrations."""
        low, high = stats.beta(self.n + 1 - self.k, self.k).interval(level)
        return float(low), float(high)


def order_statistic(safe: np.ndarray, alpha: float, where: str = "") -> Threshold:
    """The threshold of the scores [n] of safe rows.

    Raises:
      ValueError: alpha outside (0, 1), a score is NaN, or fewer than 1 / alpha rows.
    """
    shapes.check_number("max_false_positive", alpha, above=0, below=1)
    n = len(safe)
    if n * alpha < 1 - 1e-12:
        raise ValueError(
            f"safe rows must be at least {math.ceil(1 / alpha - 1e-9)} for a false-positive rate "
            f"of {alpha:g}; got {n} ({where or 'calibration'}). Add rows, allow a higher rate, or "
            "leave the language to all others."
        )
    lost = int(np.isnan(safe).sum())
    if lost:
        raise ValueError(
            f"scores must be known to calibrate by them; got {lost} of {n} that "
            f"could not be told ({where or 'calibration'})."
        )
    k = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    return Threshold(float(np.sort(np.asarray(safe, np.float64))[k - 1]), n, k, alpha)


class Thresholds(NamedTuple):
    """Thresholds by language and category. guard: the fingerprint of what was calibrated."""

    guard: str
    by: Mapping[str, Mapping[str, Threshold]]

    def of(self, language: str) -> Mapping[str, Threshold]:
        """Those of a language; of one that has none, those of all together."""
        return self.by.get(language, self.by[ALL])

    def check(self, guard: str) -> None:
        """Raises ValueError where they are another guard's."""
        if guard != self.guard:
            raise ValueError(
                f"thresholds must be those of the guard; got a guard {guard[:12]} and thresholds "
                f"of {self.guard[:12]} (guard). Calibrate it anew."
            )


def calibrate(
    scores: np.ndarray,
    labels: np.ndarray,
    languages: Sequence[str],
    categories: Sequence[str],
    alpha: float,
    *,
    guard: str = "",
    own: Sequence[str] | None = None,
) -> Thresholds:
    """Thresholds for every language and category, and for all languages together.

    Args:
      scores: [N, C] probabilities. labels: [N, C], 0 where a row is safe in a category; NaN is no
      label, and the row has no part in that category. languages: of the rows. alpha: the highest
      false-positive rate of a category. own: languages with thresholds of their own; None is all.

    Raises:
      ValueError: a language and category has too few safe rows, or a score that is NaN.
    """
    named = sorted(set(languages) - {"", ALL}) if own is None else list(own)
    of_row, found = np.asarray(languages, object), dict[str, dict[str, Threshold]]()
    for language in (*named, ALL):
        rows = np.ones(len(of_row), bool) if language == ALL else of_row == language
        found[language] = {
            category: order_statistic(
                scores[rows & (labels[:, place] <= 0), place], alpha,
                f"{'all languages' if language == ALL else language}, {category}",
            )
            for place, category in enumerate(categories)
        }  # fmt: skip
    return Thresholds(guard, found)


def write(path: str | pathlib.Path, own: Thresholds) -> None:
    """Writes thresholds as JSON."""
    by = {
        language: {name: one._asdict() for name, one in rows.items()}
        for language, rows in own.by.items()
    }
    text = json.dumps({"guard": own.guard, "thresholds": by}, indent=1, ensure_ascii=False)
    pathlib.Path(path).write_text(text + "\n", encoding="utf-8")


def read(path: str | pathlib.Path) -> Thresholds:
    """Thresholds that `write` wrote.

    Raises:
      ValueError: there is no such file, or it is none of ours.
    """
    try:
        fields = untrusted.read_json(path, untrusted.OPTION)
        by = {
            language: {name: _threshold(one) for name, one in rows.items()}
            for language, rows in fields["thresholds"].items()
        }
        guard = str(fields["guard"])
    except OSError as error:
        raise ValueError(
            f"thresholds must be a file; got {str(path)!r} ({error.strerror}). Write it by "
            "alignjax guard --calibrate."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        by, guard = {}, ""
    if ALL not in by:
        raise ValueError(
            f"thresholds must be as alignjax guard --calibrate writes them; got another ({path})."
        )
    return Thresholds(guard, by)


def _threshold(fields: Mapping[str, Any]) -> Threshold:
    own = Threshold(**fields)
    if not (math.isfinite(own.value) and 1 <= own.k <= own.n):
        raise ValueError("a threshold")
    return own

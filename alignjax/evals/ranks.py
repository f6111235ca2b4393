"""How well scores tell two classes apart: the area under the ROC curve, with its error."""

import math

import numpy as np
from scipy import stats

from alignjax.evals import estimate


def auc(positive: np.ndarray, negative: np.ndarray) -> estimate.Estimate:
    """P(a positive's score is above a negative's), ties half; the standard error is DeLong's.

    Args: scores [m] of positives and [n] of negatives, m, n >= 1.
    Raises: ValueError: one of the two is empty.
    Reference: DeLong, DeLong and Clarke-Pearson (1988).
    """
    m, n = len(positive), len(negative)
    if not m or not n:
        raise ValueError(f"an area under the curve must have both classes; got {m} and {n} rows.")
    both = stats.rankdata(np.concatenate([positive, negative]))
    above = (both[:m] - stats.rankdata(positive)) / n  # share of negatives below each positive
    below = 1 - (both[m:] - stats.rankdata(negative)) / m
    parts = (x.var(ddof=1) / len(x) if len(x) > 1 else 0.0 for x in (above, below))
    return estimate.Estimate(float(above.mean()), math.sqrt(sum(parts)), m + n)

"""Position bias: a rater who takes the answer that stands first, and win rates without it.

The model: with probability b a rater takes the first answer unread, else it answers truly. Choices
are +1 (the first), -1 (the second), 0 (a tie, or both bad) and NaN (a gap), [n]. A tie is a true
answer: it is neither dropped, which would inflate b, nor half a win.
"""

from typing import NamedTuple

import numpy as np

UNKNOWN = float("nan")


class Estimate(NamedTuple):
    """A number and its standard error, of `n` judgements; NaN where it is not identified."""

    value: float
    se: float
    n: int


class WinRate(NamedTuple):
    """How often answer A beats B, as said and with the position bias taken out.

    win, tie, loss: shares of judgements. corrected_*: the same of true answers, (share - b f) /
    (1 - b) with f the share of judgements that show the answer first, 1/2 under balanced order; NaN
    where one order alone was shown. bias: b.
    """

    win: Estimate
    tie: Estimate
    loss: Estimate
    corrected_win: Estimate
    corrected_tie: Estimate
    corrected_loss: Estimate
    bias: Estimate


def _mean(rows: np.ndarray) -> Estimate:
    n = len(rows)
    if n < 2:
        return Estimate(float(rows[0]) if n else UNKNOWN, UNKNOWN, n)
    return Estimate(float(rows.mean()), float(rows.std(ddof=1)) / n**0.5, n)


def _known(choices: np.ndarray) -> np.ndarray:
    """Which choices are no gaps.

    Raises:
      ValueError: another number than -1, 0, 1.
    """
    known = np.isfinite(choices)
    wrong = choices[known & ~np.isin(choices, (-1, 0, 1))]
    if choices.ndim != 1 or wrong.size:
        raise ValueError(
            "choices must be [n] numbers, 1 for the first answer, -1 for the second, 0 for a tie; "
            f"got {wrong[0] if wrong.size else list(choices.shape)}. Recode them."
        )
    return known


def position_bias(choices: np.ndarray) -> Estimate:
    """b = P(first) - P(second) under random order, where P(first) is (1 + b) / 2 without ties.

    Raises:
      ValueError: choices are not [n] of -1, 0, 1, NaN.
    """
    choices = np.asarray(choices, np.float64)
    return _mean(choices[_known(choices)])


def win_rate(choices: np.ndarray, shown_first: np.ndarray) -> WinRate:
    """Win, tie and loss of A against B, raw and corrected for the rater's position bias.

    b is the mean over the two orders of P(first) - P(second), so that the orders need not be
    balanced, only both there. Standard errors are of the delta method, over judgements.

    Args:
      choices: [n]. shown_first: [n] bool, whether A stood first.

    Raises:
      ValueError: shapes differ, or choices are not of -1, 0, 1, NaN.
    """
    choices, first = np.asarray(choices, np.float64), np.asarray(shown_first, bool)
    if choices.shape != first.shape:
        raise ValueError(
            f"shown_first must have the shape of choices, {list(choices.shape)}; got "
            f"{list(first.shape)}."
        )
    known = _known(choices)
    choices, first = choices[known], first[known]
    side = np.where(first, 1.0, -1.0)
    win, tie, loss = (_mean((choices * side == s).astype(float)) for s in (1, 0, -1))
    sizes = [int(first.sum()), int((~first).sum())]
    if min(sizes) < 2:
        unknown = Estimate(UNKNOWN, UNKNOWN, len(choices))
        return WinRate(win, tie, loss, unknown, unknown, unknown, unknown)
    # Influence of each judgement on b, so that every other error follows from it.
    halves = [choices[first].mean(), choices[~first].mean()]
    bias = float(np.mean(halves))
    own = np.where(first, choices - halves[0], choices - halves[1])
    n = len(choices)
    on_bias = own * n / np.where(first, 2.0 * sizes[0], 2.0 * sizes[1])
    answers = choices * side
    stood = (first.astype(float), np.zeros(n), (~first).astype(float))  # the outcome's answer first
    by_outcome = zip((1, 0, -1), stood, strict=True)
    fixed = [_corrected(answers == o, shown, bias, on_bias) for o, shown in by_outcome]
    return WinRate(
        win=win,
        tie=tie,
        loss=loss,
        corrected_win=fixed[0],
        corrected_tie=fixed[1],
        corrected_loss=fixed[2],
        bias=Estimate(bias, float(on_bias.std(ddof=1)) / n**0.5, n),
    )


def _corrected(hits: np.ndarray, shown: np.ndarray, bias: float, on_bias: np.ndarray) -> Estimate:
    """(share of hits - b share shown first) / (1 - b); on_bias: each judgement's influence on b."""
    n = len(hits)
    if bias >= 1:
        return Estimate(UNKNOWN, UNKNOWN, n)
    rest = hits - bias * shown
    value = rest.mean() / (1 - bias)
    influence = (rest - rest.mean() + (value - shown.mean()) * on_bias) / (1 - bias)
    return Estimate(float(value), float(influence.std(ddof=1)) / n**0.5, n)

"""One label of many judgements: majority, weighted votes, Dawid and Skene's model; position bias.

Votes are codes 0 .. C - 1 in an array [R, N], rater by item, NaN for a gap, as in agreement.py.
Every aggregate is a posterior [N, C]: a soft label. An item without a vote has NaN.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from alignjax.core import values as bounds
from alignjax.feedback import agreement

ENOUGH = 30  # items that a rater must share with others before its accuracy is estimated
ROUNDS = 2000  # of expectation and maximisation, at most
TOLERANCE = 1e-7  # change of a probability at which they end
ROUGH = (300, 1e-5)  # the same for the many fits of an interval
SMOOTHING = 0.01  # judgements added to each cell of a rater's confusion matrix
GRID = 41  # accuracies at which an interval looks
EDGE = 1e-3  # accuracies are kept so far from 0 and 1, so that one vote never outweighs all


def one_hot(votes: np.ndarray, categories: int) -> np.ndarray:
    """[R, N, C] float64, all 0 for a gap.

    Raises:
      ValueError: fewer than two categories, not [R, N], or a vote that is no code.
    """
    bounds.check_number("categories", categories, minimum=2)
    votes = np.asarray(votes, np.float64)
    if votes.ndim != 2:
        raise ValueError(f"votes must have shape [R, N]; got {list(votes.shape)}. Add an axis.")
    known = votes[np.isfinite(votes)]
    wrong = known[~np.isin(known, np.arange(categories))]
    if wrong.size:
        raise ValueError(
            f"votes must be codes from 0 to {categories - 1}, or NaN; got {wrong[0]}. Number the "
            "labels from 0."
        )
    return (votes[:, :, None] == np.arange(categories)).astype(np.float64)


def _seen(given: np.ndarray) -> np.ndarray:
    """[N] bool: the items with a vote."""
    return np.asarray(given.sum(axis=(0, 2)) > 0)


def _normalised(scores: np.ndarray) -> np.ndarray:
    """exp(scores) over their sum along the last axis."""
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def majority(votes: np.ndarray, categories: int) -> np.ndarray:
    """Each item's share of votes for each label, [N, C]; NaN without a vote."""
    total = one_hot(votes, categories).sum(axis=0)
    number = total.sum(axis=1, keepdims=True)
    return total / np.where(number > 0, number, np.nan)


def weighted(votes: np.ndarray, accuracies: Sequence[float], categories: int) -> np.ndarray:
    """The posterior of each label, [N, C], for raters of known accuracy who err evenly.

    A vote of a rater of accuracy a adds log(a (C - 1) / (1 - a)) to its label, the weight that is
    best for independent raters. NaN without a vote.

    Raises:
      ValueError: an accuracy outside [0, 1], or another number of them than raters.

    Reference: Nitzan and Paroush (1982).
    """
    given = one_hot(votes, categories)
    if len(accuracies) != len(given):
        raise ValueError(
            f"accuracies must hold one number a rater; got {len(accuracies)} for {len(given)}."
        )
    right = np.clip(
        [bounds.check_number("accuracy", float(a), minimum=0, maximum=1) for a in accuracies],
        EDGE,
        1 - EDGE,
    )
    log_odds = np.log(right * (categories - 1) / (1 - right))
    posterior = _normalised(np.einsum("r,rnc->nc", log_odds, given))
    return np.where(_seen(given)[:, None], posterior, np.nan)


def labels(posterior: np.ndarray) -> np.ndarray:
    """The likeliest label of each item, [N] float64; NaN without votes and where two are level."""
    best = posterior.max(axis=1, keepdims=True)
    level = np.isclose(posterior, best, rtol=0, atol=1e-12).sum(axis=1) != 1
    return np.where(level, np.nan, np.argmax(np.nan_to_num(posterior), axis=1))


def expected_accuracy(accuracies: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """How often a vote of independent raters on two labels is right; a draw counts half.

    weights: of the raters; by default all alike, a majority. All 2^R outcomes are counted.
    """
    own = np.asarray(accuracies, np.float64)
    weight = np.ones(len(own)) if weights is None else np.asarray(weights, np.float64)
    right = np.array(list(itertools.product([0, 1], repeat=len(own))))
    chance = np.where(right, own, 1 - own).prod(axis=1)
    lead = np.where(right, weight, -weight).sum(axis=1)
    return float(chance @ ((lead > 1e-12) + 0.5 * (np.abs(lead) <= 1e-12)))


class DawidSkene(NamedTuple):
    """Labels and raters, estimated together.

    posterior: [N, C], NaN without votes. prior: [C], how common the labels are. confusion:
    [R, C, C], how often a rater says k (last axis) where c is true. accuracies: [R].
    """

    posterior: np.ndarray
    prior: np.ndarray
    confusion: np.ndarray
    accuracies: np.ndarray


def dawid_skene(votes: np.ndarray, categories: int, *, even: bool = True) -> DawidSkene:
    """The labels of items and the confusion matrix of each rater, by expectation maximisation.

    Starts at the shares of votes, so that raters are taken to be right more often than not. Three
    raters identify their accuracies weakly: `accuracy_intervals` tells how far.

    Args:
      votes: [R, N]. even: a rater errs alike often whatever is true, and to every other label: one
        accuracy a rater, not a matrix; three raters identify no more.

    Raises:
      ValueError: votes are no codes, or there are none.

    Reference: Dawid and Skene (1979).
    """
    rows = _distinct(votes, categories)
    fit = _fit(rows.votes, rows.number[None], _shares(rows.votes), even)
    posterior = np.full((np.shape(votes)[1], categories), np.nan)
    posterior[rows.seen] = fit.posterior[0][rows.where]
    right = np.einsum("c,rcc->r", fit.prior[0], fit.confusion[0])
    return DawidSkene(posterior, fit.prior[0], fit.confusion[0], right)


def accuracy_intervals(
    votes: np.ndarray, categories: int, *, level: float = agreement.LEVEL
) -> tuple[agreement.Interval, ...]:
    """Each rater's accuracy with its interval, of raters who err evenly; n: items that it judged.

    The interval holds the accuracies around the likeliest that a likelihood ratio does not refuse,
    all else fitted anew for each: it stays honest where raters hardly identify one another.

    Raises:
      ValueError: votes are no codes, or there are none.
    """
    rows = _distinct(votes, categories)
    best = _fit(rows.votes, rows.number[None], _shares(rows.votes), True)
    right = np.einsum("c,rcc->r", best.prior[0], best.confusion[0])
    allowed = stats.chi2.ppf(level, 1) / 2
    found = []
    for rater, own in enumerate(right):
        grid = np.unique(np.r_[np.linspace(EDGE, 1 - EDGE, GRID), own])
        number = np.broadcast_to(rows.number, (len(grid), len(rows.number)))
        fit = _fit(rows.votes, number, best.posterior, True, (rater, grid), ROUGH)
        loss = best.likelihood[0] - fit.likelihood
        low, high = (_crossing(grid, loss, own, allowed, side) for side in (-1, 1))
        judged = int(rows.number[rows.votes[:, rater].any(axis=1)].sum())
        found.append(agreement.Interval(float(own), low, high, judged))
    return tuple(found)


def _crossing(grid: np.ndarray, loss: np.ndarray, start: float, allowed: float, side: int) -> float:
    """Where the loss of likelihood first exceeds what is allowed, from `start` to one side."""
    path = np.flatnonzero(grid >= start) if side > 0 else np.flatnonzero(grid <= start)[::-1]
    beyond = np.flatnonzero(loss[path] > allowed)
    if not len(beyond):
        return float(grid[path[-1]])
    last, outer = path[max(beyond[0] - 1, 0)], path[beyond[0]]
    # The root of the loss is nearly straight, as the loss is nearly a parabola.
    ends = np.sqrt(np.maximum(loss[[last, outer]], 0.0))
    return float(np.interp(allowed**0.5, ends, grid[[last, outer]]))


class _Rows(NamedTuple):
    """Items by their votes: equal ones are one row, of which 2^R stand for any number of items."""

    votes: np.ndarray  # [M, R, C]
    number: np.ndarray  # [M] float64, items of each row
    where: np.ndarray  # [N'], the row of each item with a vote
    seen: np.ndarray  # [N] bool, items with a vote


def _distinct(votes: np.ndarray, categories: int) -> _Rows:
    given = one_hot(votes, categories)
    seen = _seen(given)
    if not seen.any():
        raise ValueError("votes must hold one at least; got none. Collect judgements first.")
    codes = np.nan_to_num(np.asarray(votes, np.float64)[:, seen], nan=-1.0)
    kinds, where, number = np.unique(codes.T, axis=0, return_inverse=True, return_counts=True)
    rows = (kinds[:, :, None] == np.arange(categories)).astype(np.float64)
    return _Rows(rows, number.astype(np.float64), where.reshape(-1), seen)


def _shares(rows: np.ndarray) -> np.ndarray:
    """[1, M, C]: each row's shares of votes."""
    return (rows.sum(axis=1) / rows.sum(axis=(1, 2))[:, None])[None]


class _Fit(NamedTuple):
    prior: np.ndarray  # [B, C]
    confusion: np.ndarray  # [B, R, C, C]
    posterior: np.ndarray  # [B, M, C]
    likelihood: np.ndarray  # [B], its logarithm


def _fit(
    rows: np.ndarray,
    number: np.ndarray,
    start: np.ndarray,
    even: bool,
    known: tuple[int, np.ndarray] | None = None,
    until: tuple[int, float] = (ROUNDS, TOLERANCE),
) -> _Fit:
    """B fits at once, from posteriors `start` on.

    number: [B, M], how often each row is there. known: a rater and its accuracy in each fit, [B].
    """
    size = rows.shape[-1]
    flat = rows.reshape(len(rows), -1)  # [M, R C]
    posterior = np.broadcast_to(start, (len(number), *start.shape[1:]))
    for _ in range(until[0]):
        mass = number[:, :, None] * posterior
        prior = mass.sum(axis=1) + SMOOTHING
        prior /= prior.sum(axis=1, keepdims=True)
        said = np.swapaxes(mass, 1, 2) @ flat + SMOOTHING  # [B, C, R C]
        confusion = np.swapaxes(said.reshape(len(said), size, -1, size), 1, 2)
        confusion = _evened(confusion) if even else confusion / confusion.sum(axis=3, keepdims=True)
        if known is not None:
            confusion[:, known[0]] = _even(known[1], size)
        logs = np.log(confusion).transpose(0, 1, 3, 2).reshape(len(prior), -1, size)
        scores = np.log(prior)[:, None] + flat @ logs
        before, posterior = posterior, _normalised(scores)
        if np.abs(posterior - before).max() < until[1]:
            break
    likelihood = (number * special.logsumexp(scores, axis=2)).sum(axis=1)
    return _Fit(prior, confusion, posterior, likelihood)


def _even(right: np.ndarray, size: int) -> np.ndarray:
    """[..., C, C]: confusion matrices of raters of accuracies [...] who err evenly."""
    diagonal, right = np.eye(size), right[..., None, None]
    return diagonal * right + (1 - diagonal) * (1 - right) / (size - 1)


def _evened(said: np.ndarray) -> np.ndarray:
    """Confusion matrices of raters who err evenly, of how often they said what [B, R, C, C]."""
    right = np.einsum("brcc->br", said) / said.sum(axis=(2, 3))
    return _even(np.clip(right, EDGE, 1 - EDGE), said.shape[-1])


def is_enough(votes: np.ndarray) -> bool:
    """Whether each rater shares 30 items with others: then weights are worth estimating."""
    votes = np.asarray(votes, np.float64)
    shared = np.isfinite(votes).sum(axis=0) >= 2
    return bool(len(votes) > 2 and (np.isfinite(votes)[:, shared].sum(axis=1) >= ENOUGH).all())


def combined(votes: np.ndarray, categories: int) -> np.ndarray:
    """[N, C]: labels weighted by estimated accuracies where that is possible, else majority.

    Two raters alone do not tell who of them errs.
    """
    if not is_enough(votes):
        return majority(votes, categories)
    fitted = dawid_skene(votes, categories)
    return weighted(votes, fitted.accuracies.tolist(), categories)

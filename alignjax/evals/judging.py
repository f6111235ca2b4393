"""How far a judge can be trusted: order, length, calibration, and agreement beside people's own.

Verdicts are those of `rewards.judge`: both orders of each pair, NaN where one could not be read.
What could not be read is left out of every rate and counted beside it.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from alignjax.evals import estimate
from alignjax.feedback import agreement
from alignjax.rewards import judge

UNREAD = 0.02  # share of verdicts above which a report says so
FLIPS = 0.5  # share of pairs on which swapping turns the verdict, above which it says so


def _read(verdicts: judge.Verdicts) -> np.ndarray:
    """[N] bool: pairs of which both orders could be read."""
    return np.isfinite(verdicts.a_first) & np.isfinite(verdicts.b_first)


def _mean(rows: np.ndarray) -> estimate.Estimate:
    """The mean; NaN of nothing."""
    return estimate.mean(rows) if len(rows) else estimate.Estimate(np.nan, np.nan, 0)


def flip_rate(verdicts: judge.Verdicts) -> estimate.Estimate:
    """Share of pairs whose two orders give different winners; a tie and a win differ too."""
    kept = _read(verdicts)
    return _mean(np.sign(verdicts.a_first[kept]) != np.sign(verdicts.b_first[kept]))


def first_rate(verdicts: judge.Verdicts) -> estimate.Estimate:
    """Share of verdicts for the answer that stands first, over pairs; a tie is half a verdict.

    Without position bias it is 1/2, whatever the answers are.
    """
    kept = _read(verdicts)
    first = np.sign(verdicts.a_first[kept]) - np.sign(verdicts.b_first[kept])
    return _mean(0.5 + first / 4)


def position_logit(verdicts: judge.Verdicts) -> estimate.Estimate:
    """c of logits d + c with a first and d - c with b first: half the mean of their difference."""
    kept = _read(verdicts)
    return _mean((verdicts.a_first[kept] - verdicts.b_first[kept]) / 2)


class Decided(NamedTuple):
    """Verdicts that both orders agree on, beside labels.

    share: of pairs that are decided. accuracy: on those. single: of one order, the mean of both.
    averaged: of the mean logit, where a tie counts half. All over labels that are no tie.
    """

    share: estimate.Estimate
    accuracy: estimate.Estimate
    single: estimate.Estimate
    averaged: estimate.Estimate


def accuracy(verdicts: judge.Verdicts, labels: np.ndarray) -> Decided:
    """How often verdicts are right: labels [N], 1 where a is better, 0 where b is, NaN unknown.

    Raises:
      ValueError: labels of another shape, or others than 0 and 1.
    """
    labels = np.asarray(labels, np.float64)
    legal = np.isin(labels, (0, 1)) | np.isnan(labels)
    if labels.shape != verdicts.a_first.shape or not legal.all():
        raise ValueError(
            f"labels must be {len(verdicts.a_first)} numbers, 1 where a is better, 0 where b is, "
            "or NaN; got others (judging)."
        )
    kept = _read(verdicts) & np.isfinite(labels)
    truth = 2 * labels[kept] - 1
    orders = [np.sign(x[kept]) for x in verdicts]
    right = [0.5 + 0.5 * truth * order for order in orders]
    same = (orders[0] == orders[1]) & (orders[0] != 0)
    mean = np.sign(verdicts.logits[kept])
    return Decided(
        share=_mean(same),
        accuracy=_mean(right[0][same]),
        single=_mean((right[0] + right[1]) / 2),
        averaged=_mean(0.5 + 0.5 * truth * mean),
    )


class NoisyJudge(NamedTuple):
    """What a judge does who takes the first answer with probability b, else is right with a."""

    first: float
    flips: float
    decided: float
    decided_accuracy: float
    single: float


def expected(accuracy: float, position: float) -> NoisyJudge:
    """The rates of such a judge in closed form; orders are independent given the pair.

    q1 = b + (1 - b) a is the chance of the right verdict where the better answer stands first,
    q2 = (1 - b) a where it stands second.
    """
    q1, q2 = position + (1 - position) * accuracy, (1 - position) * accuracy
    flips = q1 * (1 - q2) + q2 * (1 - q1)
    return NoisyJudge(
        first=(1 + position) / 2,
        flips=flips,
        decided=1 - flips,
        decided_accuracy=q1 * q2 / (1 - flips) if flips < 1 else float("nan"),
        single=(q1 + q2) / 2,
    )


# --- length ---
class LengthControl(NamedTuple):
    """win_rate: as said. controlled: where both answers are equally long. longer: share of decided
    pairs of unequal length that the longer answer wins."""

    win_rate: estimate.Estimate
    controlled: estimate.Estimate
    longer: estimate.Estimate


def length_controlled(wins: np.ndarray, lengths: np.ndarray, others: np.ndarray) -> LengthControl:
    """The win rate without what length alone explains.

    wins ~ sigmoid(w + v tanh(gap / sd(gap))), gap = length - other length: sigmoid(w) is the rate
    at equal length; its error is that of the sandwich formula.

    Args:
      wins: [N] in [0, 1], the chance that the first system's answer is better; 1/2 is a tie, NaN is
      left out. lengths, others: [N], of the two answers.

    Reference: Dubois et al. (2024), length-controlled AlpacaEval, without its terms of the prompt.
    """
    wins, gap = np.asarray(wins, np.float64), np.subtract(lengths, others, dtype=np.float64)
    kept = np.isfinite(wins)
    wins, gap = wins[kept], gap[kept]
    unequal = (gap != 0) & (wins != 0.5)
    longer = _mean((wins[unequal] > 0.5) == (gap[unequal] > 0))
    spread = float(gap.std())
    columns = np.stack([np.ones_like(gap), np.tanh(gap / spread) if spread else 0 * gap], axis=1)
    columns = columns if spread else columns[:, :1]
    weights, errors = _logistic(columns, wins)
    rate = float(special.expit(weights[0]))
    se = rate * (1 - rate) * float(errors[0, 0]) ** 0.5
    return LengthControl(_mean(wins), estimate.Estimate(rate, se, len(wins)), longer)


def _logistic(columns: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(weights [D], their covariance by the sandwich formula) of a logistic regression.

    A prior of 1e-3 keeps weights finite where the targets can be split by a line.
    """

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        z = columns @ weights
        value = -(targets * special.log_expit(z) + (1 - targets) * special.log_expit(-z)).sum()
        slope = columns.T @ (special.expit(z) - targets)
        return float(value + 5e-4 * weights @ weights), slope + 1e-3 * weights

    found = optimize.minimize(loss, np.zeros(columns.shape[1]), jac=True, method="BFGS")
    chance = special.expit(columns @ found.x)
    curvature = (columns.T * (chance * (1 - chance))) @ columns
    bread = np.linalg.inv(curvature + 1e-3 * np.eye(len(found.x)))
    own = columns * (targets - chance)[:, None]
    return np.asarray(found.x), bread @ (own.T @ own) @ bread


# --- calibration ---
def calibration_error(chances: np.ndarray, labels: np.ndarray, *, bins: int = 10) -> float:
    """Expected calibration error: the mean of |chance - share of labels| over bins of chances.

    Args:
      chances, labels: [N] in [0, 1]; NaN is left out.

    Reference: Guo et al. (2017), arXiv 1706.04599.
    """
    chances, labels = np.asarray(chances, np.float64), np.asarray(labels, np.float64)
    kept = np.isfinite(chances) & np.isfinite(labels)
    chances, labels = chances[kept], labels[kept]
    if not len(chances):
        return float("nan")
    place = np.minimum((chances * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(place, chances - labels, bins))
    return float(gaps.sum() / len(chances))


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """T > 0 by which logits are divided so that labels are likeliest; NaN is left out.

    Above 1 the judge is too sure. At most 1e3, and at least 1e-3.

    Reference: Guo et al. (2017), arXiv 1706.04599.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    kept = np.isfinite(logits) & np.isfinite(labels)
    z, y = logits[kept], labels[kept]

    def loss(log_t: float) -> float:
        scaled = z * np.exp(-log_t)
        return -float((y * special.log_expit(scaled) + (1 - y) * special.log_expit(-scaled)).sum())

    limit = np.log(1e3)
    found = optimize.minimize_scalar(loss, bounds=(-limit, limit), method="bounded")
    return float(np.exp(found.x))


class Isotonic(NamedTuple):
    """A calibration that only keeps the order: at logits [K] ascending the chances [K]."""

    logits: np.ndarray
    chances: np.ndarray

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """[N] chances: between two known logits on a line, beyond the ends level; NaN stays."""
        return np.asarray(np.interp(logits, self.logits, self.chances))


def isotonic(logits: np.ndarray, labels: np.ndarray) -> Isotonic:
    """The nondecreasing chances of labels that fit best by least squares; NaN is left out.

    Raises:
      ValueError: nothing is left.

    Reference: Zadrozny and Elkan (2002).
    """
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    kept = np.isfinite(z) & np.isfinite(y)
    if not kept.any():
        raise ValueError("logits must have a label at least once; got none (isotonic). Label some.")
    places, where, number = np.unique(z[kept], return_inverse=True, return_counts=True)
    means = np.bincount(where.reshape(-1), y[kept]) / number
    return Isotonic(places, np.asarray(optimize.isotonic_regression(means, weights=number).x))


# --- beside people ---
class BesidePeople(NamedTuple):
    """A judge's agreement with people beside their own.

    raw, kappa: the mean over people of the judge's agreement with each. people_raw, people_kappa:
    the mean over pairs of people, over the same items. A judge above people's own agrees more with
    each than they do with one another.
    """

    raw: agreement.Interval
    kappa: agreement.Interval
    people_raw: agreement.Interval
    people_kappa: agreement.Interval


def beside_people(
    labels: np.ndarray, people: np.ndarray, *, seed: int = 0, draws: int = agreement.DRAWS
) -> BesidePeople:
    """How a judge's labels [N] agree with those of R people [R, N]; NaN is a gap.

    Items that the judge or all people left out count for nothing; people's own agreement is over
    the items that two of them judged, of those.

    Raises:
      ValueError: shapes differ.
    """
    labels, people = np.asarray(labels, np.float64), np.asarray(people, np.float64)
    if people.ndim != 2 or labels.shape != people.shape[1:]:
        raise ValueError(
            f"people must be [R, N] with a label of the judge for each item; got "
            f"{list(people.shape)} and {list(labels.shape)} (judging)."
        )
    both = np.concatenate([labels[None], people])[:, np.isfinite(labels)]

    def judged(kappa: bool) -> agreement.Statistic:
        def of(values: np.ndarray) -> float:
            return _between([(values[0], other) for other in values[1:]], kappa)

        return of

    def among(kappa: bool) -> agreement.Statistic:
        def of(values: np.ndarray) -> float:
            rows = [(a, b) for i, a in enumerate(values) for b in values[i + 1 :]]
            return _between(rows, kappa)

        return of

    return BesidePeople(
        agreement.bootstrap(judged(False), both, seed=seed, draws=draws),
        agreement.bootstrap(judged(True), both, seed=seed, draws=draws),
        agreement.bootstrap(among(False), both[1:], seed=seed, draws=draws),
        agreement.bootstrap(among(True), both[1:], seed=seed, draws=draws),
    )


def _between(rows: list[tuple[np.ndarray, np.ndarray]], kappa: bool) -> float:
    """The mean agreement of pairs of raters, each by its common items."""
    found, weights = [], []
    for one, other in rows:
        common = np.isfinite(one) & np.isfinite(other)
        value = (
            agreement.cohen(one, other)
            if kappa
            else float(np.mean(one[common] == other[common]))
            if common.any()
            else float("nan")
        )
        if np.isfinite(value):
            found.append(value)
            weights.append(int(common.sum()))
    return float(np.average(found, weights=weights)) if found else float("nan")


# --- a report ---
class Report(NamedTuple):
    """A judge on N pairs. warnings: why its verdicts should not be taken as they are."""

    pairs: int
    unread: int
    ties: int
    flips: estimate.Estimate
    first: estimate.Estimate
    position: estimate.Estimate
    warnings: tuple[str, ...]


def report(verdicts: judge.Verdicts) -> Report:
    """What both orders of a judge's verdicts tell about it, without labels."""
    n = len(verdicts.a_first)
    flips, first = flip_rate(verdicts), first_rate(verdicts)
    warnings = []
    if n and verdicts.unread > UNREAD * 2 * n:
        warnings.append(f"{verdicts.unread} of {2 * n} verdicts could not be read")
    if flips.n and flips.value > FLIPS:
        warnings.append(f"{flips.value:.0%} of pairs turn with their order")
    if first.n and abs(first.value - 0.5) > max(0.1, 3 * first.se):
        warnings.append(f"{first.value:.0%} of verdicts are for the answer that stands first")
    ties = int((verdicts.logits == 0).sum())
    position = position_logit(verdicts)
    return Report(n, verdicts.unread, ties, flips, first, position, tuple(warnings))

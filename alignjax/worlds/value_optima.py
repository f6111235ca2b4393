"""What methods reach on ValueWorld in the limit of many comparisons, over all its responses.

A world of W words has W + W^2 + .. responses, few enough to list. A method that fits log-ratios to
comparisons ends at pi = ref exp(h / beta), h the minimiser of its loss over the pairs that are
compared; a group's win rate under pi is then a sum.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from alignjax.worlds import values

NEWTON_STEPS, RIDGE = 200, 1e-12


class Responses(NamedTuple):
    """All responses of a world.

    words: [n, T] numbers of words, -1 for none. chances: [n] under the reference. utilities:
    [G, n]. wins: [G, n, n], how often each group prefers response i to j.
    """

    words: np.ndarray
    chances: np.ndarray
    utilities: np.ndarray
    wins: np.ndarray


def every(world: values.ValueWorld) -> Responses:
    """The responses of a world, shortest first."""
    steps, count = world.config.longest, len(world.chances)
    listed = [
        [*words, *[-1] * (steps - length)]
        for length in range(1, steps + 1)
        for words in itertools.product(range(count), repeat=length)
    ]
    words = np.array(listed)
    chances = hotter(world, words, 1.0)
    return Responses(words, chances, values.utility(world, words), values.win_rates(world, words))


def hotter(world: values.ValueWorld, words: np.ndarray, temperature: float) -> np.ndarray:
    """[n]: chances of responses under the reference whose every token is drawn at a temperature.

    Raises:
      ValueError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0; got {temperature} (hotter).")
    first = np.log(world.chances) / temperature
    later = np.append(np.log1p(-world.config.stop) + np.log(world.chances), 0.0)
    later[-1] = np.log(world.config.stop)
    later /= temperature
    first, later = first - special.logsumexp(first), later - special.logsumexp(later)
    logs = first[words[:, 0]]
    for place in range(1, words.shape[1]):
        there, before = words[:, place] >= 0, words[:, place - 1] >= 0
        logs = logs + np.where(there, later[np.maximum(words[:, place], 0)], 0.0)
        logs = logs + np.where(before & ~there, later[-1], 0.0)
    return np.exp(logs)


def independent(chances: np.ndarray) -> np.ndarray:
    """[n, n]: chances of the pairs of two independent draws."""
    return np.outer(chances, chances)


def stratified(chances: np.ndarray, kinds: np.ndarray, count: int, kept: int) -> np.ndarray:
    """[n, n]: chances of a random pair of `kept` answers, as even over two kinds as `count` allow.

    Of M draws n_1 ~ Binomial(M, q) are of kind 1; as many of each kind are kept as there are, up to
    half. Within a kind the draws are independent.

    Args:
      chances: [n] of a draw. kinds: [n], 0 or 1.

    Raises:
      ValueError: kept is odd, below 2 or above count.
    """
    if kept % 2 or not 2 <= kept <= count:
        raise ValueError(
            f"kept must be even, 2 or more and at most the {count} drawn; got {kept} (stratified)."
        )
    rate = float(chances @ kinds)
    ones = np.arange(count + 1)
    weights = stats.binom.pmf(ones, count, rate)
    lower = np.maximum(kept // 2, kept - (count - ones))
    own = np.minimum(ones, lower)  # of kind 1, among those kept
    both = 2 * own * (kept - own) / (kept * (kept - 1))
    same = own * (own - 1) / (kept * (kept - 1))
    mixed, one = float(weights @ both), float(weights @ same)
    inner = [np.where(kinds == kind, chances, 0.0) for kind in (0, 1)]
    zero, other = (part / max(part.sum(), 1e-300) for part in inner)
    across = np.outer(zero, other) + np.outer(other, zero)
    return (
        (1 - mixed - one) * np.outer(zero, zero) + one * np.outer(other, other) + mixed / 2 * across
    )


def fitted(pairs: np.ndarray, wins: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """[n] h: the minimiser of -E [p_ij log sigma(h_i - h_j) + p_ji log sigma(h_j - h_i)].

    Its differences are the logits of `wins` where these are a Bradley-Terry model, and the nearest
    that there are otherwise (the pooled taste of groups that differ).

    Args:
      pairs: [n, n] chances of being compared. wins: [n, n], how often i is preferred to j.
    """

    h = np.zeros(len(wins)) if start is None else start
    level = 1.0 / len(wins)  # a constant changes no loss: held in place
    size = np.inf
    for _ in range(NEWTON_STEPS):
        rates = special.expit(h[:, None] - h[None, :])
        slope = pairs * (rates - wins)
        curve = pairs * rates * (1 - rates)
        both = curve + curve.T
        hessian = (
            np.diag(both.sum(1)) - both + level * np.mean(np.diag(both)) + RIDGE * np.eye(len(h))
        )
        step = np.linalg.solve(hessian, slope.sum(1) - slope.sum(0))
        step *= min(1.0, 4.0 / np.abs(step).max(initial=1e-300))  # logits: no leap to the flat ends
        h, size = h - step, float(np.abs(step).max())
        if size < 1e-9:
            return np.asarray(h - h.mean())
    raise ValueError(
        f"comparisons must decide every response; the last step was {size:.1e} (fitted). Compare "
        "all of them, with both answers possible."
    )


class Robust(NamedTuple):
    """h: [n] log-ratios times beta. weights: [G] of the groups. losses: [G], the worst least."""

    h: np.ndarray
    weights: np.ndarray
    losses: np.ndarray


def robust(pairs: np.ndarray, wins: np.ndarray) -> Robust:
    """min over h of the worst group's loss: the best weights of `fitted`, by the convex dual.

    Args:
      pairs: [n, n]. wins: [G, n, n].
    """
    groups, last = len(wins), [np.zeros(wins.shape[1])]

    def losses(weights: np.ndarray) -> np.ndarray:
        last[0] = fitted(pairs, np.tensordot(weights, wins, 1), last[0])
        gaps = last[0][:, None] - last[0][None, :]
        lost = wins * np.logaddexp(0, -gaps) + (1 - wins) * np.logaddexp(0, gaps)
        return np.asarray((pairs * lost).sum(axis=(1, 2)))

    def dual(weights: np.ndarray) -> tuple[float, np.ndarray]:
        own = losses(weights)
        return -float(weights @ own), -own

    weights = values.simplex_minimum(dual, groups, 1e-9)
    own = losses(weights)
    return Robust(last[0], weights, own)


def tilted(chances: np.ndarray, h: np.ndarray, beta: float) -> np.ndarray:
    """[n]: ref exp(h / beta) / Z."""
    return np.asarray(special.softmax(np.log(chances) + h / beta))


def win_rates(every: Responses, chances: np.ndarray) -> np.ndarray:
    """[G]: how often each group prefers a draw of a policy [n] to one of the reference."""
    return np.asarray(np.einsum("i,gij,j->g", chances, every.wins, every.chances))


def maximin(chances: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    """[G] lambda: weights of rewards [G, n] whose tilted reference is best for the worst group.

    The minimiser over the simplex of beta log E_ref exp(sum_g lambda_g r_g / beta), r_g less its
    mean under the reference: a group is as badly off as it gains little over the reference, since
    where groups' rewards have their zero cannot be learned from comparisons.

    Args:
      chances: [n] under the reference: exact ones of all responses, or 1 / n of n draws.
    """
    gains = rewards - (rewards @ chances)[:, None]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = np.log(chances) + weights @ gains / beta
        return beta * float(special.logsumexp(scores)), gains @ special.softmax(scores)

    return values.simplex_minimum(loss, len(rewards), 1e-12)

"""What preferences of groups can teach, in closed form: sampling, coverage, conflict.

The setting of the sampled forms: a group prefers answers of a minority kind, with accuracy sigma
against the others; the reference gives that kind at rate q; N comparisons of two draws each.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special, stats


def pair_variance_ratio(correlation: float) -> float:
    """1 - rho: the variance of a pair's difference over that of independent draws.

    Exchangeable draws of one prompt with correlation rho and the same marginals differ by
    2 s^2 (1 - rho).
    """
    return 1.0 - correlation


def most_pair_variance(draws: int) -> float:
    """K / (K - 1): the most that `pair_variance_ratio` can be for K exchangeable draws.

    4/3 for four: negative correlation alone buys little, larger gains change the marginals.

    Raises:
      ValueError: fewer than two draws.
    """
    if draws < 2:
        raise ValueError(f"draws must be 2 at least; got {draws}. Compare two answers.")
    return draws / (draws - 1)


def coverage(rate: float, draws: int = 4) -> float:
    """1 - q^K - (1 - q)^K: how often K independent draws hold both kinds."""
    return 1.0 - rate**draws - (1.0 - rate) ** draws


def minority_rate(share: float, draws: int = 4) -> float:
    """1 - (1 - c)^(1/K): the rate of a kind that a share c of sets of K draws hold."""
    return 1.0 - (1.0 - share) ** (1.0 / draws)


def sign_learned(comparisons: int, rate: float, accuracy: float) -> float:
    """P(the sign of a taste is learned) from N comparisons of two independent draws.

    A comparison informs with probability 2 q (1 - q), and is then right with probability sigma; the
    majority decides, a coin where there is none.
    """
    total = 0.0
    counts = np.arange(comparisons + 1)
    informed = stats.binom.pmf(counts, comparisons, 2 * rate * (1 - rate))
    for n, chance in zip(counts, informed, strict=True):
        if chance > 1e-15:
            half = n / 2
            above = stats.binom.sf(np.floor(half), n, accuracy)
            level = stats.binom.pmf(half, n, accuracy) if n % 2 == 0 else 0.0
            total += chance * (above + level / 2)
    return float(total)


def win_rate(sign: float, rate: float, accuracy: float) -> float:
    """A group's win rate against the reference, of a policy that learned its taste with P = sign.

    With the sign it always gives the minority kind, (1 - q) sigma + q / 2; against it always the
    other, q (1 - sigma) + (1 - q) / 2.
    """
    right = (1 - rate) * accuracy + rate / 2
    wrong = rate * (1 - accuracy) + (1 - rate) / 2
    return sign * right + (1 - sign) * wrong


def sign_by_information(weight: float, comparisons: int, information: float) -> float:
    """Phi(w sqrt(N I)): P(an estimated weight has its sign), I the Fisher information of one
    comparison about it, other weights fitted too."""
    return float(stats.norm.cdf(weight * (comparisons * information) ** 0.5))


def pooled_logit(rates: Sequence[float], shares: Sequence[float]) -> float:
    """logit(sum_g share_g p_g): what a pooled model learns of one comparison."""
    return float(special.logit(np.dot(rates, shares)))


def robust_logit(rates: Sequence[float]) -> float:
    """The logit of one comparison that makes the worst group's loss least.

    0 where groups conflict, whatever their rates: the policy stays at the reference, and the worst
    loss is log 2. Where they agree it is that of the weakest.
    """
    low, high = min(rates), max(rates)
    if low <= 0.5 <= high:
        return 0.0
    return float(special.logit(low if low > 0.5 else high))

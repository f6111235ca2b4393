"""Whom a society prefers, of pairwise preferences: Borda, Copeland, Bradley-Terry, lotteries.

Preferences are p [n, n], the share that prefers i to j: p_ij + p_ji = 1, 1/2 on the diagonal;
p[g, i, j] for groups. `win_rates` makes them of counts, `pooled` makes one of groups.
"""

from collections.abc import Sequence

import numpy as np
from scipy import optimize, sparse, special

LEVEL = 1e-9  # a preference so near 1/2 is a tie


def checked(preferences: np.ndarray) -> np.ndarray:
    """[..., n, n] float64 with 1/2 on the diagonal.

    Raises:
      ValueError: not square, outside [0, 1], or p_ij + p_ji is not 1.
    """
    p = np.array(preferences, np.float64)
    if p.ndim < 2 or p.shape[-1] != p.shape[-2]:
        raise ValueError(f"preferences must have shape [..., n, n]; got {list(p.shape)}.")
    diagonal = np.arange(p.shape[-1])
    p[..., diagonal, diagonal] = 0.5
    sums = p + np.swapaxes(p, -1, -2)
    if not ((p >= 0) & (p <= 1) & (np.abs(sums - 1) < 1e-6)).all():
        raise ValueError(
            "preferences must lie in [0, 1] with p_ij + p_ji = 1 for every pair; got others. "
            "Compare every pair, and make shares of counts by win_rates."
        )
    return p


def win_rates(wins: np.ndarray, ties: np.ndarray | None = None) -> np.ndarray:
    """p [..., n, n] of how often i was preferred to j: (wins + ties / 2) / all; NaN uncompared.

    Args:
      wins: [..., n, n] counts. ties: [..., n, n] counts, symmetric; None for none.

    Raises:
      ValueError: shapes differ, or ties are not symmetric.
    """
    won = np.asarray(wins, np.float64)
    tied = np.zeros_like(won) if ties is None else np.asarray(ties, np.float64)
    if tied.shape != won.shape or not np.array_equal(tied, np.swapaxes(tied, -1, -2)):
        raise ValueError("ties must be symmetric counts of the shape of wins; got others.")
    total = won + np.swapaxes(won, -1, -2) + tied
    return (won + tied / 2) / np.where(total > 0, total, np.nan)


def pooled(preferences: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """[n, n]: the preferences of a population of groups, sum_g share_g p[g].

    Raises:
      ValueError: shares are not G numbers >= 0 with sum 1.
    """
    p, share = checked(preferences), np.asarray(shares, np.float64)
    if share.shape != p.shape[:1] or (share < 0).any() or abs(share.sum() - 1) > 1e-9:
        raise ValueError(
            f"shares must be {len(p)} numbers >= 0 with sum 1, one a group; got {share.tolist()}."
        )
    return np.einsum("g,gij->ij", share, p)


def borda(preferences: np.ndarray) -> np.ndarray:
    """[..., n]: sum over j other than i of p_ij, the mean win rate times n - 1."""
    return checked(preferences).sum(axis=-1) - 0.5


def copeland(preferences: np.ndarray) -> np.ndarray:
    """[..., n]: how many others a majority likes less than i, less those that it likes more."""
    gap = checked(preferences) - 0.5
    return np.where(np.abs(gap) > LEVEL, np.sign(gap), 0.0).sum(axis=-1)


def condorcet(preferences: np.ndarray) -> int | None:
    """The alternative that a majority prefers to every other one, where there is one; p [n, n]."""
    scores = copeland(preferences)
    best = int(np.argmax(scores))
    return best if scores[best] == len(scores) - 1 else None


def bradley_terry(preferences: np.ndarray) -> np.ndarray:
    """[n] scores with sum 0 that maximise sum_ij p_ij log sigmoid(s_i - s_j): pooled Bradley-Terry.

    With every pair alike often compared their order is Borda's: a pooled reward model is Borda
    (Siththaranjan et al. 2023, arXiv 2312.08358).

    Raises:
      ValueError: some alternatives always beat all others, so that scores are infinite.

    Reference: Bradley and Terry (1952); existence: Ford (1957).
    """
    p = checked(preferences)
    if sparse.csgraph.connected_components(p > 0, connection="strong")[0] > 1:
        raise ValueError(
            "preferences must not let some alternatives beat all others always: Bradley-Terry's "
            "scores are infinite then. Add a pseudo-count to both sides of every pair."
        )

    # The constant that the likelihood leaves free is fixed by a penalty that is 0 at sum 0.
    def loss(s: np.ndarray) -> float:
        return -float((p * special.log_expit(s[:, None] - s[None])).sum()) + 0.5 * s.sum() ** 2

    def slope(s: np.ndarray) -> np.ndarray:
        return (special.expit(s[:, None] - s[None]) - p).sum(axis=1) + s.sum()

    def curvature(s: np.ndarray) -> np.ndarray:
        chance = special.expit(s[:, None] - s[None])
        pairs = chance * (1 - chance)
        return np.diag(pairs.sum(axis=1)) - pairs + 1.0

    found = optimize.minimize(
        loss, np.zeros(len(p)), jac=slope, hess=curvature, method="trust-exact",
        options={"gtol": 1e-11, "maxiter": 1000},
    )  # fmt: skip
    return found.x - found.x.mean()


def maximal_lottery(preferences: np.ndarray) -> np.ndarray:
    """[n] probabilities x that no lottery beats: sum_i x_i (p_ij - p_ji) >= 0 for every j.

    The Nash equilibrium of the game of margins; a Condorcet winner alone has all of it. Where
    several are maximal, which happens only with ties, one of them.

    Reference: Kreweras (1965); Fishburn (1984).
    """
    p = checked(preferences)
    margin, n = p - p.T, len(p)
    # Variables x and the game's value v: max v with x margin >= v, sum x = 1.
    found = optimize.linprog(
        c=np.r_[np.zeros(n), -1.0],
        A_ub=np.c_[-margin.T, np.ones(n)],
        b_ub=np.zeros(n),
        A_eq=np.r_[np.ones(n), 0.0][None],
        b_eq=[1.0],
        bounds=[(0, None)] * n + [(None, None)],
        method="highs",
    )
    if not found.success:
        raise RuntimeError(f"the lottery's linear program must have a solution; {found.message}")
    lottery = np.maximum(found.x[:n], 0.0)
    return lottery / lottery.sum()


def conflict_share(preferences: np.ndarray) -> float:
    """Share of pairs of alternatives on which groups' majorities differ; p[g, i, j].

    There a robust method abstains, and a pooled one follows the larger group.
    """
    gap = checked(preferences) - 0.5
    rows, columns = np.triu_indices(gap.shape[-1], 1)
    pairs = gap[:, rows, columns]
    return float(((pairs > LEVEL).any(axis=0) & (pairs < -LEVEL).any(axis=0)).mean())

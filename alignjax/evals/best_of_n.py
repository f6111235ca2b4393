"""Best-of-n: the best by a score among n draws of the reference."""

import numpy as np
from scipy import special

from alignjax.evals import estimate


def expected_best(score: np.ndarray, value: np.ndarray, n: int) -> estimate.Estimate:
    """Mean value of the draw with the highest score among n, from N >= n draws a prompt.

        sum_i C(i, n-1) / C(N, n) value_(i),  i = 0..N-1 in ascending order of score

    which averages over all subsets of n draws: unbiased, and steadier than taking one subset.

    Args:
      score, value: [P, N], over prompts and draws. Ties of the score are broken by order.

    Raises:
      ValueError: n is not between 1 and N.

    Reference: Nakano et al. 2021, appendix I.
    """
    draws = score.shape[1]
    if not 1 <= n <= draws:
        raise ValueError(f"n must be between 1 and the {draws} draws of a prompt; got {n}.")
    order = np.argsort(score, axis=1, kind="stable")
    ordered = np.take_along_axis(value, order, axis=1)
    rank = np.arange(draws)
    log_weight = np.where(
        rank >= n - 1,
        _log_choose(np.maximum(rank, n - 1), n - 1) - _log_choose(np.asarray(draws), n),
        -np.inf,
    )
    return estimate.mean(ordered @ np.exp(log_weight))


def _log_choose(total: np.ndarray, taken: int) -> np.ndarray:
    return (
        special.gammaln(total + 1) - special.gammaln(taken + 1) - special.gammaln(total - taken + 1)
    )


def kl(score: np.ndarray, n: int) -> estimate.Estimate:
    """KL(best-of-n || reference) in nats, with the N draws of a prompt as its reference.

    Draws of equal score share their chance: with F the cumulative share of a score level and p its
    share, level g is chosen with q_g = F_g^n - F_(g-1)^n and KL = sum_g q_g log(q_g / p_g). Without
    ties and for N >> n it is log n - (n-1)/n; it is never above.

    Reference: Beirami et al. 2024, theorem 1.
    """
    return estimate.mean(np.array([_row_kl(row, n) for row in score]))


def _row_kl(row: np.ndarray, n: int) -> float:
    _, counts = np.unique(row, return_counts=True)
    share = counts / counts.sum()
    top = np.cumsum(share)
    chosen = top**n - (top - share) ** n
    kept = chosen > 0
    return float(np.sum(chosen[kept] * np.log(chosen[kept] / share[kept])))

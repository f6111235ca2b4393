"""How factual answers are: precision, count, abstention and refusal kept apart.

An answer is one of three that are no claim, and they are never joined: it abstained, it held no
facts, or it could not be read (failed). Averages over answered rows alone reward silence, averages
over all punish it: both are told.
"""

from typing import NamedTuple

import numpy as np

from alignjax.core import shapes
from alignjax.evals import estimate
from alignjax.rewards import facts as checks

Claims = checks.Claims


class Factuality(NamedTuple):
    """precision: mean share of true facts of answers with facts. penalised: the same, times the
    penalty of answers with few. facts: their mean number. respond_rate: share of rows with facts,
    of those that could be read. expected: precision times respond rate, the mean over rows where
    silence scores 0. f1: at K, over the rows that could be read. abstained, no_facts, failed: rows.
    """

    precision: estimate.Estimate
    penalised: estimate.Estimate
    facts: estimate.Estimate
    respond_rate: estimate.Estimate
    expected: estimate.Estimate
    f1: estimate.Estimate
    abstained: int
    no_facts: int
    failed: int


def length_penalty(facts: np.ndarray, *, gamma: float = 10.0) -> np.ndarray:
    """exp(1 - gamma / n) for n <= gamma facts, else 1; 0 for none.

    Reference: Min et al. (2023, FActScore), arXiv 2305.14251.
    """
    shapes.check_number("gamma", gamma, above=0)
    n = np.asarray(facts, np.float64)
    few = np.exp(1 - gamma / np.maximum(n, 1e-9))
    return np.where(n > gamma, 1.0, np.where(n > 0, few, 0.0))


def f1_at_k(supported: np.ndarray, facts: np.ndarray, k: float) -> np.ndarray:
    """[N]: F1 of precision supported / facts and recall min(1, supported / K); 0 if none is true.

    Reference: Wei et al. (2024, LongFact), arXiv 2403.18802.
    """
    shapes.check_number("k", k, above=0)
    right, n = np.asarray(supported, np.float64), np.asarray(facts, np.float64)
    precision, recall = right / np.maximum(n, 1), np.minimum(1.0, right / k)
    total = precision + recall
    return np.where(right > 0, 2 * precision * recall / np.where(total > 0, total, 1), 0.0)


def factuality(claims: Claims, *, k: float, gamma: float = 10.0) -> Factuality:
    """The factuality of answers; NaN where no answer has facts, which is undefined and not 0.

    Raises:
      ValueError: counts do not fit: more true facts than facts, or facts of an abstention.
    """
    right, n = (np.asarray(x, np.float64) for x in (claims.supported, claims.facts))
    silent = np.asarray(claims.abstained, bool) | np.asarray(claims.failed, bool)
    if (right > n).any() or (right < 0).any() or n[silent].any():
        raise ValueError(
            "claims must have at most as many true facts as facts, and none where an answer "
            "abstained or failed; got others (factuality). Count again."
        )
    with_facts, readable = n > 0, ~np.asarray(claims.failed, bool)
    share = right[with_facts] / n[with_facts]
    penalty = length_penalty(n[with_facts], gamma=gamma)
    score = np.where(with_facts, right / np.maximum(n, 1), 0.0)[readable]
    return Factuality(
        precision=_mean(share),
        penalised=_mean(share * penalty),
        facts=_mean(n[with_facts]),
        respond_rate=_mean(with_facts[readable].astype(float)),
        expected=_mean(score),
        f1=_mean(f1_at_k(right, n, k)[readable]),
        abstained=int(np.asarray(claims.abstained, bool).sum()),
        no_facts=int((~with_facts & ~silent).sum()),
        failed=int((~readable).sum()),
    )


def _mean(rows: np.ndarray) -> estimate.Estimate:
    unknown = estimate.Estimate(float("nan"), float("nan"), 0)
    return estimate.mean(rows) if len(rows) else unknown


def answer_threshold(penalty: float) -> float:
    """lambda / (1 + lambda): with +1 for right, -lambda for wrong, 0 for "I don't know", the best
    answers exactly where its chance of being right is above.

    Raises:
      ValueError: penalty < 0.
    """
    shapes.check_number("penalty", penalty, minimum=0)
    return penalty / (1 + penalty)


def best_utility(chances: np.ndarray, penalty: float) -> float:
    """The mean utility of answering where that is best, for questions [N] of known chances."""
    p = np.asarray(chances, np.float64)
    return float(np.mean(np.maximum(0.0, p - penalty * (1 - p))))


def abstention_regret(chances: np.ndarray, answered: np.ndarray, penalty: float) -> float:
    """Mean utility lost by what was answered, [N] bool, against answering where that is best."""
    p = np.asarray(chances, np.float64)
    own = np.where(np.asarray(answered, bool), p - penalty * (1 - p), 0.0)
    return best_utility(p, penalty) - float(own.mean())

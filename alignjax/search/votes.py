"""Votes among the answers of a prompt: the majority, exactly; weighted ones over random subsets."""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import special

from alignjax.core import keys
from alignjax.evals import estimate

SUBSETS = 64  # of a prompt's draws, where a weighted vote is averaged over them
Answers = Sequence[Sequence[Hashable | None]]  # [P][N]; None where nothing was found


def majority(answers: Answers, right: Sequence[Hashable | None], n: int) -> estimate.Estimate:
    """How often the most common of n answers is the right one, averaged over all subsets of n.

    Of a prompt whose N draws hold C right answers and other answers a with counts N_a,

        sum_c C(C, c) sum_t W_c(n - c, t) / (1 + t) / C(N, n)

    where W_c(k, t) counts the ways to draw k of the rest so that none comes more than c times and
    t of them come c times: the coefficient of x^k y^t in (1 + x)^blank times the product over a of
    sum_{j<c} C(N_a, j) x^j + C(N_a, c) x^c y. Ties are broken at random. Draws without an answer
    do not vote; where none has one the prompt is lost. The standard error is over prompts.

    Args:
      answers: N of each of P prompts. right: [P]. n: between 1 and N.

    Raises:
      ValueError: n is out of range, or a prompt has another number of answers.

    Reference: Wang et al. 2023 (self-consistency), arXiv 2203.11171.
    """
    check(answers, n)
    own = [_chance(row, gold, n) for row, gold in zip(answers, right, strict=True)]
    return estimate.mean(np.array(own))


def check(answers: Answers, n: int) -> None:
    """Raises ValueError where n answers cannot be drawn of each prompt."""
    sizes = {len(row) for row in answers}
    if len(sizes) != 1 or not 1 <= n <= min(sizes):
        raise ValueError(
            f"n must be between 1 and the answers of a prompt, as many of each; got {n} of "
            f"{', '.join(map(str, sorted(sizes))) or 'none'} (search)."
        )


def _chance(row: Sequence[Hashable | None], gold: Hashable | None, n: int) -> float:
    """The chance that a prompt's right answer wins a vote of n of its draws."""
    counts = Counter(answer for answer in row if answer is not None)
    mine = counts.pop(gold, 0) if gold is not None else 0
    blank = len(row) - mine - sum(counts.values())
    others = sorted(counts.values())
    total = sum(
        special.comb(mine, c) * _others(others, blank, c, n - c) for c in range(1, min(mine, n) + 1)
    )
    return float(total / special.comb(len(row), n))


def _others(counts: Sequence[int], blank: int, most: int, size: int) -> float:
    """sum_t W(size, t) / (1 + t) of the rest, none of which comes above `most` times."""
    ties = size // most
    ways = np.zeros((size + 1, ties + 1))
    ways[:, 0] = special.comb(blank, np.arange(size + 1))
    for count in counts:
        below = special.comb(count, np.arange(min(count + 1, most)))
        new = np.zeros_like(ways)
        for drawn, choices in enumerate(below[: size + 1]):
            new[drawn:] += choices * ways[: size + 1 - drawn]
        if count >= most and size >= most:
            new[most:, 1:] += special.comb(count, most) * ways[: size + 1 - most, :-1]
        ways = new
    return float(ways[size] @ (1.0 / (1.0 + np.arange(ties + 1))))


def weighted(
    answers: Answers,
    right: Sequence[Hashable | None],
    weights: np.ndarray,
    n: int,
    *,
    seed: int = 0,
    subsets: int = SUBSETS,
) -> estimate.Estimate:
    """How often the answer with the most weight among n draws is right, over random subsets of n.

    Every subset is drawn without replacement, so that the mean is unbiased; ties are broken at
    random, exactly. With n = N there is one subset.

    Args:
      answers, right, n: as of `majority`. weights: [P, N], at least 0. seed: of the subsets.

    Raises:
      ValueError: as of `majority`, or a weight is negative or no number.

    Reference: Li et al. 2023 (step-aware verifiers), arXiv 2206.02336; Uesato et al. 2022,
    arXiv 2211.14275, section 2.4.
    """
    check(answers, n)
    weights = np.asarray(weights, np.float64)
    if not np.all(np.isfinite(weights) & (weights >= 0)):
        raise ValueError("weights of votes must be finite and at least 0; got others (search).")
    rng = np.random.default_rng(keys.integers(seed, "subsets", n))
    rows = zip(answers, right, weights, strict=True)
    return estimate.mean(np.array([_weighted(*row, n, rng, subsets) for row in rows]))


def _weighted(
    row: Sequence[Hashable | None],
    gold: Hashable | None,
    weights: np.ndarray,
    n: int,
    rng: np.random.Generator,
    subsets: int,
) -> float:
    """The share of a prompt's subsets whose vote the right answer wins."""
    size = len(row)
    count = 1 if n == size else subsets
    chosen = np.argsort(rng.random((count, size)), axis=1)[:, :n]
    names = dict.fromkeys(answer for answer in row if answer is not None)
    if gold is None or gold not in names:
        return 0.0
    totals = np.full((count, len(names)), -1.0)
    for place, name in enumerate(names):
        own = np.array([answer == name for answer in row])
        is_there = own[chosen].any(axis=1)
        sums = (own * weights)[chosen].sum(axis=1)
        totals[:, place] = np.where(is_there, sums, -1.0)
    best = totals.max(axis=1, keepdims=True)
    winners = (totals == best) & (best >= 0)
    mine = winners[:, list(names).index(gold)]
    return float(np.mean(mine / np.maximum(winners.sum(axis=1), 1)))

"""How often the chosen answer is right, by how many were sampled: every way on the same draws."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.core import values
from alignjax.evals import best_of_n, estimate, pass_rate
from alignjax.search import extract, solutions, votes

MAJORITY, WEIGHTED, BEST, COVERAGE = "majority", "weighted", "best_of_n", "coverage"
BEAM = "beam"  # draws of its own
METHODS = (COVERAGE, BEST, WEIGHTED, MAJORITY)
SCORED = (BEST, WEIGHTED)


class Pool(NamedTuple):
    """N answers to each of P prompts. answers: [P][N], None where nothing was found. right: [P].
    scores, weights: [P, N] of a scorer, None without one."""

    answers: Sequence[Sequence[Hashable | None]]
    right: Sequence[Hashable | None]
    scores: np.ndarray | None = None
    weights: np.ndarray | None = None

    @property
    def correct(self) -> np.ndarray:
        """[P, N] of 0 and 1."""
        rows = zip(self.answers, self.right, strict=True)
        own = [[a is not None and a == right for a in answers] for answers, right in rows]
        return np.array(own, np.float64)


def pool_of(
    rows: solutions.Rows,
    text: Callable[[np.ndarray], str],
    right: Sequence[object],
    find: extract.Extract,
) -> Pool:
    """The answers of completions, as many of each prompt, row by row; right: of each prompt.

    Raises:
      ValueError: nothing is found in any completion, or in the right answer of a prompt.
    """
    gold = extract.golds(find, right)
    found = [find(text(rows.completion(i))) for i in range(len(rows.lengths))]
    if found and not any(answer is not None for answer in found):
        raise ValueError(
            f"the extractor must find an answer in some completion; got none in {len(found)}, the "
            f"first {text(rows.completion(0))[:60]!r} (search). Choose another by --extract, or "
            "let answers be longer by --max_new_tokens."
        )
    size = len(found) // len(gold)
    answers = [found[i : i + size] for i in range(0, len(found), size)]
    return Pool(answers, gold)


def estimated(pool: Pool, method: str, n: int, *, seed: int = 0) -> estimate.Estimate:
    """The share of prompts whose chosen answer, of n, is right; its error is over prompts.

    coverage: any of n is right, the most that choosing can reach. best_of_n: the one with the
    highest score. weighted: the answer with the largest sum of weights. majority: the most common
    one. All are means over subsets of n of the N draws, so unbiased.

    Raises:
      ValueError: no such method, a scorer that it needs is not there, or n is out of range.
    """
    values.check_choice("--method", method, METHODS)
    votes.check(pool.answers, n)
    if method == COVERAGE:
        correct = pool.correct
        chance = pass_rate.pass_at_k(correct.sum(axis=1), np.array(correct.shape[1]), n)
        return estimate.mean(chance)
    if method == MAJORITY:
        return votes.majority(pool.answers, pool.right, n)
    if pool.scores is None or pool.weights is None:
        raise ValueError(f"{method} must have a scorer; got none (search). Name one by --scorer.")
    if method == BEST:
        return best_of_n.expected_best(pool.scores, pool.correct, n)
    return votes.weighted(pool.answers, pool.right, pool.weights, n, seed=seed)


def curves(
    pool: Pool, methods: Sequence[str], sizes: Sequence[int], *, seed: int = 0
) -> Mapping[str, dict[int, estimate.Estimate]]:
    """{method: {n: accuracy}}; sizes above the draws of a prompt are left out."""
    most = len(pool.answers[0])
    return {
        method: {n: estimated(pool, method, n, seed=seed) for n in sizes if n <= most}
        for method in methods
    }

"""Votes and curves equal what is enumerated, and in the mean the closed forms of tabular worlds."""

import itertools
import math

import numpy as np
import pytest

from alignjax.search import accuracy, votes

ROWS = (
    ("a", "a", "b", "c", "b", "a"),
    ("a", "b", "b", "b", None, "c"),
    (None, None, "a", "b", "c", "d"),
    ("b", "b", "b", "b", "b", "b"),
    (None,) * 6,
)


def vote(drawn, weights):
    """The chance that "a" wins, by hand; weights of each draw."""
    totals = {}
    for answer, weight in zip(drawn, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0) + weight
    if not totals:
        return 0.0
    best = [answer for answer, total in totals.items() if total == max(totals.values())]
    return float("a" in best) / len(best)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("row", ROWS)
def test_a_majority_is_the_mean_over_all_subsets(row, n):
    every = [vote(s, [1] * n) for s in itertools.combinations(row, n)]
    assert votes.majority([row], ["a"], n).value == pytest.approx(np.mean(every), abs=1e-12)


def test_a_weighted_vote_is_the_mean_over_all_subsets():
    weights = np.array([[1.0, 0.5, 2.0, 1.0, 0.25, 0.0]])
    every = [
        vote([ROWS[0][i] for i in s], weights[0, list(s)])
        for s in itertools.combinations(range(6), 3)
    ]
    found = votes.weighted([ROWS[0]], ["a"], weights, 3, subsets=20000)
    assert found.value == pytest.approx(np.mean(every), abs=0.015)
    whole = votes.weighted([ROWS[0]], ["a"], weights, 6)
    assert whole.value == vote(ROWS[0], weights[0]) == 0.0  # b has 2.25, a 1.5


def test_equal_weights_are_a_majority():
    ones = np.ones((len(ROWS), 6))
    found = votes.weighted(ROWS, ["a"] * len(ROWS), ones, 6)
    assert found.value == pytest.approx(votes.majority(ROWS, ["a"] * len(ROWS), 6).value)


def test_a_majority_of_two_answers_is_binomial():
    """The mean over many prompts of N = 12 draws: P(Bin(n, q) > n / 2) + ties / 2."""
    q, n, rng = 0.6, 4, np.random.default_rng(0)
    draws = np.where(rng.random((2000, 12)) < q, "a", "b").tolist()
    found = votes.majority(draws, ["a"] * len(draws), n)
    chance = [math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)]
    closed = sum(chance[n // 2 + 1 :]) + chance[n // 2] / 2
    assert abs(found.value - closed) < 4 * found.se < 0.03


def test_curves_equal_their_closed_forms_on_a_tabular_world():
    """Right with probability q; scores are normal, d higher where right: best-of-n is an integral.

    coverage: 1 - (1 - q)^n.
    """
    q, gap, rng = 0.3, 1.5, np.random.default_rng(1)
    right = rng.random((1200, 16)) < q
    scores = rng.normal(size=right.shape) + gap * right
    wrong = rng.integers(0, 1000, right.shape)
    answers = [
        [-1 if r else int(w) for r, w in zip(*row, strict=True)]
        for row in zip(right, wrong, strict=True)
    ]
    pool = accuracy.Pool(answers, [-1] * 1200, scores, np.exp(scores))
    found = accuracy.curves(pool, accuracy.METHODS, [1, 4, 32])
    assert all(list(curve) == [1, 4] for curve in found.values())  # 32 were not drawn
    x = np.linspace(-8, 10, 20001)
    phi = lambda z: np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)  # noqa: E731
    cdf = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    shifted = np.array([0.5 * (1 + math.erf((v - gap) / math.sqrt(2))) for v in x])
    for n in (1, 4):
        below = (1 - q) * cdf + q * shifted
        best = float(np.sum(n * q * phi(x - gap) * below ** (n - 1)) * (x[1] - x[0]))
        for name, closed in (("coverage", 1 - (1 - q) ** n), ("best_of_n", best)):
            own = found[name][n]
            assert abs(own.value - closed) < 4 * own.se < 0.08, (name, n)
    assert all(abs(curve[1].value - found["coverage"][1].value) < 0.01 for curve in found.values())
    assert found["coverage"][4].value >= found["weighted"][4].value > found["majority"][4].value


def test_errors_are_over_prompts():
    """Copies of a prompt's draws are no new prompts."""
    row = [["a", "b"] * 8, ["b", "c"] * 8, ["a", "a"] * 8]
    found = votes.majority(row, ["a"] * 3, 1)
    assert found.n == 3
    assert found.value == pytest.approx(0.5)
    assert found.se == pytest.approx(np.std([0.5, 0.0, 1.0], ddof=1) / math.sqrt(3))


def test_what_cannot_be_counted_is_refused():
    for answers, n in (([["a"], ["a", "b"]], 1), ([["a", "b"]], 3), ([["a", "b"]], 0), ([], 1)):
        with pytest.raises(ValueError, match="n must be between 1 and the answers"):
            votes.majority(answers, ["a"] * len(answers), n)
    with pytest.raises(ValueError, match="weights of votes must be finite"):
        votes.weighted([["a", "b"]], ["a"], np.array([[1.0, -1.0]]), 1)
    pool = accuracy.Pool([["a", "b"]], ["a"])
    with pytest.raises(ValueError, match=r"best_of_n must have a scorer; got none \(search\)"):
        accuracy.estimated(pool, "best_of_n", 1)

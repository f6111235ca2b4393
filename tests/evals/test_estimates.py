"""Numbers with their standard errors, and best-of-n, against enumeration."""

import itertools
import math

import numpy as np
import pytest

from alignjax.evals import best_of_n, estimate, preferences

RNG = np.random.default_rng(0)


def test_mean_by_hand():
    assert estimate.mean([1.0, 2.0, 3.0, 6.0]) == (3.0, pytest.approx(math.sqrt(14 / 3) / 2), 4)
    assert estimate.mean(np.array([5], np.int32)) == (5.0, 0.0, 1)
    # float32 rows far from zero: the sum is float64.
    rows = np.full(100_000, 16_777_216.0, np.float32) + np.tile([0, 2], 50_000).astype(np.float32)
    assert estimate.mean(rows).value == 16_777_217.0
    assert estimate.mean([1.0, 2.0]).as_dict() == {"value": 1.5, "se": 0.5, "n": 2}


def bootstrap(function, *columns):
    rows = len(columns[0])
    picks = np.random.default_rng(1).integers(0, rows, (2000, rows))
    return np.std([function(*(c[pick] for c in columns)) for pick in picks])


def test_ratio_and_its_error_equal_the_bootstrap():
    weights = RNG.integers(1, 20, 300).astype(float)
    totals = weights * RNG.normal(1.5, 0.3, 300) + RNG.normal(0, 2, 300)
    got = estimate.ratio(totals, weights)
    assert got.value == pytest.approx(totals.sum() / weights.sum())
    want = bootstrap(lambda t, w: t.sum() / w.sum(), totals, weights)
    assert got.se == pytest.approx(want, rel=0.08)
    assert got.n == 300
    # Equal weights: the plain mean, whose error the mean of ratios would share.
    same = estimate.ratio(totals, np.full(300, 4.0))
    assert same == pytest.approx(estimate.mean(totals / 4))
    assert estimate.ratio([6.0], [4.0]) == (1.5, 0.0, 1)


def test_correlation_and_its_error():
    x = RNG.normal(size=400)
    y = 0.6 * x + 0.8 * RNG.normal(size=400)
    got = estimate.correlation(x, y)
    assert got.value == pytest.approx(np.mean((x - x.mean()) * (y - y.mean())) / x.std() / y.std())
    assert got.se == pytest.approx(bootstrap(lambda a, b: np.corrcoef(a, b)[0, 1], x, y), rel=0.15)
    assert estimate.correlation(x, -2 * x).value == pytest.approx(-1)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_expected_best_averages_over_all_subsets(n):
    score, value = RNG.normal(size=(4, 5)), RNG.normal(size=(4, 5))
    want = np.mean(
        [
            [value[p, max(subset, key=lambda i: score[p, i])] for p in range(4)]
            for subset in itertools.combinations(range(5), n)
        ],
        axis=0,
    )
    got = best_of_n.expected_best(score, value, n)
    assert got == pytest.approx(estimate.mean(want))
    # Of many draws the weights still sum to one.
    ones = best_of_n.expected_best(RNG.normal(size=(1, 4096)), np.ones((1, 4096)), n)
    assert ones.value == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("n", [0, 6])
def test_no_best_of_more_draws_than_there_are(n):
    with pytest.raises(ValueError, match=f"n must be .* got {n}"):
        best_of_n.expected_best(np.zeros((2, 5)), np.zeros((2, 5)), n)


@pytest.mark.parametrize(("n", "want"), [(1, 0.0), (2, 0.193), (4, 0.636), (16, 1.835)])
def test_kl_of_best_of_n_is_log_n_less_without_ties(n, want):
    bound = math.log(n) - (n - 1) / n
    assert bound == pytest.approx(want, abs=5e-4)
    got = best_of_n.kl(RNG.permutation(4000)[None].astype(float), n).value
    assert got == pytest.approx(bound, abs=5e-3)
    assert got <= bound + 1e-12
    few = best_of_n.kl(RNG.normal(size=(3, 8)), n)
    assert -1e-12 <= few.value <= bound + 1e-12
    assert few.n == 3


def test_ties_lower_the_kl_to_that_of_the_levels():
    row, n = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 7.0]), 3
    # Enumerate the n draws with replacement; a level's members share its chance.
    chosen = {0.0: 0.0, 1.0: 0.0, 7.0: 0.0}
    for draw in itertools.product(row, repeat=n):
        chosen[max(draw)] += 6.0**-n
    share = {0.0: 3 / 6, 1.0: 2 / 6, 7.0: 1 / 6}
    want = sum(q * math.log(q / share[level]) for level, q in chosen.items())
    assert best_of_n.kl(row[None], n).value == pytest.approx(want)
    assert want < best_of_n.kl(np.arange(6.0)[None], n).value < math.log(n) - (n - 1) / n
    assert best_of_n.kl(np.zeros((2, 6)), n).value == 0  # nothing to choose by


def test_a_tie_counts_half():
    scores = np.array([[2.0, 1.0], [1.0, 2.0], [3.0, 3.0], [-1.0, -2.0]])
    got = preferences.accuracy(scores)
    assert (got.value, got.n) == (0.625, 4)
    assert preferences.accuracy(np.zeros((3, 2))) == (0.5, 0.0, 3)


def test_every_comparison_of_a_prompt_s_answers_is_read_off_its_scores():
    values = np.array([[1.0, 2, 3], [4, 5, 6]], np.float32)
    table = {
        "preferred": np.array([[[2, 0], [1, 2]], [[0, 1], [0, 0]]]),
        "pair_mask": np.array([[True, True], [True, False]]),
    }
    np.testing.assert_array_equal(preferences.in_pairs(values, table), [[3, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(preferences.in_pairs(values[:, :2], {}), [[1, 2], [4, 5]])

"""Aggregates: closed forms, planted raters, and what must not count."""

import numpy as np
import pytest

from alignjax.feedback import aggregate

NAN = float("nan")
THREE = (0.9, 0.6, 0.6)


def votes(accuracies, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(true labels [n], votes [R, n]) of raters who err evenly on two labels."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    wrong = rng.random((len(accuracies), n)) > np.array(accuracies)[:, None]
    return truth, (truth ^ wrong).astype(float)


def test_majority_and_best_weights_of_known_raters():
    assert aggregate.expected_accuracy(THREE) == pytest.approx(0.792)
    odds = np.log(np.array(THREE) / (1 - np.array(THREE)))
    assert aggregate.expected_accuracy(THREE, odds) == pytest.approx(0.9)
    assert aggregate.expected_accuracy([0.8, 0.8]) == pytest.approx(0.8)  # draws count half


@pytest.mark.parametrize(("raters", "want"), [(3, 0.896), (5, 0.942), (9, 0.980)])
def test_majorities_of_equal_raters(raters, want):
    assert aggregate.expected_accuracy([0.8] * raters) == pytest.approx(want, abs=5e-4)


def test_sampled_votes_reach_the_closed_forms():
    truth, given = votes(THREE, 40_000, 0)
    for got, want in (
        (aggregate.majority(given, 2), 0.792),
        (aggregate.weighted(given, THREE, 2), 0.900),
    ):
        right = np.mean(aggregate.labels(got) == truth)
        assert right == pytest.approx(want, abs=3 * (want * (1 - want) / 40_000) ** 0.5)
    # The posterior is calibrated: its mean is how often it is right.
    posterior = aggregate.weighted(given, THREE, 2)
    assert posterior.max(axis=1).mean() == pytest.approx(0.9, abs=0.005)


def test_a_weighted_vote_is_bayes_rule():
    posterior = aggregate.weighted(np.array([[0.0], [1.0], [NAN]]), [0.9, 0.7, 0.8], 3)
    likelihood = np.array([0.9 * 0.15, 0.05 * 0.7, 0.05 * 0.15])
    np.testing.assert_allclose(posterior[0], likelihood / likelihood.sum())


@pytest.mark.parametrize("even", [True, False])
def test_dawid_skene_labels_without_knowing_the_raters(even):
    """Within seeds the labels of three raters vary: they hardly identify their accuracies."""
    rights, errors = [], []
    for seed in range(20):
        truth, given = votes(THREE, 2000, seed)
        fitted = aggregate.dawid_skene(given, 2, even=even)
        rights.append(np.mean(aggregate.labels(fitted.posterior) == truth))
        errors += [abs(a - b) for a, b in zip(fitted.accuracies, THREE, strict=True)]
    assert np.mean(rights) >= 0.88
    assert np.sum(np.array(rights) >= 0.88) >= (19 if even else 16)
    assert 0.05 < max(errors) < 0.2


@pytest.mark.parametrize(
    ("accuracies", "n", "error"), [(THREE, 20_000, 0.08), ((0.9, 0.8, 0.6, 0.6, 0.55), 2000, 0.07)]
)
def test_more_items_or_raters_identify_accuracies(accuracies, n, error):
    for seed in range(5):
        truth, given = votes(accuracies, n, seed)
        fitted = aggregate.dawid_skene(given, 2)
        assert np.mean(aggregate.labels(fitted.posterior) == truth) >= 0.88
        for got, want in zip(fitted.accuracies, accuracies, strict=True):
            assert got == pytest.approx(want, abs=error)


@pytest.mark.parametrize(
    "accuracies", [THREE, (0.9, 0.8, 0.6, 0.6, 0.55)], ids=["three raters", "five"]
)
def test_intervals_of_accuracies_hold_the_truth(accuracies):
    """Also of the rater of .9, whom three raters identify within some .2 only."""
    inside, widths = [], []
    for seed in range(10):
        found = aggregate.accuracy_intervals(votes(accuracies, 2000, 100 + seed)[1], 2)
        inside.append([a.low <= b <= a.high for a, b in zip(found, accuracies, strict=True)])
        widths.append([a.high - a.low for a in found])
        assert all(a.low <= a.value <= a.high for a in found)
        assert [a.n for a in found] == [2000] * len(accuracies)
    assert 0.9 <= np.mean(inside) <= 1
    assert np.mean(inside, axis=0).min() >= 0.85
    assert 0.04 < np.mean(widths, axis=0)[0] < 0.35


def test_dawid_skene_by_an_independent_loop():
    """The maximum of the likelihood: no small change of any parameter raises it."""
    _, given = votes((0.85, 0.7, 0.75, 0.6), 500, 3)
    given[:, ::7][1] = NAN
    fitted = aggregate.dawid_skene(given, 2)

    def likelihood(prior, accuracies):
        total = 0.0
        for column in given.T:
            both = [prior, 1 - prior]
            for label in (0, 1):
                for vote, a in zip(column, accuracies, strict=True):
                    if np.isfinite(vote):
                        both[label] *= a if vote == label else 1 - a
            total += np.log(sum(both))
        return total

    best = [fitted.prior[0], *fitted.accuracies]
    top = likelihood(best[0], best[1:])
    for index in range(5):
        for step in (-0.02, 0.02):
            moved = list(best)
            moved[index] += step
            assert likelihood(moved[0], moved[1:]) < top


def test_a_matrix_tells_which_label_a_rater_misses():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 5000)
    given = np.stack(
        [np.where(rng.random(5000) < 0.8, truth, rng.integers(0, 3, 5000)) for _ in range(4)]
        + [np.where(truth == 2, 1, truth)]  # never says 2
    ).astype(float)
    fitted = aggregate.dawid_skene(given, 3, even=False)
    np.testing.assert_allclose(fitted.confusion[4], [[1, 0, 0], [0, 1, 0], [0, 1, 0]], atol=0.03)
    np.testing.assert_allclose(fitted.confusion.sum(axis=2), 1)
    even = aggregate.dawid_skene(given, 3)
    assert np.mean(aggregate.labels(fitted.posterior) == truth) > np.mean(
        aggregate.labels(even.posterior) == truth
    )


def test_gaps_and_unseen_items():
    given = np.array([[0, 1, NAN, NAN], [0, NAN, NAN, 1]], float)
    np.testing.assert_array_equal(
        aggregate.majority(given, 2), [[1, 0], [0, 1], [NAN, NAN], [0, 1]]
    )
    for posterior in (
        aggregate.weighted(given, [0.9, 0.8], 2),
        aggregate.dawid_skene(given, 2).posterior,
    ):
        assert np.isnan(posterior[2]).all()
        assert np.isfinite(posterior[[0, 1, 3]]).all()
    np.testing.assert_array_equal(
        aggregate.labels(np.array([[0.5, 0.5], [0.2, 0.8], [NAN, NAN]])), [NAN, 1, NAN]
    )


def test_weights_are_estimated_only_where_overlaps_allow():
    _, given = votes(THREE, 2000, 0)
    assert aggregate.is_enough(given)
    np.testing.assert_array_equal(
        aggregate.labels(aggregate.combined(given, 2)),
        aggregate.labels(aggregate.weighted(given, aggregate.dawid_skene(given, 2).accuracies, 2)),
    )
    for short in (given[:, :29], given[:2], np.where(np.eye(3, 2000) + 1, given, NAN)[:, :20]):
        assert not aggregate.is_enough(short)
        np.testing.assert_array_equal(aggregate.combined(short, 2), aggregate.majority(short, 2))
    alone = given.copy()
    alone[1:, 25:] = NAN
    assert not aggregate.is_enough(alone)


def test_bad_votes_are_refused():
    with pytest.raises(ValueError, match="codes from 0 to 1, or NaN; got 2"):
        aggregate.majority(np.array([[2.0]]), 2)
    with pytest.raises(ValueError, match=r"shape \[R, N\]; got \[1\]"):
        aggregate.majority(np.array([1.0]), 2)
    with pytest.raises(ValueError, match="categories must be"):
        aggregate.majority(np.zeros((1, 1)), 1)
    with pytest.raises(ValueError, match="one number a rater; got 1 for 2"):
        aggregate.weighted(np.zeros((2, 1)), [0.9], 2)
    with pytest.raises(ValueError, match="accuracy must be"):
        aggregate.weighted(np.zeros((1, 1)), [1.9], 2)
    with pytest.raises(ValueError, match="must hold one at least; got none"):
        aggregate.dawid_skene(np.full((2, 3), NAN), 2)

"""The order of rows: permutations of any size, and mixtures."""

import numpy as np
import pytest
from scipy import stats

from alignjax.data import order, pipeline

LARGE = order.LISTED + 1
SIZES = [2, 3, 5, 100, 10_007, 1 << 16, LARGE]


def keys(seed, rounds=order.ROUNDS):
    return np.random.default_rng(seed).integers(1 << 63, size=rounds)


@pytest.mark.parametrize("size", SIZES)
def test_a_keyed_permutation_meets_every_row_once(size):
    found = order.permuted(np.arange(size), size, keys(size))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(found, minlength=size), 1)


@pytest.mark.parametrize("size", [10**10, 2**40 + 1, 2**61])
def test_a_huge_permutation_is_within_its_range_and_never_meets_a_row_twice(size):
    found = order.permuted(np.arange(100_000), size, keys(1))
    assert found.min() >= 0
    assert found.max() < size
    assert len(np.unique(found)) == len(found)
    assert abs(found.mean() / size - 0.5) < 0.01


def test_a_small_table_keeps_numpys_order():
    """Runs of earlier releases go on in their order."""
    random = np.random.default_rng([7, 0x6F726465, 2])
    found = order.Order(1000, 7).at(2000 + np.arange(1000))
    np.testing.assert_array_equal(found, random.permutation(1000))
    largest = order.Order(order.LISTED, 3).at(np.arange(5))
    expected = np.random.default_rng([3, 0x6F726465, 0]).permutation(order.LISTED)
    np.testing.assert_array_equal(largest, expected[:5])


@pytest.mark.parametrize("size", [5000, 1 << 16])
def test_positions_neighbours_and_epochs_look_independent(size):
    """Of 40 permutations each: a uniform joint histogram, uniform gaps, no correlation."""
    histogram, gaps, epochs, lags = [], [], [], []
    for trial in range(40):
        one, other = (order.permuted(np.arange(size), size, keys([trial, i])) for i in (0, 1))
        counts = np.histogram2d(np.arange(size), one, bins=16)[0]
        expected = size / 256
        histogram.append(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), 225))
        gaps.append(stats.kstest((np.diff(one) % size) / size, "uniform").pvalue)
        epochs.append(np.corrcoef(one, other)[0, 1] * np.sqrt(size))
        lags.append(np.corrcoef(one[:-1], one[1:])[0, 1] * np.sqrt(size))
    for values in (histogram, gaps):
        assert stats.kstest(values, "uniform").pvalue > 1e-3
    for values in (epochs, lags):
        assert stats.kstest(values, "norm").pvalue > 1e-3


def test_two_rounds_would_not_do():
    """The tests above have the power to tell a poor network."""
    found = order.permuted(np.arange(1 << 16), 1 << 16, keys(0, 2))
    gaps = (np.diff(found) % (1 << 16)) / (1 << 16)
    assert stats.kstest(gaps, "uniform").pvalue < 1e-6


def test_batches_of_a_large_table_are_functions_of_seed_and_step():
    table = {"row": np.arange(LARGE, dtype=np.int32)}
    batches = pipeline.Batches(table, batch_size=1024, seed=1)
    ahead = [batches.batch(k)["row"] for k in (0, 1023, 1024, 1025)]
    fresh = pipeline.Batches(table, batch_size=1024, seed=1)
    for k, rows in reversed(list(zip((0, 1023, 1024, 1025), ahead, strict=True))):
        np.testing.assert_array_equal(fresh.batch(k)["row"], rows)
    other = pipeline.Batches(table, batch_size=1024, seed=2)
    assert (other.batch(0)["row"] != ahead[0]).any()
    epoch = np.concatenate([batches.batch(k)["row"] for k in range(1025)])[:LARGE]
    np.testing.assert_array_equal(np.bincount(epoch, minlength=LARGE), 1)


WEIGHTS = [[1, 1], [0.7, 0.2, 0.1], [1, 1, 1], [0.9, 0.05, 0.03, 0.02], [5.0], [0.61, 0.39]]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_prefix_of_a_mixture_has_its_shares_to_within_a_row(weights):
    which, counts = order.schedule(weights)
    share = np.array(weights) / sum(weights)
    np.testing.assert_allclose(counts / counts.sum(), share, atol=1 / order.CYCLE)
    np.testing.assert_array_equal(np.bincount(which), counts)
    long = np.tile(which, 3)
    for table, own in enumerate(counts / counts.sum()):
        behind = np.cumsum(long == table) - own * np.arange(1, len(long) + 1)
        assert np.abs(behind).max() < 1
        assert behind.max() - behind.min() < 2  # of any window


def test_tables_of_a_mixture_have_epochs_of_their_own():
    sizes = (7, 50, LARGE)
    mixture = order.Mixture(sizes, (0.5, 0.3, 0.2), seed=4)
    which, rows = mixture.at(np.arange(1000))
    for table, size in enumerate(sizes):
        own = rows[which == table]
        for start in range(0, len(own) - size, size):
            np.testing.assert_array_equal(np.sort(own[start : start + size]), np.arange(size))
        assert len(np.unique(own[:size])) == min(size, len(own))
    again = order.Mixture(sizes, (0.5, 0.3, 0.2), seed=4)
    slots = np.array([999, 3, 500])
    for found, whole in zip(again.at(slots), (which, rows), strict=True):
        np.testing.assert_array_equal(found, whole[slots])


def test_batches_take_tables_by_weight():
    table = {"row": np.arange(30)}
    batches = pipeline.Batches(
        table, batch_size=10, seed=0, mixture=((10, 0.8), (20, 0.2)), own=np.arange(5)
    )
    rows = np.concatenate([batches.batch(k)["row"] for k in range(8)])
    assert len(rows) == 40
    whole = pipeline.Batches(table, batch_size=10, seed=0, mixture=((10, 0.8), (20, 0.2)))
    stream = np.concatenate([whole.batch(k)["row"] for k in range(8)])
    assert (stream < 10).sum() == 64
    np.testing.assert_array_equal(whole.batch(3)["row"][:5], batches.batch(3)["row"])
    with pytest.raises(ValueError, match="must have the rows of the joined one, 30"):
        pipeline.Batches(table, batch_size=2, seed=0, mixture=((10, 1.0), (10, 1.0)))


@pytest.mark.parametrize("weights", [[1, 0], [1, -1], [1, float("nan")], [], [1, float("inf")]])
def test_weights_must_be_positive(weights):
    with pytest.raises(ValueError, match="weights of a mixture must be positive"):
        order.schedule(weights)


def test_a_weight_too_small_for_a_cycle_is_refused():
    with pytest.raises(ValueError, match="must be at least 1/10000 of their sum"):
        order.schedule([1, 1e-6])

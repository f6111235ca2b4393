"""Errors of rows that hang together."""

import math

import numpy as np
import pytest

from alignjax.evals import estimate


def inspect_se(values, clusters):
    """inspect_ai's `stderr(cluster=...)`, read from its source, written anew."""
    values, clusters = np.asarray(values), np.asarray(clusters)
    mean, total = values.mean(), 0.0
    names = np.unique(clusters)
    for name in names:
        own = values[clusters == name] - mean
        total += np.outer(own, own).sum()
    return math.sqrt(total * len(names) / (len(names) - 1)) / len(values)


def test_the_error_of_clusters_by_hand():
    """Sums of influences (x - 1/2) / 4 are 1/4 and -1/4: sqrt(2 / (2 - 1) (1/16 + 1/16))."""
    own = estimate.clustered_ratio(np.array([1, 1, 0, 0.0]), np.ones(4), ["a", "a", "b", "b"])
    assert (own.value, own.n) == (0.5, 2)
    assert own.se == pytest.approx(0.5)
    assert own.se == pytest.approx(inspect_se([1, 1, 0, 0.0], ["a", "a", "b", "b"]))


def test_the_error_is_inspects():
    draw = np.random.default_rng(0)
    clusters = draw.integers(0, 30, 200)
    values = draw.normal(size=200) + draw.normal(size=30)[clusters]
    own = estimate.clustered_ratio(values, np.ones(200), clusters.tolist())
    assert own.value == pytest.approx(values.mean())
    assert own.se == pytest.approx(inspect_se(values, clusters))
    assert own.se > 2 * estimate.mean(values).se  # what is not independent tells less


def test_clusters_of_one_row_are_the_plain_errors():
    draw = np.random.default_rng(1)
    totals, weights = draw.normal(size=50), draw.uniform(1, 9, 50)
    own = estimate.clustered_ratio(totals, weights, range(50))
    plain = estimate.ratio(totals, weights)
    assert own == pytest.approx(plain)
    own = estimate.clustered_ratio(totals, np.ones(50), range(50))
    assert own == pytest.approx(estimate.mean(totals))


def test_a_single_cluster_has_no_error_and_nothing_no_value():
    assert math.isnan(estimate.clustered_ratio(np.ones(3), np.ones(3), [1, 1, 1]).se)
    none = estimate.clustered_ratio(np.zeros(3), np.zeros(3), [1, 2, 3])
    assert math.isnan(none.value)
    assert none.n == 0

"""Rates of all traffic from samples of known probabilities: unbiased, covered; drift."""

import math

import numpy as np
import pytest

from alignjax.evals import sampled

# A day's traffic: unsafe or not, blocked or not; and with which probability each is reviewed.
RNG = np.random.default_rng(0)
SIZE = 6000
UNSAFE = RNG.random(SIZE) < 0.08
BLOCKED = np.where(UNSAFE, RNG.random(SIZE) < 0.8, RNG.random(SIZE) < 0.03)
PI = np.where(BLOCKED, 0.4, 0.1)
TRUTH = {
    "false_positive": BLOCKED[~UNSAFE].mean(),
    "false_negative": (~BLOCKED)[UNSAFE].mean(),
    "unsafe": UNSAFE.mean(),
}


def samples(count=1000, weighted=True):
    found = {name: [] for name in TRUTH}
    rng = np.random.default_rng(1)
    for _ in range(count):
        taken = rng.random(SIZE) < PI
        pi = PI[taken] if weighted else np.ones(taken.sum())
        own = sampled.rates(BLOCKED[taken], UNSAFE[taken], pi)
        for name in TRUTH:
            found[name].append(getattr(own, name))
    return found


def test_rates_are_unbiased_over_a_thousand_samplings_and_intervals_cover():
    for name, own in samples().items():
        values, errors = (np.array([getattr(x, n) for x in own]) for n in ("value", "se"))
        spread = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - TRUTH[name]) < 4 * spread + 0.01 * TRUTH[name], name
        covered = np.abs(values - TRUTH[name]) <= 1.96 * errors
        assert covered.mean() >= 0.92, name


def test_without_the_weights_rates_are_wrong():
    """What a guard lets through is reviewed seldom: unweighted, its misses seem few."""
    own = samples(100, weighted=False)
    seen = np.mean([x.value for x in own["false_negative"]])
    assert seen < 0.5 * TRUTH["false_negative"]


def test_totals_are_unbiased_with_the_error_of_independent_choices():
    rng, values = np.random.default_rng(2), []
    for _ in range(1000):
        taken = rng.random(SIZE) < PI
        values.append(sampled.total(UNSAFE[taken], PI[taken]))
    totals = np.array([x.value for x in values])
    assert abs(totals.mean() - UNSAFE.sum()) < 4 * totals.std() / math.sqrt(1000)
    assert math.sqrt(np.mean([x.se**2 for x in values])) == pytest.approx(totals.std(), rel=0.08)
    exact = math.sqrt(np.sum((1 - PI) / PI * UNSAFE))
    assert totals.std() == pytest.approx(exact, rel=0.08)


def test_by_hand_and_refusals():
    own = sampled.rates([1, 1, 0, 0], [1, 0, 0, 1], [0.5, 0.5, 0.1, 0.1])
    assert own.false_positive.value == pytest.approx(2 / 12)
    assert own.false_negative.value == pytest.approx(10 / 12)
    assert own.unsafe.value == pytest.approx(12 / 24)
    assert math.isnan(sampled.rates([0], [1], [1]).false_positive.value)
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        sampled.rates([1], [1], [0.0])


def test_of_a_kind_judged_in_part_each_stands_for_more():
    pi = sampled.reviewed_probability(
        [0.5] * 4 + [0.1] * 2, ["blocked"] * 4 + ["allowed"] * 2,
        np.array([True, False, True, False, True, True]),
    )  # fmt: skip
    np.testing.assert_allclose(pi, [0.25] * 4 + [0.1] * 2)


def day(rng, rate, size):
    unsafe = rng.random(size) < rate
    blocked = np.where(unsafe, rng.random(size) < 0.8, rng.random(size) < 0.03)
    pi = np.where(blocked, 0.5, 0.1)
    taken = rng.random(size) < pi
    return unsafe[taken], pi[taken]


def test_drift_is_found_within_500_reviews_and_no_more_than_1_percent_is_false():
    rng, limit, reviews = np.random.default_rng(3), math.log(100), []
    for _ in range(60):
        seen, pi, size = np.zeros(0, bool), np.zeros(0), 0
        while len(seen) < 500:
            more, own = day(rng, 0.15, 100)
            seen, pi, size = np.append(seen, more), np.append(pi, own), size + 100
            if sampled.log_wealth(seen, pi, size, 0.05) > limit:
                break
        reviews.append(len(seen))
    assert max(reviews) < 500
    assert np.median(reviews) < 250
    false = 0
    for _ in range(300):
        seen, pi, found = np.zeros(0, bool), np.zeros(0), False
        for size in range(300, 3001, 300):  # looked at ten times
            more, own = day(rng, 0.05, 300)
            seen, pi = np.append(seen, more), np.append(pi, own)
            found = found or sampled.log_wealth(seen, pi, size, 0.05) > limit
        false += found
    assert false <= 300 * 0.01 + 3 * math.sqrt(300 * 0.01)
    with pytest.raises(ValueError, match="a baseline must lie"):
        sampled.log_wealth(np.ones(3), np.ones(3), 2, 0.05)

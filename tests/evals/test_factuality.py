"""Factuality: penalties and F1 by hand, silence and failure kept apart, the best abstention."""

import numpy as np
import pytest

from alignjax.evals import factuality


def claims(supported, facts, abstained=None, failed=None):
    n = len(facts)
    none = np.zeros(n, bool)
    return factuality.Claims(
        np.array(supported),
        np.array(facts),
        none if abstained is None else np.array(abstained, bool),
        none if failed is None else np.array(failed, bool),
    )


def test_the_penalty_of_few_facts():
    got = factuality.length_penalty(np.array([0, 1, 2, 5, 9, 10, 11, 40]))
    np.testing.assert_allclose(got, [0, 0.0001, 0.018, 0.368, 0.895, 1, 1, 1], atol=5e-4)


def test_f1_by_hand():
    got = factuality.f1_at_k(np.array([0, 2, 4, 8]), np.array([3, 4, 4, 16]), 4)
    np.testing.assert_allclose(got, [0, 0.5, 1, 2 * 0.5 / 1.5])
    np.testing.assert_allclose(factuality.f1_at_k(np.array([0]), np.array([0]), 4), 0)


def test_silence_no_facts_and_failure_are_three_things():
    got = factuality.factuality(
        claims([3, 1, 0, 0, 0], [4, 2, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]), k=4
    )
    assert (got.abstained, got.no_facts, got.failed) == (1, 1, 1)
    assert got.precision.value == pytest.approx((0.75 + 0.5) / 2)
    assert got.precision.n == 2
    assert got.facts.value == 3
    assert got.respond_rate.value == pytest.approx(2 / 4)  # of the four that could be read
    assert got.expected.value == pytest.approx(got.precision.value * got.respond_rate.value)
    penalties = factuality.length_penalty(np.array([4, 2]))
    assert got.penalised.value == pytest.approx(np.mean([0.75, 0.5] * penalties))
    assert got.f1.n == 4


def test_silence_alone_is_undefined_and_not_zero():
    got = factuality.factuality(claims([0, 0], [0, 0], [1, 1]), k=4)
    assert np.isnan(got.precision.value)
    assert np.isnan(got.facts.value)
    assert got.respond_rate.value == got.expected.value == 0
    with pytest.raises(ValueError, match="at most as many true facts"):
        factuality.factuality(claims([3], [2]), k=4)
    with pytest.raises(ValueError, match="none where an answer abstained"):
        factuality.factuality(claims([1], [1], [1]), k=4)


@pytest.mark.parametrize(("penalty", "threshold"), [(1.0, 0.5), (3.0, 0.75)])
def test_the_best_answers_above_the_threshold(penalty, threshold):
    assert factuality.answer_threshold(penalty) == pytest.approx(threshold)
    chances = np.linspace(0, 1, 101)
    answered = chances > threshold
    assert factuality.abstention_regret(chances, answered, penalty) == pytest.approx(0, abs=1e-12)
    for shift in (-0.1, 0.1):
        moved = chances > threshold + shift
        if (moved != answered).any():
            assert factuality.abstention_regret(chances, moved, penalty) > 0

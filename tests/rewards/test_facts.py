"""Fact checks: claims are split, looked up and verified; what can't be verified is no claim."""

import numpy as np
import pytest

from alignjax.evals import factuality
from alignjax.rewards import facts

TRUE = {"Rome lies on the Tiber.", "Two is even.", "Ice is cold."}
IDK = ("I don't know",)


def checker(unknown=(), seen=None):
    def retrieve(claims):
        return [[] if claim in unknown else [f"about {claim}"] for claim in claims]

    def ask(passages, claims, question):
        if seen is not None:
            seen.append((list(passages), list(claims), question))
        return np.array([2.0 if claim in TRUE else -1.0 for claim in claims])

    return facts.Checker(facts.sentences(IDK), retrieve, facts.asked(ask))


def test_claims_are_counted_and_outcomes_are_kept_apart():
    seen = []
    found = facts.check(
        checker(unknown=("Who can tell.",), seen=seen),
        list("abcdef"),
        [
            "Rome lies on the Tiber. Two is odd.",
            "I don't know.",
            "I don't know much. Ice is cold.",
            "...",
            "Who can tell. Ice is cold.\nTwo is even.",
            "Who can tell.",
        ],
    )
    np.testing.assert_array_equal(found.claims.supported, [1, 0, 1, 0, 2, 0])
    np.testing.assert_array_equal(found.claims.facts, [2, 0, 1, 0, 2, 0])
    np.testing.assert_array_equal(found.claims.abstained, [0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(found.unread, [0, 0, 0, 0, 1, 1])
    ((passages, claims, question),) = seen  # one call: equal claims once, none without passages
    assert sorted(claims) == sorted({*TRUE, "Two is odd."})
    assert passages == [f"about {claim}" for claim in claims]
    assert question == facts.QUESTION
    told = factuality.factuality(found.claims, k=2)
    assert told.precision.value == pytest.approx((0.5 + 1 + 1) / 3)
    assert (told.abstained, told.no_facts) == (1, 2)


def test_utilities_by_hand():
    claims = facts.Claims(*(np.array(x) for x in (
        [1, 0, 0, 2, 0], [2, 3, 0, 2, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1])))  # fmt: skip
    np.testing.assert_array_equal(facts.utilities(claims), [0, -1, 0, 1, np.nan])
    np.testing.assert_array_equal(facts.utilities(claims, penalty=3), [-1, -3, 0, 1, np.nan])
    # Answering is best exactly above the threshold of abstention.
    p = factuality.answer_threshold(3)
    assert p * 1 + (1 - p) * -3 == pytest.approx(0)


def test_planted_errors_are_as_often_as_said_and_the_same_for_equal_claims():
    claims = [f"claim {i}" for i in range(4000)]
    truth = np.arange(4000) % 2 == 0

    def exact(claims, passages):
        return np.where(truth, 5.0, -5.0)

    own = facts.noisy(exact, sensitivity=0.9, specificity=0.7)
    found = own(claims, [[]] * 4000) > 0
    for rows, rate, right in ((truth, 0.9, found), (~truth, 0.7, ~found)):
        assert right[rows].mean() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 2000) ** 0.5)
    np.testing.assert_array_equal(own(claims, [[]] * 4000) > 0, found)
    other = facts.noisy(exact, sensitivity=0.9, specificity=0.7, seed=1)(claims, [[]] * 4000)
    assert ((other > 0) != found).any()


def test_pairs_are_compared_by_utility_and_unverified_ones_not_at_all():
    own = facts.compared("facts", checker(unknown=("Who can tell.",)), penalty=2.0)
    found = own.pair(
        ["p"] * 3,
        ["Two is even.", "I don't know.", "Who can tell."],
        ["Two is odd.", "Two is odd. Ice is cold.", "Ice is cold."],
    )
    np.testing.assert_array_equal(found.logits, [1 - -2, 0 - (1 - 2) / 2, np.nan])
    np.testing.assert_array_equal(found.a_first, found.b_first)
    assert found.unread == 2


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="must have its prompt; got 1 and 2"):
        facts.check(checker(), ["p"], ["x", "y"])
    bad = facts.Checker(facts.sentences(()), lambda c: [["x"]] * len(c), lambda c, p: np.zeros(3))
    with pytest.raises(ValueError, match=r"one logit for each of 1 claims; got .* \[3\]"):
        facts.check(bad, ["p"], ["Two is even."])
    with pytest.raises(ValueError, match="sensitivity must be"):
        facts.noisy(bad.verify, sensitivity=1.5, specificity=1)
    with pytest.raises(ValueError, match="penalty must be"):
        facts.utilities(facts.Claims(*np.zeros((4, 1), int)), penalty=-1)

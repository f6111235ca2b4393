"""Judges: both orders always, faults as planted, unreadable is NaN, rewards in groups."""

import numpy as np
import pytest
from scipy import special

from alignjax.rewards import judge

PROMPTS = [f"p{i}" for i in range(400)]
A, B = [f"aaaa {i}" for i in range(400)], [f"b {i}" for i in range(400)]


def good_a(prompts, answers):
    return np.array([float(x.startswith("a")) for x in answers])


def test_every_pair_is_read_in_both_orders():
    asked = []

    def one(prompts, first, second):
        asked.append((list(first), list(second)))
        return np.full(len(prompts), 2.0)

    found = judge.both_orders(one)(["p"], ["x"], ["y"])
    assert asked == [(["x"], ["y"]), (["y"], ["x"])]
    # Whoever stands first wins: the two orders disagree, and their mean is a tie.
    assert (found.a_first[0], found.b_first[0], found.logits[0]) == (2.0, -2.0, 0.0)
    assert found.probabilities[0] == 0.5


def test_one_order_that_cannot_be_read_leaves_no_verdict():
    found = judge.both_orders(lambda p, x, y: np.where(np.array(x) == "x", np.nan, 1.0))(
        ["p", "q"], ["x", "z"], ["y", "y"]
    )
    np.testing.assert_array_equal(found.logits, [np.nan, 0.0])
    np.testing.assert_array_equal(found.probabilities, [np.nan, 0.5])
    assert found.unread == 1


def test_a_rule_compares_scores():
    found = judge.rule("length", lambda p, x: np.array([len(t) for t in x], float))
    np.testing.assert_array_equal(found.pair(["p"], ["long"], ["s"]).logits, [3.0])
    assert found.score is None


def test_a_noisy_judge_depends_on_its_texts_and_seed_alone():
    noisy = judge.noisy("n", good_a, accuracy=0.7, position=0.2)
    whole = noisy.pair(PROMPTS, A, B)
    part = noisy.pair(PROMPTS[100:], A[100:], B[100:])
    np.testing.assert_array_equal(whole.a_first[100:], part.a_first)
    turned = noisy.pair(PROMPTS, B, A)
    np.testing.assert_array_equal(turned.a_first, -whole.b_first)
    other = judge.noisy("n", good_a, accuracy=0.7, position=0.2, seed=1).pair(PROMPTS, A, B)
    assert (other.a_first != whole.a_first).any()


def test_faults_of_a_noisy_judge():
    always = judge.noisy("n", good_a, accuracy=1.0).pair(PROMPTS, A, B)
    assert (always.logits > 0).all()
    wrong = judge.noisy("n", good_a, accuracy=0.0).pair(PROMPTS, A, B)
    np.testing.assert_array_equal(wrong.logits, -always.logits)
    longer = judge.noisy("n", good_a, accuracy=0.0, length=0.3).pair(PROMPTS, A, B)
    assert np.mean(longer.a_first > 0) == pytest.approx(0.3, abs=3 * (0.21 / 400) ** 0.5)
    blind = judge.noisy("n", good_a, accuracy=0.0, position=1.0, length=1.0).pair(PROMPTS, A, B)
    assert (blind.a_first > 0).all()
    assert (blind.b_first < 0).all()
    tie = judge.noisy("n", lambda p, x: np.zeros(len(x)), accuracy=0.9).pair(["p"], ["x"], ["x"])
    assert tie.logits[0] == 0.0


def test_a_rubric_weighs_its_questions():
    says = {("x", "kind?"): 2.0, ("x", "true?"): -1.0, ("y", "kind?"): 0.0, ("y", "true?"): 1.0}

    def ask(prompts, answers, question):
        return np.array([says.get((x, question), np.nan) for x in answers])

    own = judge.rubric("r", ask, [("kind?", 1.0), ("true?", 3.0)])
    found = own.pair(["p"], ["x"], ["y"])
    np.testing.assert_allclose(found.logits, 0.25 * 2.0 + 0.75 * -2.0)
    np.testing.assert_array_equal(found.a_first, found.b_first)
    yes = 0.25 * special.expit(2.0) + 0.75 * special.expit(-1.0)
    np.testing.assert_allclose(own.score(["p"], ["x"]), [[1 - yes, yes]])
    np.testing.assert_allclose(judge.expected_scores(own.score(["p"], ["x"])), [1 + yes])
    assert np.isnan(own.score(["p"], ["z"])).all()
    assert np.isnan(own.pair(["p"], ["x"], ["z"]).logits).all()


def test_rewards_in_a_group_are_mean_wins():
    worth = {"x": 2.0, "y": 0.0, "z": -1.0, "?": np.nan}
    own = judge.rule("w", lambda p, x: np.array([worth[t] for t in x]))
    got = judge.group_rewards(own, ["p", "q"], [["x", "y", "z"], ["z", "?", "y"]])
    s = special.expit
    want = [(s(2) + s(3)) / 2, (s(-2) + s(1)) / 2, (s(-3) + s(-1)) / 2]
    np.testing.assert_allclose(got[0], want)
    assert got[0].mean() == pytest.approx(0.5)
    np.testing.assert_allclose(got[1], [s(-1), np.nan, s(1)])


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="a prompt and two answers each; got 1, 2 and 1"):
        judge.both_orders(lambda p, x, y: np.zeros(1))(["p"], ["x", "y"], ["z"])
    with pytest.raises(ValueError, match="one logit for each of 1 pairs"):
        judge.both_orders(lambda p, x, y: np.zeros(2))(["p"], ["x"], ["y"])
    with pytest.raises(ValueError, match="accuracy must be"):
        judge.noisy("n", good_a, accuracy=1.2)
    with pytest.raises(ValueError, match="a question at least"):
        judge.rubric("r", lambda p, x, q: np.zeros(1), [])
    with pytest.raises(ValueError, match="weight of 'q' must be"):
        judge.rubric("r", lambda p, x, q: np.zeros(1), [("q", 0.0)])
    own = judge.rule("w", lambda p, x: np.zeros(len(x)))
    with pytest.raises(ValueError, match="groups of one size"):
        judge.group_rewards(own, ["p", "q"], [["x", "y"], ["x"]])

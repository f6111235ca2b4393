"""Social choice: exact societies, other implementations, invariances."""

import json
import pathlib

import numpy as np
import pytest
from scipy import special

from alignjax.feedback import social_choice

RECORDED = json.loads(pathlib.Path(__file__).with_name("social_choice.json").read_text())


def society(share: float, accuracy: float) -> np.ndarray:
    """A share says A>B>C, the rest B>C>A, each comparison right with `accuracy`."""
    groups = []
    for ranks in ([0, 1, 2], [2, 0, 1]):
        before = np.array(ranks)[:, None] < np.array(ranks)[None]
        groups.append(np.where(before, accuracy, 1 - accuracy))
    return social_choice.pooled(np.array(groups), [share, 1 - share])


def test_borda_and_the_pool_pick_one_and_the_majority_another():
    p = society(0.51, 0.98)
    np.testing.assert_allclose(social_choice.borda(p)[:2], [1.0192, 1.4704], atol=1e-9)
    assert np.argmax(social_choice.bradley_terry(p)) == 1
    assert social_choice.condorcet(p) == 0
    np.testing.assert_allclose(social_choice.maximal_lottery(p), [1, 0, 0], atol=1e-9)


def test_sixty_to_forty():
    p = society(0.6, 0.9)
    np.testing.assert_allclose(social_choice.borda(p), [1.16, 1.32, 0.52], atol=1e-9)
    scores = social_choice.bradley_terry(p)
    np.testing.assert_allclose(scores, [0.234, 0.466, -0.699], atol=5e-4)
    np.testing.assert_allclose(social_choice.maximal_lottery(p), [1, 0, 0], atol=1e-9)
    # The scores solve Bradley-Terry's equations, and are in the order of Borda's.
    expected = special.expit(scores[:, None] - scores[None]).sum(axis=1) - 0.5
    np.testing.assert_allclose(expected, social_choice.borda(p), atol=1e-9)
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(social_choice.borda(p)))


def cycle(ab: float, bc: float, ca: float) -> np.ndarray:
    margin = np.array([[0, ab, -ca], [-ab, 0, bc], [ca, -bc, 0]])
    return 0.5 + margin / 2


@pytest.mark.parametrize("margins", [(0.4, 0.6, 0.2), (0.1, 0.1, 0.1), (1.0, 0.3, 0.5)])
def test_the_lottery_of_a_cycle(margins):
    ab, bc, ca = margins
    want = np.array([bc, ca, ab]) / sum(margins)
    np.testing.assert_allclose(social_choice.maximal_lottery(cycle(*margins)), want, atol=1e-9)
    assert social_choice.condorcet(cycle(*margins)) is None
    np.testing.assert_array_equal(social_choice.copeland(cycle(*margins)), 0)
    if margins[0] == 0.4:
        np.testing.assert_allclose(want, [0.5, 1 / 6, 1 / 3])


@pytest.mark.parametrize("case", RECORDED)
def test_other_implementations_agree(case):
    p = social_choice.win_rates(np.array(case["wins"]))
    p[np.isnan(p)] = 0.5
    np.testing.assert_array_equal(social_choice.copeland(p), case["copeland"])
    np.testing.assert_allclose(social_choice.maximal_lottery(p), case["lottery"], atol=1e-6)
    np.testing.assert_allclose(social_choice.bradley_terry(p), case["bradley_terry"], atol=1e-5)
    scores = np.round(social_choice.borda(p), 9)
    ranks = [1 + np.unique(scores[scores > own]).size for own in scores]
    assert ranks == case["borda"]


@pytest.mark.parametrize(
    "rule",
    [
        social_choice.borda,
        social_choice.copeland,
        social_choice.bradley_terry,
        social_choice.maximal_lottery,
    ],
)
def test_alternatives_have_no_order(rule):
    p = social_choice.checked(cycle(0.4, 0.6, 0.2))
    order = [2, 0, 1]
    np.testing.assert_allclose(rule(p[np.ix_(order, order)]), rule(p)[order], atol=1e-9)


def test_groups():
    p = np.stack([society(1.0, 0.9), society(0.0, 0.9)])
    assert social_choice.borda(p).shape == (2, 3)
    # A against B and A against C divide the groups; both put B before C.
    assert social_choice.conflict_share(p) == pytest.approx(2 / 3)
    assert social_choice.conflict_share(p[:1]) == 0
    same = social_choice.pooled(p[::-1], [0.4, 0.6])
    np.testing.assert_allclose(same, social_choice.pooled(p, [0.6, 0.4]))


def test_counts_become_shares_and_ties_half_a_win_each():
    wins = np.array([[0, 6, 0], [2, 0, 0], [0, 0, 0]])
    ties = np.array([[0, 2, 0], [2, 0, 0], [0, 0, 0]])
    p = social_choice.win_rates(wins, ties)
    assert p[0, 1] == 0.7
    assert p[1, 0] == 0.3
    assert np.isnan(p[0, 2])
    with pytest.raises(ValueError, match="ties must be symmetric"):
        social_choice.win_rates(wins, wins)


def test_what_has_no_answer_is_refused():
    with pytest.raises(ValueError, match="beat all others always"):
        social_choice.bradley_terry(np.array([[0.5, 1.0], [0.0, 0.5]]))
    with pytest.raises(ValueError, match="p_ij \\+ p_ji = 1"):
        social_choice.borda(np.array([[0.5, 0.7], [0.7, 0.5]]))
    with pytest.raises(ValueError, match=r"shape \[..., n, n\]"):
        social_choice.borda(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="2 numbers >= 0 with sum 1"):
        social_choice.pooled(np.full((2, 2, 2), 0.5), [0.9, 0.2])
    with pytest.raises(ValueError, match="Compare every pair"):
        social_choice.borda(np.array([[0.5, np.nan], [np.nan, 0.5]]))

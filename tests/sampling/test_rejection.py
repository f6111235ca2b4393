"""Statistical rejection: what is kept is of the optimal law (E19), and what is refused."""

import numpy as np
import pytest

from alignjax.sampling import rejection

RNG = np.random.default_rng(0)
REFERENCE = np.array([0.4, 0.3, 0.2, 0.1])
REWARD = np.array([0.0, 0.5, 1.0, 2.0])


def drawn(prompts, draws, seed=0):
    arms = np.random.default_rng(seed).choice(4, size=(prompts, draws), p=REFERENCE)
    return arms, REWARD[arms]


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_what_is_kept_of_many_is_of_the_gibbs_law(beta):  # E19
    arms, rewards = drawn(1, 40000)
    share = float(REFERENCE @ np.exp((REWARD - 2.0) / beta))
    count = int(0.9 * share * 40000)  # of a first pass, which keeps a share of the draws
    kept = rejection.accepted(rewards, count, beta=beta, rng=np.random.default_rng(1))
    law = np.bincount(arms[0][kept[0]], minlength=4) / count
    gibbs = REFERENCE * np.exp(REWARD / beta)
    gibbs /= gibbs.sum()
    error = np.sqrt(gibbs * (1 - gibbs) / count)
    assert np.all(np.abs(law - gibbs) < 4 * error)
    assert np.all(np.diff(kept[0][: count // 2]) > 0)  # the first pass, in order


def test_the_largest_reward_is_a_prompts_own():
    """E19's mutant: against the largest of the batch a prompt of low rewards keeps none."""
    arms, rewards = drawn(2, 64)
    rewards[1] -= 100.0
    kept = rejection.accepted(rewards, 8, beta=0.5, rng=np.random.default_rng(1))
    assert REWARD[arms[1][kept[1]]].mean() > REWARD[arms[1]].mean()
    assert abs(REWARD[arms[1][kept[1]]].mean() - REWARD[arms[0][kept[0]]].mean()) < 1.0


def test_draws_are_kept_once_and_those_without_a_reward_never():
    rewards = np.array([[1.0, -np.inf, 3.0, 2.0], [0.0, 0.0, 0.0, -np.inf]])
    kept = rejection.accepted(rewards, 3, beta=0.1, rng=np.random.default_rng(0))
    assert sorted(kept[0]) == [0, 2, 3]
    assert sorted(kept[1]) == [0, 1, 2]
    assert kept[0][0] == 2  # towards beta 0 the best come first


def test_what_cannot_be_kept_is_refused():
    rewards = np.array([[1.0, -np.inf, 3.0]])
    for options, message in (
        ({"count": 3}, "count must be from 1 to the 2 draws"),
        ({"count": 0}, "count must be from 1"),
        ({"beta": 0.0}, "beta"),
    ):
        with pytest.raises(ValueError, match=message):
            rejection.accepted(rewards, **{"count": 1, "beta": 1.0, "rng": RNG, **options})
    with pytest.raises(ValueError, match="must be"):
        rejection.accepted(np.array([[np.nan]]), 1, beta=1.0, rng=RNG)
    with pytest.raises(ValueError, match="must be"):
        rejection.accepted(np.zeros(3), 1, beta=1.0, rng=RNG)

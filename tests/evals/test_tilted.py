"""The optimum of a reference by its own draws: exact where it is known."""

import numpy as np
import pytest

from alignjax.evals import tilted


def test_normal_rewards_have_the_known_curve():
    """r ~ N(m, s^2): E r = m + s^2 / beta and KL = s^2 / (2 beta^2) under the optimum."""
    mean, spread = -0.3, 1.5
    rewards = np.random.default_rng(0).normal(mean, spread, (16, 4000))
    curve = tilted.optimum(rewards, (8.0, 3.0, 1.5))
    assert curve.beta.tolist() == [np.inf, 8.0, 3.0, 1.5]
    ends = curve.beta[1:]
    np.testing.assert_allclose(curve.kl[1:], spread**2 / (2 * ends**2), rtol=0.06)
    np.testing.assert_allclose(curve.reward[1:] - mean, spread**2 / ends, rtol=0.05)
    assert curve.kl[0] == 0
    assert curve.reward[0] == pytest.approx(rewards.mean())


def test_two_outcomes_by_hand(monkeypatch):
    """p = (1/2, 1/2), r = (0, 1), beta = 1/ln 3: weights (1/4, 3/4)."""
    monkeypatch.setattr(tilted, "FEWEST", 0.0)
    curve = tilted.optimum(np.array([[0.0, 1.0]]), (1 / np.log(3),))
    assert curve.reward[1] == pytest.approx(0.75)
    assert curve.kl[1] == pytest.approx(np.log(2) + 0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert curve.effective[1] == pytest.approx(1 / (1 / 16 + 9 / 16))


def test_no_policy_over_the_draws_is_above_it():
    rng = np.random.default_rng(1)
    rewards = rng.normal(size=(4, 200))
    curve = tilted.optimum(rewards)
    for scale in (0.1, 0.3, 1.0):
        noisy = np.exp(scale * (rewards + rng.normal(size=rewards.shape)))
        weights = noisy / noisy.sum(1, keepdims=True)
        kl = float((np.log(200) + (weights * np.log(weights)).sum(1)).mean())
        assert (weights * rewards).sum(1).mean() < curve.reward_at(kl)


def test_it_ends_where_its_draws_no_longer_carry():
    curve = tilted.optimum(np.random.default_rng(0).normal(size=(4, 16)))
    assert curve.effective[-1] >= tilted.FEWEST
    assert np.all(np.diff(curve.kl) >= 0)
    assert np.isnan(curve.reward_at(curve.kl[-1] + 0.1))
    assert len(curve.kl) < len(tilted.BETAS)


@pytest.mark.parametrize("rewards", [np.zeros(3), np.zeros((3, 1)), np.array([[0.0, np.nan]])])
def test_bad_rewards_are_refused(rewards):
    with pytest.raises(ValueError, match="rewards must be finite"):
        tilted.optimum(rewards)

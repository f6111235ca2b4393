"""What each group baseline makes of a prompt that is solved at rate p, exactly.

A prompt's gradient is w(p) times that of its log-odds of success, with
w(p) = E[mean over samples of A (x - p)], x = 1 for a success; the expectation runs over all counts
of successes among G samples.
"""

import itertools
import math

import jax
import numpy as np
import pytest

from alignjax import losses

RATES = (0.02, 0.1, 0.3, 0.5, 0.9)
ESTIMATORS = {
    "rloo": losses.leave_one_out,
    "mean": lambda r: losses.group_relative(r, scale=False),
    "std0": lambda r: losses.group_relative(r, unbiased=False, eps=1e-12),
    "std1": lambda r: losses.group_relative(r, eps=1e-12),
    "max_rl": losses.max_rl,
}
TABLE = {  # at G = 8
    "rloo": (0.0196, 0.0900, 0.2100, 0.2500, 0.0900),
    "mean": (0.0172, 0.0787, 0.1837, 0.2188, 0.0787),
    "std0": (0.0504, 0.2095, 0.4122, 0.4639, 0.2095),
    "std1": (0.0472, 0.1960, 0.3856, 0.4340, 0.1960),
    "max_rl": (0.1292, 0.4695, 0.6424, 0.4961, 0.1000),
}
# w(.1) / w(.5) at G = 4, 8, 16.
RATIOS = {
    "rloo": (0.360, 0.360, 0.360),
    "mean": (0.360, 0.360, 0.360),
    "std0": (0.377, 0.452, 0.530),
    "std1": (0.377, 0.452, 0.530),
    "max_rl": (0.557, 0.946, 1.429),
}


def shares(p, size):
    """Probability of each number of successes among `size` samples."""
    return np.array([math.comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(size + 1)])


def groups(size):
    """[size + 1, size]: a group of each number of successes."""
    return (np.arange(size)[None] < np.arange(size + 1)[:, None]).astype(np.float64)


def weight(estimator, p, size, *, kept=False):
    """w(p); kept: of a group that has both successes and failures."""
    with jax.enable_x64(True):
        rewards = groups(size)
        signal = np.mean(np.asarray(estimator(rewards)) * (rewards - p), axis=1)
    likely = shares(p, size)
    if kept:
        likely = likely * np.asarray(losses.is_informative(rewards))
        likely = likely / likely.sum()
    return float(likely @ signal)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_weights_of_a_prompt(name):
    found = [weight(ESTIMATORS[name], p, 8) for p in RATES]
    np.testing.assert_allclose(found, TABLE[name], atol=5.1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_how_group_size_moves_the_weights(name):
    pairs = [[weight(ESTIMATORS[name], p, size) for p in (0.1, 0.5)] for size in (4, 8, 16)]
    np.testing.assert_allclose([a / b for a, b in pairs], RATIOS[name], atol=5.1e-4)


@pytest.mark.parametrize("p", [0.07, 0.25, 0.81])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_closed_forms(p, size):
    rest = (1 - p) * (1 - (1 - p) ** (size - 1))
    wanted = {"rloo": p * (1 - p), "mean": (size - 1) / size * p * (1 - p), "max_rl": rest}
    for name, value in wanted.items():
        assert weight(ESTIMATORS[name], p, size) == pytest.approx(value, abs=1e-12)


def test_dynamic_sampling_changes_the_objective():
    """Of the groups that are kept, hard prompts weigh more than of all."""
    found = [weight(ESTIMATORS["mean"], p, 8, kept=True) for p in RATES]
    np.testing.assert_allclose(found, (0.1149, 0.1383, 0.1950, 0.2205, 0.1383), atol=5.1e-5)
    a, b = (weight(ESTIMATORS["mean"], p, 16, kept=True) for p in (0.1, 0.5))
    assert a / b == pytest.approx(0.442, abs=5.1e-4)


def test_opo_of_equal_lengths_is_the_group_mean():
    rewards = groups(5)
    lengths = np.full(rewards.shape, 7.0)
    wanted = losses.group_relative(rewards, scale=False)
    np.testing.assert_allclose(losses.opo(rewards, lengths), wanted, atol=1e-6)


def test_opo_by_hand():
    found = losses.opo(np.array([[1.0, 0.0, 0.5]]), np.array([[1.0, 3.0, 4.0]]))
    np.testing.assert_allclose(found, [[0.625, -0.375, 0.125]], atol=1e-6)  # baseline 3/8


def test_the_best_sample_alone_has_an_advantage():
    found = losses.pass_at_k(np.array([[0.2, 0.9, 0.6], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found, [[0, 0.3, 0], [0, 0, 0], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("k", [2, 3])
def test_its_mean_is_the_gradient_of_the_largest_reward(k):
    """E[sum over samples of A grad log p] = d/dp of 1 - (1 - p)^k, for rewards of 0 and 1."""
    p = 0.3
    total = 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=k):
        likely = math.prod(p if x else 1 - p for x in outcome)
        advantages = np.asarray(losses.pass_at_k(np.array([outcome])))[0]
        scores = [1 / p if x else -1 / (1 - p) for x in outcome]
        total += likely * sum(a * s for a, s in zip(advantages, scores, strict=True))
    assert total == pytest.approx(k * (1 - p) ** (k - 1), abs=1e-6)


def test_otb_with_equal_energies_is_the_group_mean_of_those_still_going():
    rewards = np.zeros((1, 2, 3))
    rewards[0, 0, 2], rewards[0, 1, 1] = 1.0, 4.0
    mask = np.array([[[1, 1, 1], [1, 1, 0]]])
    half = np.full(rewards.shape, np.log(0.5))
    found = losses.otb(rewards, half, np.full(rewards.shape, 0.5), mask)
    # Energies so far are the same for both samples at each token.
    np.testing.assert_allclose(found, [[[-1.5, -1.5, 0], [1.5, 1.5, 0]]], atol=1e-6)

"""The exact optimum of ReviewWorld against enumeration, exact samples and identities."""

import dataclasses
import time

import numpy as np
import pytest

from alignjax.worlds import gold, oracle, review
from tests.reference import review as reference

WORLD = review.make_review_world(review.ReviewWorldConfig(seed=3))
PROMPTS = review.sample_documents(WORLD, np.random.default_rng(0), 512)[0][:, :6]
FRONTIER = oracle.exact_optimum(WORLD, PROMPTS)


@pytest.mark.parametrize("last", [19, 21, 30])  # a prompt that ends with NOT, ADV, ADJ
def test_matches_enumeration_of_every_response(last):
    prompt = [1, 5, 7, 10, 18, last]
    short = dataclasses.replace(WORLD, length=10)
    betas = (4.0, 1.0, 0.25)
    frontier = oracle.exact_optimum(short, np.array([prompt]), betas)
    for k, beta in enumerate(betas):
        log_z, reward, kl = reference.optimum(short, prompt, 10, beta)
        np.testing.assert_allclose(frontier.log_z[k], log_z, atol=1e-10)
        np.testing.assert_allclose(frontier.reward[k], reward, atol=1e-10)
        np.testing.assert_allclose(frontier.kl[k], kl, atol=1e-10)


@pytest.mark.parametrize("beta", [4.0, 2.0, 1.0])
def test_matches_exact_samples(beta):
    frontier = oracle.exact_optimum(WORLD, PROMPTS[:1], (beta,))
    prompts = np.repeat(PROMPTS[:1], 20_000, 0)
    tokens, lengths = oracle.sample_optimum(WORLD, prompts, beta, np.random.default_rng(1))
    reward = gold.gold_reward(WORLD, tokens, lengths)
    assert abs(reward.mean() - frontier.reward[0]) < 3 * reward.std() / np.sqrt(len(reward))
    # log pi/ref is r / beta - log Z at each sample, and its mean is the KL.
    log_ratio = reward / beta - frontier.log_z[0]
    assert abs(log_ratio.mean() - frontier.kl[0]) < 3 * log_ratio.std() / np.sqrt(len(reward))
    # Importance weights ref/pi have mean 1 only if the samples and Z are both right.
    weight = np.exp(-log_ratio)
    assert abs(weight.mean() - 1) < 3 * weight.std() / np.sqrt(len(weight))


@pytest.mark.parametrize("beta", [4.0, 2.0])
def test_matches_reweighted_documents_of_the_generator(beta):
    # A document of the generator is a draw from p(y | its prompt): weigh it by exp(r/beta) / Z.
    tokens, lengths = review.sample_documents(WORLD, np.random.default_rng(3), 60_000)
    reward = gold.gold_reward(WORLD, tokens, lengths)
    frontier = oracle.exact_optimum(WORLD, tokens[:, :6], (beta, np.inf))
    ratio = np.exp(reward / beta - frontier.prompt_log_z[1])
    assert frontier.beta.tolist() == [np.inf, beta]
    for estimate, target in ((ratio - 1, 0.0), (ratio * reward - frontier.prompt_reward[1], 0.0)):
        assert abs(estimate.mean() - target) < 3 * estimate.std() / np.sqrt(len(reward))


def test_infinite_beta_is_the_generator():
    tokens, lengths = review.sample_documents(WORLD, np.random.default_rng(4), 60_000)
    reward = gold.gold_reward(WORLD, tokens, lengths)
    frontier = oracle.exact_optimum(WORLD, tokens[:, :6], (np.inf,))
    error = reward - frontier.prompt_reference_reward
    assert abs(error.mean()) < 3 * error.std() / np.sqrt(len(error))
    assert frontier.reference_reward == pytest.approx(frontier.reward[0], abs=1e-12)
    np.testing.assert_allclose(frontier.kl, 0.0, atol=1e-12)
    drawn = oracle.sample_optimum(WORLD, tokens[:, :6], np.inf, np.random.default_rng(5))
    again = gold.gold_reward(WORLD, *drawn)
    se = np.sqrt((again.var() + reward.var()) / len(reward))
    assert abs(again.mean() - reward.mean()) < 3 * se


@pytest.mark.parametrize("beta", [2.0, 0.5])
def test_distance_to_the_optimum_identity(beta):
    # E r - beta KL(pi, ref) = beta (log Z - KL(pi, pi*)) for any pi; log Z is the only number
    # from the dynamic programme, the rest is enumerated.
    prompt = [1, 4, 8, 11, 17, 20]
    short = dataclasses.replace(WORLD, length=9)
    document, ref = zip(*reference.completions(short, prompt, 9), strict=True)
    ref = np.array(ref)
    reward = np.array([reference.gold(short, d) for d in document])
    best = oracle.exact_optimum(short, np.array([prompt]), (beta,))
    log_best = np.log(ref) + reward / beta - best.log_z[0]
    np.testing.assert_allclose(np.exp(log_best).sum(), 1.0, atol=1e-10)
    rng = np.random.default_rng(0)
    for _ in range(3):
        pi = rng.dirichlet(np.full(len(ref), 0.3)) + 1e-12
        pi /= pi.sum()
        left = pi @ reward - beta * pi @ np.log(pi / ref)
        right = beta * (best.log_z[0] - pi @ (np.log(pi) - log_best))
        np.testing.assert_allclose(left, right, atol=1e-10)
        assert left < beta * best.log_z[0]


def test_frontier_rises_and_its_slope_is_beta():
    assert (np.diff(FRONTIER.reward) > 0).all()
    assert (np.diff(FRONTIER.kl) > 0).all()
    assert FRONTIER.reward[0] > FRONTIER.reference_reward
    near = oracle.exact_optimum(WORLD, PROMPTS[:32], (1.001, 0.999))
    slope = np.diff(near.reward) / np.diff(near.kl)  # a flipped sign of r would make it negative
    np.testing.assert_allclose(slope, 1.0, rtol=1e-3)
    np.testing.assert_allclose(
        FRONTIER.log_z, FRONTIER.reward / FRONTIER.beta - FRONTIER.kl, atol=1e-12
    )
    np.testing.assert_allclose(FRONTIER.prompt_kl.mean(1), FRONTIER.kl, atol=1e-12)


def test_interpolation_is_exact_to_a_per_mille():
    betas = np.geomspace(60.0, 0.055, 17)  # off the grid
    check = oracle.exact_optimum(WORLD, PROMPTS, tuple(betas))
    gain = check.reward - check.reference_reward
    np.testing.assert_allclose(FRONTIER.gain_at(check.kl), gain, rtol=1e-3)
    np.testing.assert_allclose(FRONTIER.reward_at(FRONTIER.kl), FRONTIER.reward, atol=1e-9)
    assert FRONTIER.gain_at(0.0) == pytest.approx(0.0, abs=1e-12)
    grid = np.linspace(0, FRONTIER.kl[-1], 500)
    assert (np.diff(FRONTIER.reward_at(grid)) > 0).all()
    variance = 2 * 64.0**2 * FRONTIER.kl[0]  # of r given x, as KL ~ var / (2 beta^2) there
    assert FRONTIER.gain_at(1e-6) == pytest.approx(np.sqrt(2e-6 * variance), rel=0.05)


@pytest.mark.parametrize("kl", [-0.1, 1e3, np.nan])
def test_no_extrapolation(kl):
    with pytest.raises(ValueError, match="kl must lie in"):
        FRONTIER.reward_at(kl)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="betas must be positive"):
        oracle.exact_optimum(WORLD, PROMPTS, (1.0, 0.0))
    with pytest.raises(ValueError, match="prompts must have shape"):
        oracle.exact_optimum(WORLD, PROMPTS[:, :5], (1.0,))
    noisy = PROMPTS.copy()
    noisy[7, 3] = 41
    with pytest.raises(ValueError, match="row 7"):
        oracle.exact_optimum(WORLD, noisy, (1.0,))
    with pytest.raises(ValueError, match="beta must be positive"):
        oracle.sample_optimum(WORLD, PROMPTS, 0.0, np.random.default_rng(0))


def test_thirteen_betas_take_seconds():
    begin = time.process_time()
    oracle.exact_optimum(WORLD, PROMPTS, tuple(np.geomspace(8.0, 0.1, 13)))
    assert time.process_time() - begin < 3.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_frontiers_are_alike_across_seeds(seed):
    world = review.make_review_world(review.ReviewWorldConfig(seed=seed))
    prompts = review.sample_documents(world, np.random.default_rng(1), 2048)[0][:, :6]
    frontier = oracle.exact_optimum(world, prompts, (4.0, 1.0, 0.25))
    np.testing.assert_allclose(frontier.kl, [0.14, 2.6, 14.7], rtol=0.12)
    np.testing.assert_allclose(frontier.reward, [1.05, 4.9, 11.1], rtol=0.12)

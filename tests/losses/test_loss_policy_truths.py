"""Theorems about policy losses, advantages and divergences: small exact problems, in float64.

E numbers are those of the project's list of exact truths.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from tests.losses.tabular import REF, REWARD, A, C, distance, gibbs

BETA = 0.5


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def descend(loss, steps=3000, rate=0.5):
    """Where gradient descent on a surrogate ends: for losses whose value is not the objective."""
    grad = jax.grad(lambda z: loss(jax.nn.log_softmax(z)))
    z, _ = jax.lax.scan(lambda z, _: (z - rate * grad(z), None), jnp.zeros((C, A)), length=steps)
    return jax.nn.log_softmax(z)


def on_policy(loss):
    """Expected gradient over answers drawn from the policy: each weighs its own probability."""

    def total(policy):
        weight = jax.lax.stop_gradient(jnp.exp(policy))
        return jnp.sum(weight * loss(policy))

    return total


def test_policy_gradients_reach_the_gibbs_policy():  # E1
    best = gibbs(REWARD, BETA)

    def reward_penalty(policy):
        adv = REWARD - BETA * losses.kl_penalty(policy, REF)
        return losses.reinforce(policy, adv)

    def clipped(policy):
        old = jax.lax.stop_gradient(policy)
        return losses.ppo_clip(policy, old, REWARD) + BETA * losses.kl_loss(
            policy, REF, estimator="k2"
        )

    def weighted(policy):
        old = jax.lax.stop_gradient(policy)
        penalty = losses.kl_loss_weighted(policy, old, REF)
        return losses.cispo(policy, old, REWARD) + BETA * penalty

    for loss in (reward_penalty, clipped, weighted):
        assert distance(descend(on_policy(loss)), best) < 1e-6

    def k3(policy):
        return losses.reinforce(policy, REWARD) + BETA * losses.kl_loss(policy, REF)

    assert distance(descend(on_policy(k3)), best) > 0.02  # GRPO's penalty has another optimum


def test_kl_identity(rng):  # E22
    policy, best = jax.nn.log_softmax(rng.normal(size=(C, A))), gibbs(REWARD, BETA)
    log_z = jax.nn.logsumexp(REF + REWARD / BETA, axis=-1)

    def kl(p, q):
        return losses.reverse_kl(p[None], q[None])[0]

    left = jnp.sum(jnp.exp(policy) * REWARD, -1) - BETA * kl(policy, jnp.asarray(REF))
    np.testing.assert_allclose(left, BETA * (log_z - kl(policy, best)), atol=1e-12)


def test_kl_estimators(rng):  # E9, E10
    policy = jax.nn.log_softmax(REF + 0.3 * rng.normal(size=(C, A)))
    old = jax.nn.log_softmax(REF + 0.3 * rng.normal(size=(C, A)))
    ref = jnp.asarray(REF)

    def kl(p, q):
        return jnp.sum(jnp.exp(p) * (p - q))

    def expected(estimator, p=policy):
        return jnp.sum(jnp.exp(policy) * estimator(p, ref))

    exact = kl(policy, ref)
    assert float(expected(losses.k1)) == pytest.approx(float(exact), abs=1e-12)
    assert float(expected(losses.k3)) == pytest.approx(float(exact), abs=1e-12)
    assert abs(float(expected(losses.k2) - exact)) > 1e-5
    spread = [
        float(expected(lambda p, r, k=k: (k(p, r) - exact / C) ** 2))
        for k in (losses.k1, losses.k3)
    ]
    assert spread[1] < 0.3 * spread[0]

    def along(fn):
        return jax.grad(lambda z: fn(jax.nn.log_softmax(z)))(policy)

    reverse, forward = along(lambda p: kl(p, ref)), along(lambda p: kl(ref, p))
    for estimator, want in [(losses.k1, 0 * reverse), (losses.k2, reverse), (losses.k3, forward)]:
        np.testing.assert_allclose(along(lambda p, k=estimator: expected(k, p)), want, atol=1e-12)
    for estimator in ("k1", "k3"):  # off policy too
        got = along(
            lambda p, k=estimator: jnp.sum(
                jnp.exp(old) * losses.kl_loss_weighted(p, old, ref, estimator=k)
            )
        )
        np.testing.assert_allclose(got, reverse, atol=1e-12)


def test_gae_identities(rng):  # E15
    rewards, values = rng.normal(size=(2, 3, 5))
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]])
    adv, returns = losses.gae(rewards, values, mask, discount=0.9, decay=1.0)
    total = losses.discounted_returns(rewards, mask, discount=0.9)
    np.testing.assert_allclose(adv, np.where(mask, total - values, 0), atol=1e-12)
    np.testing.assert_allclose(returns, total, atol=1e-12)
    adv, _ = losses.gae(rewards, values, mask, discount=0.9, decay=0.0)
    assert float(adv[0, 2]) == pytest.approx(rewards[0, 2] - values[0, 2])  # terminal value 0
    assert float(adv[0, 1]) == pytest.approx(rewards[0, 1] + 0.9 * values[0, 2] - values[0, 1])
    assert float(adv[0, 3]) == float(adv[2, 0]) == 0.0
    by_hand, _ = losses.gae(
        np.array([[0.0, 1.0]]), np.array([[0.5, 0.25]]), np.ones((1, 2)), discount=0.5, decay=0.5
    )
    # delta_1 = 1 - .25 = .75; delta_0 = .5 * .25 - .5 = -.375; A_0 = -.375 + .25 * .75
    np.testing.assert_allclose(by_hand, [[-0.1875, 0.75]])


def test_group_baselines(rng):  # E14
    rewards = rng.normal(size=(7, 8))
    centred = losses.group_relative(rewards, scale=False)
    np.testing.assert_allclose(centred, 7 / 8 * losses.leave_one_out(rewards), atol=1e-12)
    groups = np.array(list(itertools.product([0.0, 1.0], repeat=8)))

    def expectation(advantages, p):
        chance = np.prod(np.where(groups == 1, p, 1 - p), -1)
        return float(np.sum(chance * np.mean(np.asarray(advantages) * groups, -1)))

    plain = losses.group_relative(groups, scale=False)
    scaled = losses.group_relative(groups, eps=1e-8)
    for p in (0.1, 0.5):
        assert expectation(plain, p) == pytest.approx(7 / 8 * p * (1 - p), abs=1e-12)
        assert expectation(losses.leave_one_out(groups), p) == pytest.approx(p * (1 - p), abs=1e-12)
    assert expectation(plain, 0.1) / expectation(plain, 0.5) == pytest.approx(0.36, abs=1e-9)
    assert expectation(scaled, 0.1) / expectation(scaled, 0.5) == pytest.approx(0.451, abs=1e-3)
    chance = np.prod(np.where(groups == 1, 0.1, 0.9), -1)
    dead = chance @ ~np.asarray(losses.is_informative(groups))
    assert dead == pytest.approx(0.1**8 + 0.9**8, abs=1e-12)


def test_best_of_n():  # E18
    for n, want in [(1, 0.0), (2, 0.193), (4, 0.636), (16, 1.835)]:
        assert losses.best_of_n_kl(n) == pytest.approx(want, abs=1e-3)
        for atoms in (200_000, 6):
            steps = np.arange(atoms + 1) / atoms
            best = np.diff(steps**n)
            kl = np.sum(best * np.log(best * atoms))
            if atoms > 6:
                assert losses.best_of_n_kl(n) == pytest.approx(kl, abs=1e-3)
            else:
                assert kl <= losses.best_of_n_kl(n) + 1e-12
    with pytest.raises(ValueError, match="n must be finite and >= 1; got 0"):
        losses.best_of_n_kl(0)


def test_jsd(rng):  # E21
    p, q = jax.nn.log_softmax(rng.normal(size=(2, 1, 4, 5)))

    def jsd(s, t, beta):
        return losses.generalised_jsd(s, t, beta=beta)

    np.testing.assert_allclose(jsd(p, q, 0.5), jsd(q, p, 0.5), atol=1e-12)
    assert np.all(np.asarray(jsd(p, q, 0.5)) < math.log(2))
    teacher, student = q, p
    np.testing.assert_allclose(
        jsd(p, q, 1e-5) / 1e-5, losses.forward_kl(student, teacher), atol=1e-4
    )
    np.testing.assert_allclose(
        jsd(p, q, 1 - 1e-5) / 1e-5, losses.reverse_kl(student, teacher), atol=1e-4
    )
    np.testing.assert_allclose(jsd(p, q, 0.0), jnp.sum(jnp.exp(q) * (q - p), -1), atol=1e-12)


def test_nash_and_exploration_signs():
    wins = jnp.array([0.9, 0.5, 0.1])
    policy = jnp.log(jnp.full(3, 1 / 3))[:, None]

    def expected(p):
        return jnp.mean(losses.nash_md(p, policy, wins, beta=0.1))

    grad = jax.grad(expected)(policy)[:, 0]
    np.testing.assert_allclose(grad, [-0.4 / 3, 0, 0.4 / 3], atol=1e-12)
    drift = jax.grad(lambda p: jnp.mean(losses.nash_md(p, policy, 0 * wins + 0.5, beta=0.1)))(
        policy + 1
    )
    assert np.all(np.asarray(drift) > 0)  # above the reference: pulled back down
    a = jnp.zeros(1)
    grad = jax.grad(lambda s: losses.xpo(a, a, s, beta=0.1, optimism=0.01).sum())(a)
    assert float(grad[0]) == pytest.approx(0.01)


def test_nash_md_ends_at_the_regularised_equilibrium():
    """Rock, paper, scissors: log(pi / ref) = P(y beats the mixture) / beta + constant."""
    beats = jnp.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    ref = jnp.log(jnp.array([0.6, 0.3, 0.1]))
    beta = 0.4

    def versus(policy):
        return beats @ jnp.exp(losses.geometric_mixture(policy, ref, mix=0.125))

    def total(z):
        policy = jax.nn.log_softmax(z)
        wins = jax.lax.stop_gradient(versus(policy))
        each = losses.nash_md(policy[:, None], ref[:, None], wins, beta=beta)
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(policy)) * each)

    z, _ = jax.lax.scan(lambda z, _: (z - 0.5 * jax.grad(total)(z), None), ref, length=3000)
    policy = jax.nn.log_softmax(z)
    constant = versus(policy) - beta * (policy - ref)
    np.testing.assert_allclose(constant, constant.mean(), atol=1e-8)
    assert distance(policy[None], ref[None]) > 0.05


def test_importance_sampling_is_unbiased(rng):
    """Ratio-weighted losses on samples of another policy have the on-policy gradient."""
    old = jnp.asarray(REF)
    policy = jax.nn.log_softmax(REF + 0.2 * rng.normal(size=(C, A)))
    exact = jax.grad(lambda z: -jnp.sum(jnp.exp(jax.nn.log_softmax(z)) * REWARD))(policy)

    def surrogate(loss):
        return jax.grad(lambda z: jnp.sum(jnp.exp(old) * loss(jax.nn.log_softmax(z))))(policy)

    wide = {"clip_low": 1.0, "clip_high": 1e6}
    for loss in (
        lambda p: losses.ppo_clip(p, old, REWARD, **wide),
        lambda p: losses.cispo(p, old, REWARD, maximum_ratio=1e6),
        lambda p: (
            losses.sampler_weight(jax.lax.stop_gradient(p), old, level="token", maximum=1e6)
            * losses.reinforce(p, REWARD)
        ),
    ):
        np.testing.assert_allclose(surrogate(loss), exact, atol=1e-10)

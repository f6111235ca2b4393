"""Theorems about losses on samples: where fits and iterations end, in float64.

E and N numbers are those of the project's list of exact truths.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from tests.losses.tabular import PAIRS, REF, REWARD, WIN, A, C, distance, gibbs


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def fit_dpo(counts, beta, steps=20):
    """[C, A] log-policies: Newton's minimum of DPO on counts [C, ordered pairs] of comparisons."""

    def total(scores, counts):
        chosen, rejected = scores[PAIRS[:, 0]] / beta, scores[PAIRS[:, 1]] / beta
        return jnp.sum(counts * losses.dpo(chosen, rejected, beta=beta))

    def newton(_, scores, counts):
        slope, curve = jax.grad(total)(scores, counts), jax.hessian(total)(scores, counts)
        return scores - jnp.linalg.pinv(curve, hermitian=True) @ slope

    def one(counts):
        return jax.lax.fori_loop(0, steps, lambda i, s: newton(i, s, counts), jnp.zeros(A))

    return jax.nn.log_softmax(REF + jax.vmap(one)(counts) / beta)


def test_dpo_on_samples_approaches_the_optimum_as_their_root():  # E3
    """n pairs a context: the distance to pi* falls like n^-1/2."""
    beta, best = 0.5, gibbs(REWARD, 0.5)
    rng = np.random.default_rng(0)
    chance = WIN / WIN.sum(-1, keepdims=True)  # a random pair, ordered by a Bradley-Terry label
    fit = jax.jit(lambda counts: fit_dpo(counts, beta))
    sizes = np.array([500, 2000, 8000, 32000])
    errors = [
        np.mean([distance(fit(rng.multinomial(n, chance).astype(float)), best) for _ in range(12)])
        for n in sizes
    ]
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.35
    assert errors[-1] < 0.04
    backwards = fit(rng.multinomial(32000, chance[:, ::-1]).astype(float))
    assert distance(backwards, best) > 0.2


def sampled_rloo(steps, samples, group=4, beta=0.5, rate=0.5):
    """(last, averaged) log-policies of RLOO on drawn answers, with the KL inside the reward."""
    ref, reward = jnp.asarray(REF), jnp.asarray(REWARD)

    def step(carry, key):
        z, average, count = carry
        policy = jax.nn.log_softmax(z)
        drawn = jax.random.categorical(key, policy[:, None, :], shape=(C, samples))
        context = jnp.arange(C)[:, None]

        def loss(z):
            new = jax.nn.log_softmax(z)[context, drawn].reshape(-1, 1)
            old_ref = ref[context, drawn].reshape(-1, 1)
            penalty = beta * losses.kl_penalty(new, old_ref)[:, 0]
            earned = reward[context, drawn].reshape(-1) - penalty
            baselined = losses.leave_one_out(earned.reshape(-1, group)).reshape(-1)
            return C * jnp.mean(losses.rloo(new, baselined))

        z = z - rate * jax.grad(loss)(z)
        late = count >= steps // 4
        average = average + jnp.where(late, jax.nn.log_softmax(z), 0.0)
        return (z, average, count + 1), None

    keys = jax.random.split(jax.random.key(0), steps)
    (z, average, _), _ = jax.jit(lambda k: jax.lax.scan(step, (ref, 0 * ref, 0), k))(keys)
    return jax.nn.log_softmax(z), jax.nn.log_softmax(average / (steps - steps // 4))


def test_sampled_rloo_ends_at_the_gibbs_policy():  # E11
    """There reward - beta log(pi / ref) is one number for all answers: no advantage is left."""
    last, averaged = sampled_rloo(steps=3000, samples=256)
    best = gibbs(REWARD, 0.5)
    assert distance(jnp.asarray(REF), best) > 0.4
    assert distance(last, best) < 1e-6
    assert distance(averaged, best) < 1e-3


def test_rejection_sampling_draws_from_the_optimum_and_dpo_keeps_it():  # E19
    """RSO: accepted answers follow pi*; preferences between them have pi* as DPO's minimum."""
    beta, draws = 0.7, 200_000
    rng = np.random.default_rng(0)
    best = np.exp(np.asarray(gibbs(REWARD, beta)))
    for c in range(C):
        drawn = rng.choice(A, draws, p=np.exp(REF[c]) / np.exp(REF[c]).sum())
        chance = np.exp((REWARD[c] - REWARD[c].max()) / beta)
        accepted = drawn[rng.random(draws) < chance[drawn]]
        law = np.bincount(accepted, minlength=A) / len(accepted)
        error = np.sqrt(best[c] * (1 - best[c]) / len(accepted))
        assert np.all(np.abs(law - best[c]) < 4 * error)
        share = float(np.exp(REF[c]) @ chance)
        assert abs(len(accepted) / draws - share) < 4 * np.sqrt(share * (1 - share) / draws)
    counts = WIN * best[:, PAIRS[:, 0]] * best[:, PAIRS[:, 1]]
    assert distance(fit_dpo(jnp.asarray(counts), beta), gibbs(REWARD, beta)) < 1e-6


BEATS = jnp.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])  # a cycle


def mirror_descent(reference, tau, rate, steps):
    """Nash-MD on all answers at once: a step of `nash_md`'s slope on the log-policy."""

    def step(policy, _):
        rival = losses.geometric_mixture(policy, reference, mix=rate * tau)
        wins = BEATS @ jnp.exp(rival)

        def loss(x):
            return losses.nash_md(x[:, None], reference[:, None], wins, beta=tau).sum()

        return jax.nn.log_softmax(policy - rate * jax.grad(loss)(policy)), None

    start = jnp.log(jnp.array([0.6, 0.2, 0.2]))
    return jax.jit(lambda x: jax.lax.scan(step, x, length=steps)[0])(start)


def test_nash_mirror_descent_ends_at_the_regularised_equilibrium():  # E20
    """The last iterate, where ascent against oneself without a mixture runs in a spiral."""
    tau, rate = 0.05, 0.1
    reference = jnp.log(jnp.array([0.5, 0.3, 0.2]))

    def gap(z):  # of log(pi / ref) = P(y beats pi) / tau + constant
        policy = jax.nn.log_softmax(z)
        x = BEATS @ jnp.exp(policy) / tau - (policy - reference)
        return x - x.mean()

    def newton(z, _):
        return z - jnp.linalg.pinv(jax.jacobian(gap)(z)) @ gap(z), None

    uniform = jnp.log(jnp.full(3, 1 / 3))
    nash = jax.nn.log_softmax(jax.lax.scan(newton, uniform, length=30)[0])
    np.testing.assert_allclose(gap(nash), 0, atol=1e-9)
    assert distance(nash[None], uniform[None]) > 0.01  # the regulariser is seen
    last = mirror_descent(reference, tau, rate, 8000)
    assert distance(last[None], nash[None]) < 5e-3
    plain = mirror_descent(reference, 0.0, rate, 8000)
    assert distance(plain[None], uniform[None]) > 0.3


def test_a_constant_on_all_rewards_changes_nothing(rng):  # N5
    scores = rng.normal(size=(2, 5))
    for loss in (
        losses.bradley_terry,
        lambda w, s: losses.bradley_terry(w, s, label_smoothing=0.1),
    ):
        np.testing.assert_allclose(loss(*(scores + 100)), loss(*scores), atol=1e-10)
    rewards = rng.normal(size=(3, 4))
    for advantages in (losses.leave_one_out, losses.group_relative, losses.gpg):
        np.testing.assert_allclose(advantages(rewards + 100), advantages(rewards), atol=1e-10)


def test_the_reference_point_of_kto_moves_no_policy():
    """Above 0 it is the batch's mean, and still a constant."""
    drawn = jnp.array([1.0, 2.0])
    assert float(losses.kto_reference_point(drawn)) == 1.5
    np.testing.assert_array_equal(jax.grad(lambda x: losses.kto_reference_point(x))(drawn), 0.0)


def test_the_weight_of_wpo_moves_no_policy():
    logprobs, sum_p2 = jnp.log(jnp.array([[0.5, 0.25]])), jnp.array([[0.5, 0.5]])
    np.testing.assert_allclose(losses.wpo_weight(logprobs, sum_p2), 0.5**0.5)
    slopes = jax.grad(lambda *x: losses.wpo_weight(*x).sum(), (0, 1))(logprobs, sum_p2)
    np.testing.assert_array_equal(slopes, 0.0)

"""Theorems about preference and reward losses: small exact problems, in float64.

E numbers are those of the project's list of exact truths.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from alignjax import losses
from tests.losses.tabular import PAIRS, REF, REWARD, WIN, A, C, distance, gibbs


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def minimise(loss):
    """The log-policy that minimises `loss` of a log-policy, by a quasi-Newton method."""
    fn = jax.jit(jax.value_and_grad(lambda z: loss(jax.nn.log_softmax(z.reshape(C, A)))))
    result = scipy.optimize.minimize(
        lambda z: [np.asarray(x) for x in fn(z)],
        np.zeros(C * A),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-10, "maxiter": 2000},
    )
    return jax.nn.log_softmax(result.x.reshape(C, A))


def ratios(policy):
    """Log-ratios [C * pairs] of first and second answers of all ordered pairs."""
    gap = policy - REF
    return gap[:, PAIRS[:, 0]].reshape(-1), gap[:, PAIRS[:, 1]].reshape(-1)


def population(loss, weights=WIN, **kwargs):
    return lambda policy: jnp.sum(weights.reshape(-1) * loss(*ratios(policy), **kwargs)) / C


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_dpo_reaches_the_gibbs_policy(beta):  # E2
    assert distance(minimise(population(losses.dpo, beta=beta)), gibbs(REWARD, beta)) < 1e-6


def test_hinge_bco_and_divergences_keep_the_order():
    """Not Gibbs, but the first step must raise the answers of higher reward."""
    for loss in (losses.hinge, losses.apo_zero, losses.exo_pair, losses.nca_pair):
        start = jnp.asarray(REF)
        grad = jax.grad(population(loss, beta=0.1))(start)
        assert (
            np.corrcoef(-np.ravel(grad), np.ravel(REWARD - REWARD.mean(-1, keepdims=True)))[0, 1]
            > 0.8
        )
    for f in (losses.js_divergence, losses.forward_kl_divergence):
        best = minimise(
            lambda p, f=f: jnp.sum(WIN.reshape(-1) * losses.dpo(*map(f, ratios(p)), beta=1.0))
        )
        x = f(best - REF)
        near = (x - x.mean(-1, keepdims=True)) - (REWARD - REWARD.mean(-1, keepdims=True))
        assert np.abs(near).max() < 1e-5  # f'(pi / ref) = r + constant: f-DPO's theorem


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_ipo_reaches_its_optimum(tau):  # E4
    order = np.zeros((C, A, A))
    order[:, PAIRS[:, 0], PAIRS[:, 1]] = WIN
    mean_win = (order.sum(-1) + 0.5) / A  # self-pairs at 1/2
    assert distance(minimise(population(losses.ipo, beta=tau)), gibbs(mean_win, tau)) < 1e-6


def test_deterministic_preferences():  # E5
    pairs = np.array([[0, 1], [0, 2], [1, 2]])

    def train(loss, beta, steps):
        def total(z):
            return loss(z[pairs[:, 0]], z[pairs[:, 1]], beta=beta).sum()

        z, _ = jax.lax.scan(
            lambda z, _: (z - 0.05 * jax.grad(total)(z), None), jnp.zeros(3), length=steps
        )
        return float(z[0] - z[2])

    assert train(losses.ipo, 0.1, 2000) == pytest.approx(20 / 3, abs=1e-6)
    short, long = (train(losses.dpo, 0.1, n) for n in (2000, 8000))
    assert long > 1.5 * short > 15  # no finite optimum
    smooth = train(lambda a, b, beta: losses.dpo(a, b, beta=beta, label_smoothing=0.1), 1.0, 8000)
    assert smooth < 2 * math.log(9)


def test_robust_dpo_is_unbiased(rng):  # E6
    e, beta = 0.3, 0.5
    flipped = (1 - e) * WIN + e * (1 - WIN)
    clean = population(losses.dpo, beta=beta)
    noisy = population(losses.robust_dpo, flipped, beta=beta, flip_rate=e)
    policy = jax.nn.log_softmax(rng.normal(size=(C, A)))
    assert float(noisy(policy)) == pytest.approx(float(clean(policy)), abs=1e-10)
    best = gibbs(REWARD, beta)
    assert distance(minimise(noisy), best) < 1e-6
    for biased in (
        population(losses.dpo, flipped, beta=beta),
        population(losses.dpo, flipped, beta=beta, label_smoothing=e),
    ):
        assert distance(minimise(biased), best) > 0.1


def test_length_regularisation_solves_for_the_penalised_reward(rng):
    lengths = rng.integers(1, 20, size=(C, A)).astype(float)
    long, short = (lengths[:, PAIRS[:, i]].reshape(-1) for i in (0, 1))

    def loss(a, b):
        return losses.r_dpo(a, b, long, short, beta=1.0, alpha=0.1)

    assert distance(minimise(population(loss)), gibbs(REWARD - 0.1 * lengths, 1.0)) < 1e-6


def test_bradley_terry_at_the_fisher_bound():  # E7
    truth = np.array([0.9, 0.4, 0.1, -0.2, -0.5, -0.7])
    win = 1 / (1 + np.exp(-(truth[PAIRS[:, 0]] - truth[PAIRS[:, 1]])))
    half = PAIRS[:, 0] < PAIRS[:, 1]
    rng = np.random.default_rng(0)

    def total(scores, counts):
        first, second = scores[PAIRS[:, 0]], scores[PAIRS[:, 1]]
        return jnp.sum(counts * losses.bradley_terry(first, second))

    def newton(scores, counts):
        step = jnp.linalg.pinv(jax.hessian(total)(scores, counts)) @ jax.grad(total)(scores, counts)
        return scores - step

    fit = jax.jit(
        jax.vmap(lambda c: jax.lax.fori_loop(0, 8, lambda _, s: newton(s, c), jnp.zeros(6)))
    )
    errors = {}
    for number in (300, 4800):  # comparisons per pair of items
        first = rng.binomial(number, win[half], size=(200, half.sum()))
        counts = np.zeros((200, len(PAIRS)))
        counts[:, half] = first
        back = [int(np.flatnonzero((p[::-1] == PAIRS).all(1))[0]) for p in PAIRS[half]]
        counts[:, back] = number - first
        errors[number] = np.sqrt(np.mean((np.asarray(fit(counts)) - truth) ** 2))
        info = jax.hessian(total)(truth, number * win)
        bound = math.sqrt(np.trace(np.linalg.pinv(info)) / 6)
        assert errors[number] == pytest.approx(bound, rel=0.15)
    slope = math.log(errors[4800] / errors[300]) / math.log(16)
    assert -0.55 < slope < -0.45
    assert float(total(truth, win)) < float(total(0 * truth, win)) < float(total(-truth, win))


def test_plackett_luce(rng):  # E8
    plackett_luce = jax.jit(losses.plackett_luce)
    s = rng.normal(size=(5, 2))
    pair = losses.bradley_terry(s[:, 1], s[:, 0])
    np.testing.assert_allclose(plackett_luce(s, np.array([[1.0, 0]] * 5)), pair, atol=1e-12)
    scores, ranks = rng.normal(size=(4, 5)), rng.permuted(np.tile(np.arange(5.0), (4, 1)), axis=1)
    grad = jax.jit(jax.grad(lambda x: plackett_luce(x, ranks).sum()))(scores)
    np.testing.assert_allclose(jnp.sum(grad, -1), 0, atol=1e-12)
    every = np.array(list(itertools.permutations(range(4))), float)
    same = np.tile(rng.normal(size=4), (len(every), 1))
    assert float(jnp.exp(-plackett_luce(same, every)).sum()) == pytest.approx(1, abs=1e-12)
    moved = plackett_luce(scores + 100, ranks)  # N5
    np.testing.assert_allclose(moved, plackett_luce(scores, ranks), atol=1e-10)


def test_dpo_gradient_and_reflection(rng):  # E16
    beta, (a, b) = 0.3, rng.normal(size=(2, 50)) * 5
    grad = jax.grad(lambda a, b: losses.dpo(a, b, beta=beta).sum(), argnums=(0, 1))(a, b)
    weight = beta / (1 + np.exp(beta * (a - b)))
    np.testing.assert_allclose(grad, (-weight, weight), atol=1e-12)
    gap = losses.dpo(a, b, beta=beta) - losses.dpo(b, a, beta=beta)
    np.testing.assert_allclose(gap, -beta * (a - b), atol=1e-12)
    plain = losses.robust_dpo(a, b, beta=beta, flip_rate=0.0)
    np.testing.assert_allclose(plain, losses.dpo(a, b, beta=beta), atol=1e-12)


def test_kto_signs():
    """With the reference point held, the majority of labels decides the direction, nothing else."""
    for share in (0.6, 0.4):

        def total(u, share=share):
            both = losses.kto(jnp.full(2, u), jnp.array([1, 0]), 0.2, beta=0.5)
            return share * both[0] + (1 - share) * both[1]

        assert float(jax.grad(total)(0.0)) * (0.5 - share) > 0

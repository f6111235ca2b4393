"""Theorems, on problems small enough to be exact: three contexts of six answers, in float64.

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

C, A = 3, 6
RNG = np.random.default_rng(7)
REWARD = RNG.normal(size=(C, A))
REF = np.log(RNG.dirichlet(np.full(A, 2.0), size=C))
PAIRS = np.array(list(itertools.permutations(range(A), 2)))
WIN = 1 / (1 + np.exp(-(REWARD[:, PAIRS[:, 0]] - REWARD[:, PAIRS[:, 1]])))  # [C, pairs]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def gibbs(reward, beta):
    return jax.nn.log_softmax(REF + reward / beta)


def distance(left, right):
    """Largest total variation over contexts of two log-policies."""
    return float(jnp.max(0.5 * jnp.sum(jnp.abs(jnp.exp(left) - jnp.exp(right)), -1)))


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


def descend(loss, steps=3000, rate=0.5):
    """Where gradient descent on a surrogate ends: for losses whose value is not the objective."""
    grad = jax.grad(lambda z: loss(jax.nn.log_softmax(z)))
    z, _ = jax.lax.scan(lambda z, _: (z - rate * grad(z), None), jnp.zeros((C, A)), length=steps)
    return jax.nn.log_softmax(z)


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


def test_robust_dpo_is_unbiased():  # E6
    e, beta = 0.3, 0.5
    flipped = (1 - e) * WIN + e * (1 - WIN)
    clean = population(losses.dpo, beta=beta)
    noisy = population(losses.robust_dpo, flipped, beta=beta, flip_rate=e)
    policy = jax.nn.log_softmax(RNG.normal(size=(C, A)))
    assert float(noisy(policy)) == pytest.approx(float(clean(policy)), abs=1e-10)
    best = gibbs(REWARD, beta)
    assert distance(minimise(noisy), best) < 1e-6
    for biased in (
        population(losses.dpo, flipped, beta=beta),
        population(losses.dpo, flipped, beta=beta, label_smoothing=e),
    ):
        assert distance(minimise(biased), best) > 0.1


def test_length_regularisation_solves_for_the_penalised_reward():
    lengths = RNG.integers(1, 20, size=(C, A)).astype(float)
    long, short = (lengths[:, PAIRS[:, i]].reshape(-1) for i in (0, 1))

    def loss(a, b):
        return losses.r_dpo(a, b, long, short, beta=1.0, alpha=0.1)

    assert distance(minimise(population(loss)), gibbs(REWARD - 0.1 * lengths, 1.0)) < 1e-6


BETA = 0.5


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


def test_kl_identity():  # E22
    policy, best = jax.nn.log_softmax(RNG.normal(size=(C, A))), gibbs(REWARD, BETA)
    log_z = jax.nn.logsumexp(REF + REWARD / BETA, axis=-1)

    def kl(p, q):
        return losses.reverse_kl(p[None], q[None])[0]

    left = jnp.sum(jnp.exp(policy) * REWARD, -1) - BETA * kl(policy, jnp.asarray(REF))
    np.testing.assert_allclose(left, BETA * (log_z - kl(policy, best)), atol=1e-12)


def test_kl_estimators():  # E9, E10
    policy = jax.nn.log_softmax(REF + 0.3 * RNG.normal(size=(C, A)))
    old = jax.nn.log_softmax(REF + 0.3 * RNG.normal(size=(C, A)))
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


def test_plackett_luce():  # E8
    plackett_luce = jax.jit(losses.plackett_luce)
    s = RNG.normal(size=(5, 2))
    pair = losses.bradley_terry(s[:, 1], s[:, 0])
    np.testing.assert_allclose(plackett_luce(s, np.array([[1.0, 0]] * 5)), pair, atol=1e-12)
    scores, ranks = RNG.normal(size=(4, 5)), RNG.permuted(np.tile(np.arange(5.0), (4, 1)), axis=1)
    grad = jax.jit(jax.grad(lambda x: plackett_luce(x, ranks).sum()))(scores)
    np.testing.assert_allclose(jnp.sum(grad, -1), 0, atol=1e-12)
    every = np.array(list(itertools.permutations(range(4))), float)
    same = np.tile(RNG.normal(size=4), (len(every), 1))
    assert float(jnp.exp(-plackett_luce(same, every)).sum()) == pytest.approx(1, abs=1e-12)
    moved = plackett_luce(scores + 100, ranks)  # N5
    np.testing.assert_allclose(moved, plackett_luce(scores, ranks), atol=1e-10)


def test_gae_identities():  # E15
    rewards, values = RNG.normal(size=(2, 3, 5))
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


def test_group_baselines():  # E14
    rewards = RNG.normal(size=(7, 8))
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


def test_dpo_gradient_and_reflection():  # E16
    beta, (a, b) = 0.3, RNG.normal(size=(2, 50)) * 5
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


def test_jsd():  # E21
    p, q = jax.nn.log_softmax(RNG.normal(size=(2, 1, 4, 5)))

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


def test_importance_sampling_is_unbiased():
    """Ratio-weighted losses on samples of another policy have the on-policy gradient."""
    old = jnp.asarray(REF)
    policy = jax.nn.log_softmax(REF + 0.2 * RNG.normal(size=(C, A)))
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

"""Numbers worked out with pencil and paper, and gradients of losses that stop some of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from alignjax import losses

LOG2 = math.log(2)
LOG3 = math.log(3)


def one(*numbers):
    return [jnp.array([float(n)]) for n in numbers]


def near(x, want, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(x), want, rtol=tolerance, atol=tolerance)


def test_policy_equal_to_reference():  # E17
    zero = one(0, 0)
    near(losses.dpo(*zero, beta=0.3), LOG2)
    near(losses.dpo(*zero, beta=0.3, label_smoothing=0.2), LOG2)
    near(losses.robust_dpo(*zero, beta=0.3, flip_rate=0.2), LOG2)
    near(losses.ipo(*zero, beta=0.5), 1.0)
    near(losses.ipo(*zero, beta=0.1), 25.0)
    near(losses.hinge(*zero, beta=0.3), 1.0)
    near(losses.nca_pair(*zero, beta=0.3), 2 * LOG2)
    near(losses.bco_pair(*zero, beta=0.3), 2 * LOG2)
    near(losses.sppo_hard(*zero, beta=0.5), 2.0)
    near(losses.apo_zero(*zero, beta=0.3), 1.0)
    near(losses.apo_down(*zero, beta=0.3), 1.0)
    near(losses.discopop(*zero, beta=0.3), 0.5 * LOG2 + 0.5)
    good = jnp.array([1.0, 0.0])
    near(losses.kto(jnp.zeros(2), good, 0.0, beta=0.3), 0.5)
    near(losses.exo_pair(*zero, beta=0.3, label_smoothing=0.25), 0.5 * math.log(4 / 3))


def test_pairs_by_hand():
    # sigmoid(log 3) = 3/4, so l(log 3) = log 4 - log 3 and l(-log 3) = log 4.
    win, lose = 2 * LOG2 - LOG3, 2 * LOG2
    a, b = one(1.5 * LOG3, -0.5 * LOG3)  # h = 2 log 3
    near(losses.dpo(a, b, beta=0.5), win)
    near(losses.dpo(b, a, beta=0.5), lose)
    near(losses.dpo(a, b, beta=0.5, label_smoothing=0.25), 0.75 * win + 0.25 * lose)
    near(losses.robust_dpo(a, b, beta=0.5, flip_rate=0.25), (0.75 * win - 0.25 * lose) / 0.5)
    near(losses.ipo(*one(3, 1), beta=0.25), 0.0)
    near(losses.ipo(*one(1, 3), beta=0.25), 16.0)
    near(losses.hinge(*one(3, 1), beta=0.25), 0.5)
    near(losses.hinge(*one(1, 3), beta=0.25), 1.5)
    near(losses.sppo_hard(*one(1, -1), beta=0.5), 0.0)
    near(losses.sppo_hard(*one(-1, 1), beta=0.5), 8.0)
    c, d = one(2 * LOG3, -2 * LOG3)
    near(losses.nca_pair(c, d, beta=0.5), win + 0.5 * lose + 0.5 * win)
    near(losses.bco_pair(c, d, beta=0.5), 2 * win)
    near(losses.apo_zero(c, d, beta=0.5), 0.25 + 0.25)
    near(losses.apo_down(c, d, beta=0.25), math.sqrt(3) / (1 + math.sqrt(3)) + 0.25)
    near(losses.exo_pair(a, b, beta=0.5, label_smoothing=0.25), 0.0)
    near(losses.exo_pair(b, a, beta=0.5, label_smoothing=0.25), 0.5 * LOG3)
    near(losses.dpop(*one(-1, -3), beta=0.5, penalty=2.0), LOG2)
    # 10 tokens longer at 0.2 per token cancels a margin of -4 at beta = 0.5.
    near(losses.r_dpo(*one(-1, 3, 15, 5), beta=0.5, alpha=0.2), LOG2)


def test_reference_free_by_hand():
    # P = 3/4 and 1/4: odds 3 and 1/3, log odds ratio 2 log 3, sigmoid(2 log 3) = 9/10.
    means = one(math.log(0.75), math.log(0.25))
    near(losses.odds_ratio(*means), -math.log(0.9))
    near(losses.odds_ratio(*means[::-1]), -math.log(0.1))
    near(losses.orpo(*means, ratio_weight=0.5), -math.log(0.75) - 0.5 * math.log(0.9))
    near(losses.simpo(*means, beta=2.0, target_margin=LOG3), -math.log(0.75))
    near(losses.cpo(*means, beta=1.0, nll_weight=2.0), -math.log(0.75) - 2 * math.log(0.75))
    near(losses.tpo(*means, means[1], beta=1.0), -math.log(0.75) - math.log(0.25))
    # alpha = 1: rewards 1 - 4/3 and 1 - 4, difference 8/3.
    want = math.log1p(math.exp(-8 / 3))
    near(losses.alphapo(*means, beta=1.0, target_margin=0.0, alpha=1.0), want)
    near(
        losses.alphapo(*means, beta=2.0, target_margin=0.3, alpha=0.0),
        losses.simpo(*means, beta=2.0, target_margin=0.3),
    )


def test_unpaired_by_hand():
    u, good = jnp.array([3.0, 3.0]), jnp.array([1, 0])
    want = np.array([1 / 4, 2 * 3 / 4])
    near(losses.kto(u, good, 3.0 - LOG3, beta=1.0, undesirable_weight=2.0), want)
    near(losses.apo_zero_unpaired(u, good, beta=LOG3 / 3), [1 / 4, 3 / 4])
    near(losses.bco(u, good, 3.0 - LOG3, beta=1.0), [math.log(4 / 3), math.log(4)])
    near(losses.kto_reference_point(jnp.array([1.0, 2.0, 6.0]), jnp.array([1, 1, 0])), 1.5)
    near(losses.kto_reference_point(jnp.array([-1.0, -2.0])), 0.0)
    near(losses.udm_weight(jnp.array([0.1, 0.75, 1.0])), [0.5, 3.0, 10.0])
    state = losses.running_mean(0.0, 0.0, jnp.array([1.0, 5.0]))
    state = losses.running_mean(*state, jnp.array([6.0, 100.0]), jnp.array([1, 0]))
    near(state, (4.0, 3.0))


def test_reward_by_hand():
    scores = one(2 + LOG3, 2)
    near(losses.bradley_terry(*scores), math.log(4 / 3))
    near(losses.bradley_terry(*scores, margin=LOG3), LOG2)
    near(losses.bradley_terry(*scores, margin=jnp.array([-LOG3])), -math.log(0.9))
    near(losses.bradley_terry(*scores[::-1]), math.log(4))
    near(losses.center_penalty(*one(2, -3)), 1.0)
    # Weights 1, 2, 3 in falling order of rank: 3/6 * 2/3 * 1.
    s = jnp.log(jnp.array([[1.0, 2.0, 3.0]]))
    near(losses.plackett_luce(s, jnp.array([[2, 1, 0]])), -math.log(1 / 3))
    near(losses.plackett_luce(s, jnp.array([[0, 1, 2]])), -math.log(1 / 6 * 2 / 5))
    near(losses.plackett_luce(s, jnp.array([[0, jnp.inf, jnp.inf]])), math.log(6))
    near(losses.plackett_luce(s, jnp.array([[0, 1, 1]])), -math.log(1 / 6 * 2 / 5 * 3 / 5))
    near(losses.plackett_luce(s, jnp.array([[1, 9, 0]]), jnp.array([[1, 0, 1]])), -math.log(3 / 4))
    near(losses.all_pairs(s, jnp.array([[2, 1, 0]])), -math.log(2 / 3 * 3 / 4 * 3 / 5) / 3)
    near(losses.outcome_reward(*one(LOG3, 1)), math.log(4 / 3))
    near(losses.outcome_reward(*one(LOG3, 0)), math.log(4))
    both = jnp.array([[LOG3, LOG3, -LOG3]])
    found = losses.multilabel(both, jnp.array([[1, 0, jnp.nan]]), jnp.array([[1, 1, 0]]))
    near(found, [[math.log(4 / 3), math.log(4), 0]])
    near(losses.implicit_reward(*one(3), beta=0.5), 1.5)
    near(losses.preference_accuracy(jnp.array([2.0, 1, 1]), jnp.array([1.0, 2, 1])), [1, 0, 0.5])


def test_ppo_four_quadrants():
    """rho 1.5 or 0.5 with A = +-1: what is kept, what is clipped, and where the gradient stops."""
    new = jnp.log(jnp.array([[1.5, 0.5, 1.5, 0.5]]))
    old, adv = jnp.zeros((1, 4)), jnp.array([[1.0, 1, -1, -1]])
    near(losses.ppo_clip(new, old, adv), [[-1.2, -0.5, 1.5, 0.8]])
    grad = jax.grad(lambda x: losses.ppo_clip(x, old, adv).sum())(new)
    near(grad, [[0.0, -0.5, 1.5, 0.0]])
    near(losses.clip_fraction(new, old, adv), [[1, 0, 0, 1]])
    near(losses.ppo_clip(new, old, adv, clip_high=0.6), [[-1.5, -0.5, 1.5, 0.8]])
    near(losses.ppo_clip(new, old, adv, dual_clip=1.4), [[-1.2, -0.5, 1.4, 0.8]])
    # The first step of a batch: ratio exactly 1, and the gradient is the policy gradient.
    grad = jax.grad(lambda x: losses.ppo_clip(x, jax.lax.stop_gradient(x), adv).sum())(new)
    near(grad, -adv, 0)
    near(losses.importance_ratio(new, new), 1.0, 0)


def test_value_clip_by_hand():
    values, old, returns = jnp.array([[1.0, 1.0, 0.1]]), jnp.zeros((1, 3)), jnp.array([[2.0, 0, 1]])
    # |V - R| = 1 and clipped .2 from 2: 1.8; then 1 beats .2; then inside the range.
    near(losses.value_clip(values, old, returns, clip=0.2), [[0.5 * 1.8**2, 0.5, 0.5 * 0.81]])
    near(losses.value_clip(values, old, returns, clip=None), [[0.5, 0.5, 0.5 * 0.81]])
    grad = jax.grad(lambda v: losses.value_clip(v, old, returns, clip=0.2).sum())(values)
    near(grad, [[0.0, 1.0, -0.9]])


def test_surrogate_gradients():
    """Losses that hold a weight still: their gradient is weight * d log pi, by hand."""
    new, old = jnp.log(jnp.array([[0.6, 0.2]])), jnp.log(jnp.array([[0.2, 0.4]]))
    adv = jnp.array([[2.0, -1.0]])

    def grad(fn):
        return jax.grad(lambda x: fn(x).sum())(new)

    near(grad(losses.dft), [[-0.6, -0.2]])
    near(grad(lambda x: losses.cispo(x, old, adv, maximum_ratio=2.0)), [[-4.0, 0.5]])
    near(grad(lambda x: losses.cispo(x, old, adv, minimum_ratio=0.9)), [[-6.0, 0.9]])
    near(grad(lambda x: losses.reinforce(x, adv)), -adv)
    # w = 3 * 1/2; phi = w^2 e^(3 (1 - w)) for A >= 0, w^3 e^(2 (1 - w)) for A < 0.
    phi = 1.5**2 * math.exp(-1.5)
    near(grad(lambda x: losses.vespo(x, old, jnp.array([2.0]))), [[-2 * phi] * 2])
    phi = 1.5**3 * math.exp(-1.0)
    near(grad(lambda x: losses.vespo(x, old, jnp.array([-2.0]))), [[2 * phi] * 2])
    # GSPO-token: s = sqrt(1.5) for every token, and its row mean is GSPO.
    wide = {"clip_low": 0.9, "clip_high": 9.0}
    s = math.sqrt(1.5)
    near(grad(lambda x: losses.gspo_token(x, old, jnp.array([2.0]), **wide)), [[-2 * s] * 2])
    near(grad(lambda x: losses.gspo(x, old, jnp.array([2.0]), **wide)), [[-s, -s]])
    # Nash-MD: -(P - 1/2 - beta log(pi / ref)).
    weight = [0.4 - 0.1 * LOG3, 0.4 + 0.1 * LOG2]
    near(grad(lambda x: losses.nash_md(x, old, jnp.array([0.9]), beta=0.1)), [[-w for w in weight]])
    # SAPO has slope 1 at ratio 1.
    near(jax.grad(lambda x: losses.sapo(x, new, adv).sum())(new), -adv)


def test_detached_arguments_get_no_gradient():
    x, m = jnp.full((1, 2), -1.0), jnp.ones((1, 2))
    calls = [
        lambda z: losses.ppo_clip(x, z, z),
        lambda z: losses.reinforce(x, z),
        lambda z: losses.value_clip(x, z, z),
        lambda z: losses.k3(x, z),
        lambda z: losses.kl_penalty(z, x),
        lambda z: losses.gae(z, z, m, discount=0.9, decay=0.9)[0],
        lambda z: losses.gae(z, z, m, discount=0.9, decay=0.9)[1],
        lambda z: losses.whiten(z),
        lambda z: losses.group_relative(z),
        lambda z: losses.leave_one_out(z),
        lambda z: losses.gspo(x, z, z[:, 0]),
        lambda z: losses.grpo(x, z, z, reference_logprobs=z, kl_weight=0.1),
        lambda z: losses.kto(jnp.ones(1), jnp.ones(1), losses.kto_reference_point(z[0]), beta=0.1),
        lambda z: losses.forward_kl(x[None], z[None]),
        lambda z: losses.sampler_weight(z, x),
        lambda z: losses.importance_ratio(x, z),
        lambda z: losses.sequence_ratio(x, z),
        lambda z: losses.gmpo(x, z, z[:, 0]),
        lambda z: losses.vespo(x, z, z[:, 0]),
        lambda z: losses.cispo(x, z, z),
        lambda z: losses.sapo(x, z, z),
        lambda z: losses.kl_cov(x, z, z),
        lambda z: losses.kl_loss_weighted(x, z, z),
        lambda z: losses.approx_kl(z, x),
        lambda z: losses.clip_fraction(z, x, z),
        lambda z: losses.implicit_reward(z[0], beta=0.1),
        lambda z: losses.preference_accuracy(z[0], z[0]),
        lambda z: losses.score_regression(x[0], z[0]),
        lambda z: losses.remax(z[0], x[0]),
        lambda z: losses.minillm_advantages(z, x, m),
        lambda z: losses.bco_pair(x[0], x[0], beta=0.1, shift=z[0, 0]),
        lambda z: losses.bco(x[0], x[0] < 0, z[0, 0], beta=0.1),
        lambda z: losses.adaptive_kl(z[0, 0], 1.0, 1, target=1.0, horizon=9),
        lambda z: losses.running_mean(z[0, 0], 1.0, z[0])[0],
        lambda z: losses.wpo_weight(z, jnp.exp(z)),
    ]
    for call in calls:
        near(jax.grad(lambda z, c=call: jnp.sum(c(z)))(jnp.array([[-0.5, -0.7]])), 0.0, 0)


def test_check_grads_plain_and_jitted():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3)).astype(np.float32)
    for fn in (
        lambda a, b: losses.dpo(a, b, beta=0.5, label_smoothing=0.1),
        jax.jit(losses.margin),
    ):
        check_grads(fn, (a, b), order=2, modes=["rev"], atol=0.02, rtol=0.02)


def test_kl_by_hand():
    new, ref = jnp.log(jnp.array([[0.5]])), jnp.log(jnp.array([[0.25]]))
    near(losses.k1(new, ref), LOG2)
    near(losses.k2(new, ref), 0.5 * LOG2**2)
    near(losses.k3(new, ref), LOG2 - 0.5)
    near(losses.kl_penalty(new, ref), LOG2)
    near(losses.approx_kl(new, ref), 2 - 1 - LOG2)
    with pytest.raises(ValueError, match=r"expected gradient of k1 .* is zero"):
        losses.kl_loss(new, ref, estimator="k1")
    with pytest.raises(ValueError, match="Did you mean 'k3'"):
        losses.kl_penalty(new, ref, estimator="k33")
    # Twice the target: the error is cut at .2, a tenth of the horizon has passed.
    near(losses.adaptive_kl(0.5, 12.0, 100, target=6.0, horizon=1000), 0.5 * 1.02)
    near(losses.adaptive_kl(0.5, 5.4, 100, target=6.0, horizon=1000), 0.5 * 0.99)
    near(losses.adaptive_kl(0.5, 6.0, 100, target=6.0, horizon=1000), 0.5)


def test_lm_by_hand():
    logits = jnp.log(jnp.array([1.0, 2.0, 5.0]))
    lse, mean = logits.max() * 0 + math.log(8), jnp.mean(logits)
    args = [jnp.full((1, 1), x) for x in (math.log(5 / 8), float(lse), float(mean))]
    target = np.array([0.1, 0.1, 0.8])  # .7 on the token and .1 everywhere
    want = -(target * np.log(np.array([1, 2, 5]) / 8)).sum()
    near(losses.smoothed_nll(*args, label_smoothing=0.3), want)
    near(losses.token_nll(args[0]), math.log(8 / 5))
    near(losses.z_loss(args[1], coefficient=0.5), 0.5 * math.log(8) ** 2)
    near(losses.dft(args[0]), 5 / 8 * math.log(8 / 5))


def test_entropy_and_correction_by_hand():
    new = jnp.log(jnp.array([[0.4, 0.4], [0.4, 0.4]]))
    sampler = jnp.log(jnp.array([[0.2, 0.1], [0.4, jnp.nan]]))

    def weight(level, beyond, maximum):
        return losses.sampler_weight(new, sampler, level=level, beyond=beyond, maximum=maximum)

    near(weight("token", "truncate", 3.0), [[2, 3], [1, 1]])
    near(weight("token", "drop", 3.0), [[2, 0], [1, 1]])
    near(weight("sequence", "truncate", 3.0), [[3, 3], [1, 1]])
    near(weight("sequence", "drop", 3.0), [[0, 0], [1, 1]])
    near(weight("sequence", "drop", 9.0), [[8, 8], [1, 1]])
    near(losses.entropy_bonus(jnp.array([[0.7]])), [[-0.7]])


def test_covariance_methods_by_hand():
    new = jnp.array([[-1.0, -3.0, -2.0, -2.0]])
    adv, mask = jnp.array([[1.0, -1.0, 0.5, -0.5]]), jnp.ones((1, 4))
    near(losses.covariance(new, adv), [[1.0, 1.0, 0.0, 0.0]])  # means -2 and 0
    old = new - 0.5
    grad = jax.grad(lambda x: losses.kl_cov(x, old, adv, mask, fraction=0.5, penalty=2.0).sum())(
        new
    )
    rho = math.exp(0.5)
    near(grad, [[2 - rho, 2 + rho, -0.5 * rho, 0.5 * rho]])
    for apart in (-4e-7, 0.0, 4e-7):  # a ratio of 1 but for rounding has no penalty to go down
        grad = jax.grad(lambda x: losses.kl_cov(x, old, adv, mask, penalty=2.0).sum())(old + apart)
        near(grad, -adv)

    def clipped(x, key):
        return losses.clip_cov(x, new, adv, mask, key, fraction=0.25, minimum=0.5)

    seen = set()
    for seed in range(8):  # exactly one of the two tokens of high covariance is detached
        grad = np.asarray(jax.grad(lambda x, s=seed: clipped(x, jax.random.key(s)).sum())(new))
        seen.add(tuple(np.flatnonzero(grad == 0)))
        near(clipped(new, jax.random.key(seed)), -adv)
    assert seen == {(0,), (1,)}
    near(losses.top_fraction(new, mask, fraction=0.5), [[1, 0, 1, 1]])  # a tie is all in
    near(losses.top_fraction(new, jnp.array([[0, 1, 1, 0]]), fraction=0.1), [[0, 0, 1, 0]])


def test_entries_above_a_quantile():
    values = jnp.array([[1.0, 4.0, 2.0, 3.0, 9.0]])
    mask = jnp.array([[1, 1, 1, 1, 0]])
    near(losses.above_quantile(values, mask, quantile=0.5), [[0, 1, 0, 1, 0]])  # at 2.5
    near(losses.above_quantile(values, mask, quantile=1 / 3), [[0, 1, 1, 1, 0]])  # at 2 itself
    near(losses.above_quantile(values, mask, quantile=1.0), [[0, 1, 0, 0, 0]])
    near(losses.above_quantile(values, 0 * mask, quantile=0.0), [[0, 0, 0, 0, 0]])
    with pytest.raises(ValueError, match="quantile must be"):
        losses.above_quantile(values, mask, quantile=1.1)

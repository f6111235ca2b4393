"""The parts that losses are composed of, and whole compositions."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.losses import inputs, links
from tests.losses import table


def near(x, want, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(x), want, rtol=tolerance, atol=tolerance)


def test_reductions_by_hand():
    values = jnp.array([[1.0, 2, 3], [10, 99, 99], [99, 99, 99], [4, 6, 99]])
    mask = jnp.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]])
    near(losses.token_mean(values, mask).value, 26 / 6)
    near(losses.row_mean(values, mask).value, (2 + 10 + 5) / 3)
    near(losses.row_sum(values, mask).value, 26 / 3)
    near(losses.row_fixed(values, mask, length=5).value, 26 / 15)
    near(losses.group_mean(values, mask, group_size=2).value, (16 / 4 + 10 / 2) / 2)
    assert [float(r(values, mask).weight) for r in (losses.token_mean, losses.row_mean)] == [6, 3]
    with pytest.raises(ValueError, match="group_size must divide B = 4; got 3"):
        losses.group_mean(values, mask, group_size=3)


@pytest.mark.parametrize("name", ["token_mean", "row_mean", "row_sum", "row_fixed", "group_mean"])
def test_reductions_of_parts_add_up(name):
    kwargs = {"row_fixed": {"length": 7}, "group_mean": {"group_size": 2}}.get(name, {})
    values = np.random.default_rng(0).normal(size=table.MASK.shape)
    reduce = getattr(losses, name)
    whole = reduce(values, table.MASK, **kwargs)
    parts = [reduce(values[i : i + 2], table.MASK[i : i + 2], **kwargs) for i in (0, 2, 4, 6)]
    joined = sum(parts[1:], parts[0])
    near((joined.total, joined.weight), (whole.total, whole.weight), 1e-5)
    empty = reduce(values[:2], table.MASK[:2] * 0, **kwargs)
    assert float(empty.value) == float(empty.weight) == 0.0


def test_named_group_losses_are_their_reductions():
    case = next(c for c in table.CASES if c.name == "grpo")
    new, old, adv, mask = case.draw()
    token = losses.ppo_clip(new, old, adv, mask)
    rows = mask.sum(-1) > 0
    near(losses.grpo(new, old, adv, mask)[rows].mean(), losses.row_mean(token, mask).value)
    near(
        losses.dr_grpo(new, old, adv, mask, length=9.0)[rows].mean(),
        losses.row_fixed(token, mask, length=9.0).value,
    )
    near(losses.dapo(new, old, adv, mask), losses.ppo_clip(new, old, adv, mask, clip_high=0.28))
    near(losses.luspo(new, old, adv, mask), losses.gspo(new, old, adv, mask) * mask.sum(-1))
    with_kl = losses.grpo(new, old, adv, mask, reference_logprobs=old, kl_weight=0.5)
    want = losses.score_mean(token + 0.5 * losses.k3(new, old, mask), mask)
    near(with_kl, want)
    for wrong in ({"kl_weight": 0.1}, {"reference_logprobs": old}):
        with pytest.raises(ValueError, match="if and only if kl_weight > 0"):
            losses.grpo(new, old, adv, mask, **wrong)


def test_sequence_ratio_of_one_token_is_the_token_ratio():
    rng = np.random.default_rng(0)
    new, old, adv = rng.normal(size=(5, 1)), rng.normal(size=(5, 1)), rng.normal(size=5)
    token = losses.ppo_clip(new, old, adv)[:, 0]
    clip = {"clip_low": 0.2, "clip_high": 0.2}
    near(losses.gspo(new, old, adv, **clip), token)
    near(losses.rloo_clip(new, old, adv), token)


def test_log1mexp_is_accurate_at_both_ends():
    x = np.array([-60.0, -5.0, -0.7, -0.5, -1e-3, -1e-5])
    want = np.log(-np.expm1(x))
    want[0] = -np.exp(x[0])
    np.testing.assert_allclose(inputs.log1mexp(jnp.asarray(x, jnp.float32)), want, rtol=2e-5)
    assert np.isfinite(inputs.log1mexp(jnp.array(0.0)))
    assert np.isfinite(jax.grad(inputs.log1mexp)(0.0))
    np.testing.assert_allclose(jax.grad(inputs.log1mexp)(-0.5), -1 / np.expm1(0.5), rtol=1e-5)
    assert float(jax.grad(inputs.log1mexp)(-200.0)) == 0.0


def test_importing_losses_is_light():
    code = (
        "import jax, sys, time; t = time.perf_counter(); import alignjax.losses; "
        "print(time.perf_counter() - t, *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *modules = done.stdout.split()
    assert float(seconds) < 1.0
    assert not {"flax", "tensorflow", "optax", "orbax", "torch", "ml_collections"} & set(modules)


def test_divergences():
    x = jnp.array([-1.0, 0.0, 2.0])
    u = np.exp(np.asarray(x))
    near(losses.reverse_kl_divergence(x), np.log(u))
    near(losses.forward_kl_divergence(x), 1 - 1 / u)
    near(losses.js_divergence(x), np.log(2 * u / (1 + u)))
    near(losses.alpha_divergence(x, alpha=0.5), (1 - u**-0.5) / 0.5)
    near(losses.alpha_divergence(x, alpha=0.0), x)
    near(losses.alpha_divergence(x, alpha=1.0), losses.forward_kl_divergence(x))
    near(losses.alpha_divergence(x, alpha=1e-4), x, 1e-3)
    with pytest.raises(ValueError, match=r"alpha must be finite and >= 0 and <= 1; got 1\.5"):
        losses.alpha_divergence(x, alpha=1.5)
    for divergence in (losses.forward_kl_divergence, losses.js_divergence):
        far = jnp.array([-1e4, 1e4])
        value, grad = jax.value_and_grad(
            lambda y, f=divergence: losses.ipo(f(y), f(-y), beta=0.1).sum()
        )(far)
        assert np.isfinite(value)
        assert np.all(np.isfinite(grad))


def test_a_new_loss_is_a_few_lines():
    def js_hinge(chosen_logratio, rejected_logratio, *, beta):
        f = losses.js_divergence
        z = beta * losses.margin(f(chosen_logratio), f(rejected_logratio))
        return links.hinge_at(z)

    a, b = jnp.array([0.5, -1.0]), jnp.array([0.1, 0.3])
    want = [max(0.0, 1 - 0.5 * (np.log(1 / (1 + np.exp(-x))) - np.log(1 / (1 + np.exp(-y)))))
            for x, y in zip(a, b, strict=True)]  # fmt: skip
    near(js_hinge(a, b, beta=0.5), want)


def test_length_normalised_and_length_desensitised_scores():
    logp = jnp.array([[-1.0, -2.0, -3.0, -4.0]])
    mask, short = jnp.array([[0, 1, 1, 1]]), jnp.array([[1, 0]])
    near(losses.score_sum(logp, mask), -9.0)
    near(losses.score_mean(logp, mask), -3.0)
    near(losses.score_ld(logp, mask, short, alpha=0.5), -2 - 0.5 * 7)
    near(losses.score_ld(logp, mask, short, alpha=0.0), -2.0)
    near(losses.score_ld(logp, mask, short, alpha=1.0), losses.score_sum(logp, mask))
    # A policy that puts all its mass on the token: log p - log sum p^2 = 0.
    near(losses.wpo_weight(jnp.zeros((1, 3)), jnp.ones((1, 3))), 1.0)
    near(losses.wpo_weight(jnp.log(jnp.full((1, 2), 0.25)), jnp.full((1, 2), 0.5)), 0.5)


def test_transport_with_masked_rows_is_that_of_the_others():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6))
    mask = np.array([1, 0, 1, 1, 0, 1])
    some = losses.aot_unpaired(a, b, mask, beta=0.5)
    near(some[:4], losses.aot_unpaired(a[mask == 1], b[mask == 1], beta=0.5))
    near(some[4:], 0.0, 0)
    grad = jax.grad(lambda x: losses.aot_unpaired(x, b, mask, beta=0.5).sum())(jnp.asarray(a))
    near(np.asarray(grad)[mask == 0], 0.0, 0)
    four = [rng.normal(size=6) for _ in range(4)]
    some = losses.aot(*four, mask, beta=0.5)
    near(some[:4], losses.aot(*[x[mask == 1] for x in four], beta=0.5))


def test_mix_and_soft_update():
    a, b = jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0])
    near(losses.mix([a, b], [0.5, -1.0]), [-2.5, -4.0])
    with pytest.raises(ValueError, match="one number for each loss; got 1 for 2"):
        losses.mix([a, b], [1.0])
    with pytest.raises(ValueError, match=r"weights\[1\] must be finite"):
        losses.mix([a, b], [1.0, float("nan")])
    with pytest.raises(ValueError, match="one shape"):
        losses.mix([a, b[:1]], [1.0, 1.0])
    new = losses.soft_update({"w": a}, {"w": b}, mix=0.25)
    near(new["w"], [1.5, 2.75])
    with pytest.raises(ValueError, match="mix must be"):
        losses.soft_update(a, b, mix=1.1)


def test_whitening_of_equal_entries_and_eps():
    near(losses.whiten(jnp.full((2, 2), 3.0)), 0.0, 0)
    near(losses.whiten(jnp.full((2, 2), 3.0), shift_mean=False), 3.0, 0)
    near(losses.whiten(jnp.array([1.0, 3.0]), eps=3.0), [-0.5, 0.5])


def test_groups():
    rewards = jnp.array([[1.0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 7, 0]])
    mask = jnp.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1]])
    assert losses.is_informative(rewards, mask).tolist() == [True, False, True]
    assert losses.is_informative(rewards, jnp.array([[0] * 4] * 3)).tolist() == [False] * 3
    for same in (1.0, -1.0):
        seven = jnp.array([[same, same, 7.0, same]])
        assert losses.is_informative(seven).tolist() == [True]
        assert losses.is_informative(seven, jnp.array([[1, 1, 0, 1]])).tolist() == [False]
    near(losses.group_relative(rewards, mask, scale=False)[0], [0.75, -0.25, -0.25, -0.25])
    near(losses.group_relative(rewards, mask, eps=1e-9)[0], [1.5, -0.5, -0.5, -0.5])
    near(
        losses.group_relative(rewards, mask, eps=1e-9, unbiased=False)[0],
        np.array([3, -1, -1, -1]) / np.sqrt(3),
    )
    near(losses.group_relative(rewards, mask)[1], 0.0, 0)
    near(losses.leave_one_out(rewards, mask)[2], [1, -0.5, 0, -0.5])
    near(losses.gpg(rewards, mask)[0], 1.5 * np.array([0.75, -0.25, -0.25, -0.25]))
    with pytest.raises(ValueError, match="N >= 2"):
        losses.leave_one_out(rewards[:, :1])
    both = jnp.stack([rewards, 100 * rewards], -1)
    near(losses.gdpo(both, jnp.array([1.0, 0.0])), losses.gdpo(both, jnp.array([0.5, 0.5])), 1e-3)


def test_distillation_on_top_k():
    rng = np.random.default_rng(0)
    s, t = (jax.nn.log_softmax(x) for x in rng.normal(size=(2, 2, 3, 8)))
    whole = losses.forward_kl(s, t)
    part = losses.forward_kl(losses.with_tail(s[..., :5]), losses.with_tail(t[..., :5]))
    assert np.all(np.asarray(part) <= np.asarray(whole) + 1e-6)
    near(losses.with_tail(s[..., :5])[..., -1], np.log(1 - np.exp(s[..., :5]).sum(-1)), 1e-5)
    same = jnp.concatenate([t[..., :5], t[..., 5:]], -1)
    near(losses.forward_kl(losses.with_tail(same), losses.with_tail(t)), 0.0)
    certain = jnp.array([[[0.0, -jnp.inf]]])
    near(losses.forward_kl(jnp.log(jnp.array([[[0.25, 0.75]]])), certain), np.log(4))


def test_geometric_mixture():
    a, b = jnp.log(jnp.array([0.8, 0.2])), jnp.log(jnp.array([0.2, 0.8]))
    near(jnp.exp(losses.geometric_mixture(a, b, mix=0.5)), [0.5, 0.5])
    near(losses.geometric_mixture(a, b, mix=0.0), a)
    near(losses.geometric_mixture(a + 3, b - 1, mix=1.0), b)

"""Why recipes differ from OpenRLHF, verl and Tunix where docs/conformance.md says that they do.

What the code bases computed is read from the goldens.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import compat, losses
from alignjax.compat.blocks import estimators, kl
from alignjax.compat.recipe import Arrays
from tests.conformance import compare, golden


def recorded(preset: str, method: str) -> list[golden.Golden]:
    """The goldens of a method whose recipe differs on purpose."""
    files = [file for file in golden.files() if file.name.startswith(preset)]
    result = [g for file in files for g in golden.load(file)[0]]
    result = [g for g in result if g.method == method and g.difference]
    assert result
    return result


# --- KL: an exact enumeration of a policy over V answers of one token ---
V = 5
REFERENCE = jax.nn.log_softmax(jnp.array([0.3, -1.0, 0.8, 0.1, -0.4]))[:, None]
LOGITS = jnp.array([1.0, 0.2, -0.5, 0.0, 0.7])
OLD = jax.nn.log_softmax(jnp.array([0.6, 0.4, -0.1, -0.2, 0.5]))[:, None]


def expected_gradient(per_token, sampled_from=None):
    """Of sum over answers of p(answer) loss(answer), p without gradient."""

    def loss(logits):
        logprobs = jax.nn.log_softmax(logits)[:, None]
        p = jnp.exp(logprobs if sampled_from is None else sampled_from)
        return jnp.sum(jax.lax.stop_gradient(p) * per_token(logprobs))

    return jax.grad(loss)(LOGITS)


def exact_gradient(*, forward: bool = False):
    """Of KL(pi; ref), or of KL(ref; pi) if `forward`."""

    def kl(logits):
        pi, ref = jax.nn.log_softmax(logits), REFERENCE[:, 0]
        p, q = (ref, pi) if forward else (pi, ref)
        return jnp.sum(jnp.exp(p) * (p - q))

    return jax.grad(kl)(LOGITS)


def test_expected_gradient_of_k1_as_a_loss_is_zero():
    result = expected_gradient(lambda logprobs: losses.k1(logprobs, REFERENCE))
    np.testing.assert_allclose(result, 0.0, atol=1e-6)
    assert np.abs(exact_gradient()).max() > 0.05


@pytest.mark.parametrize(("estimator", "forward"), [("k2", False), ("k3", True)])
def test_expected_gradients_of_the_estimators_that_are_allowed(estimator, forward):
    result = expected_gradient(lambda x: losses.kl_loss(x, REFERENCE, estimator=estimator))
    np.testing.assert_allclose(result, exact_gradient(forward=forward), atol=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("off_policy", [False, True])
def test_exact_gradient_is_that_of_reverse_kl_for_every_estimator(estimator, off_policy):
    def per_token(logprobs):
        arrays = {
            "logprobs": logprobs,
            "old_logprobs": OLD,
            "reference_logprobs": REFERENCE,
            "mask": np.ones((V, 1)),
        }
        return kl.values(
            Arrays(arrays, "test"),
            estimator=estimator,
            cap=None,
            exact_gradient=True,
            maximum_ratio=10.0 if off_policy else None,
        )

    result = expected_gradient(per_token, OLD if off_policy else None)
    np.testing.assert_allclose(result, exact_gradient(), atol=1e-6)


@pytest.mark.parametrize("preset", ["verl-0.9", "openrlhf-0.11"])
def test_k1_as_a_loss_pushes_all_tokens_alike(preset):
    """Its gradient there knows neither the policy nor the reference."""
    weight = compat.recipe(preset, "kl_loss").defaults["weight"]
    for result in recorded(preset, "kl_loss"):
        mask = result.inputs["mask"]
        capped = np.abs(result.inputs["logprobs"] - result.inputs["reference_logprobs"]) > 10
        alike = weight * mask / mask.sum() * (1 if preset == "verl-0.9" else ~capped)
        np.testing.assert_allclose(result.gradients["logprobs"], alike, atol=1e-9)


@pytest.mark.parametrize(
    ("preset", "method", "options"),
    [
        ("openrlhf-0.11", "kl_loss", {}),
        ("verl-0.9", "kl_loss", {"estimator": "k1"}),
        *[("tunix-0.1.7", method, {}) for method in ("grpo", "dr_grpo", "gspo_token")],
    ],
)
def test_k1_as_a_loss_is_refused(preset, method, options):
    rows = np.full((2, 3), -1.0, np.float32)
    arrays = {name: rows for name in ("logprobs", "old_logprobs", "reference_logprobs")}
    arrays |= {"advantages": np.ones(2, np.float32), "mask": np.ones((2, 3), np.int32)}
    with pytest.raises(ValueError, match="estimator must be k2 or k3 in a loss; got 'k1'"):
        compat.recipe(preset, method)(arrays, **options)


# --- ORPO ---
def orpo(preset: str, chosen: int, rejected: int, *, p: float = 0.6, q: float = 0.4) -> float:
    """The odds-ratio term of answers of these lengths whose tokens all have probability p and q."""
    slots = np.arange(12)[None]
    arrays = {"chosen_mask": slots < chosen, "rejected_mask": slots < rejected}
    arrays |= {
        f"{side}_logprobs": np.log(x) * arrays[f"{side}_mask"].astype(np.float32)
        for side, x in (("chosen", p), ("rejected", q))
    }
    both, nll = (
        sum(term.value for term in compat.recipe(preset, "orpo")(arrays, ratio_weight=w).values())
        for w in (1.0, 0.0)
    )
    return float(both - nll)


def test_orpo_of_the_paper_does_not_know_the_length():
    odds = np.log(0.6 / 0.4) - np.log(0.4 / 0.6)
    for length in (1, 2, 10):
        assert orpo("paper", length, length) == pytest.approx(np.log1p(np.exp(-odds)), rel=1e-5)
    for length in (1, 2, 10):
        assert orpo("paper", 4, length, q=0.6) == pytest.approx(np.log(2), rel=1e-5)


def test_orpo_of_tunix_changes_with_the_length():
    """Every token has the same probability, yet the loss vanishes as answers grow."""
    assert orpo("tunix-0.1.7", 1, 1) == pytest.approx(orpo("paper", 1, 1), rel=1e-5)
    assert orpo("tunix-0.1.7", 10, 10) < 0.2 * orpo("tunix-0.1.7", 1, 1)
    # Answers of equal tokens: the longer one is held to be worse.
    assert orpo("tunix-0.1.7", 2, 6, q=0.6) < np.log(2) < orpo("tunix-0.1.7", 6, 2, q=0.6)


def test_odds_of_certain_answers_stay_finite_where_tunix_gives_nan():
    for result in recorded("tunix-0.1.7", "orpo"):
        assert np.isnan(result.gradients["chosen_logprobs"]).any()
        loss = lambda x, arrays=result.inputs: sum(  # noqa: E731
            term.value
            for term in compat.recipe("tunix-0.1.7", "orpo")(
                {**arrays, "chosen_logprobs": x}
            ).values()
        )
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(result.inputs["chosen_logprobs"]))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


# --- reward models, policies ---
def test_log_exp_loss_overflows_where_the_loss_is_linear():
    for result in recorded("openrlhf-0.11", "bradley_terry"):
        assert np.isinf(result.value)
        behind = result.inputs["rejected_scores"] - result.inputs["chosen_scores"]
        (term,) = compat.recipe("openrlhf-0.11", "bradley_terry")(result.inputs).values()
        assert float(term.value) == pytest.approx(behind.mean(), rel=1e-6)


def test_clip_cov_of_verl_has_our_gradient_and_another_value():
    for result in recorded("verl-0.9", "clip_cov"):
        errors = compare.errors([result])
        assert errors.gradient < compare.GRADIENT_TOLERANCE
        assert errors.value > 1e-2
        plain = compat.recipe("verl-0.9", "ppo_clip")(
            result.inputs, clip_low=1.0, clip_high=9.0, dual_clip=None
        )["loss"]
        (ours,) = compat.recipe("verl-0.9", "clip_cov")(result.inputs, **result.options).values()
        assert float(ours.value) == pytest.approx(float(plain.value), rel=1e-6)  # that of PPO


def test_one_token_decides_over_the_ppo_of_tunix():
    for result in recorded("tunix-0.1.7", "ppo_clip"):
        log_ratio = result.inputs["logprobs"] - result.inputs["old_logprobs"]
        worst = np.unravel_index(np.argmax(log_ratio), log_ratio.shape)
        alone = -result.inputs["advantages"][worst] * np.exp(np.float64(log_ratio[worst]))
        assert result.value == pytest.approx(alone / result.inputs["mask"].sum(), rel=1e-3)
        assert result.value > 1e12
        (term,) = compat.recipe("tunix-0.1.7", "ppo_clip")(result.inputs).values()
        assert term.value < np.abs(result.inputs["advantages"]).max() * np.exp(20)


def test_tunix_distils_into_padding():
    for result in recorded("tunix-0.1.7", "forward_kl"):
        padded = result.inputs["mask"] == 0
        assert np.abs(result.gradients["student_logits"][padded]).max() > 1e-3


# --- advantages ---
def test_openrlhf_loses_the_bootstrap_across_a_turn():
    """Its result is that of an episode in which the other speaker's tokens are steps of value 0."""
    for result in recorded("openrlhf-0.11", "gae"):
        mask = result.inputs["mask"]
        recipe = compat.recipe("openrlhf-0.11", "returns")
        options = {"kl_weight": 0.01, **result.options}
        own = np.asarray(recipe(result.inputs, **options))
        score = estimators.at_last_token(jnp.clip(result.inputs["rewards"], -10, 10), mask)
        penalty = result.inputs["logprobs"] - result.inputs["reference_logprobs"]
        rewards, values = (score - 0.01 * penalty) * mask, result.inputs["values"] * mask
        advantages, returns = losses.gae(
            rewards, values, np.ones_like(mask), discount=0.9, decay=0.8
        )
        theirs = losses.whiten(advantages, mask)
        np.testing.assert_allclose(result.value, theirs, atol=1e-5)
        last_turn = np.s_[:, 5:]
        np.testing.assert_allclose(own[last_turn], returns[last_turn], atol=1e-5)
        assert np.abs(own[:, 2] - returns[:, 2]).max() > 0.1


def test_a_perfect_value_function_leaves_no_advantage_across_a_turn():
    mask = np.array([[1, 1, 1, 0, 0, 1, 1, 1]])
    ones = np.ones(mask.shape, np.float32)
    rewards = estimators.at_last_token(np.ones(1, np.float32), mask)
    skipped, _ = losses.gae(rewards, ones, mask, discount=1.0, decay=0.0)
    stepped, _ = losses.gae(rewards, ones * mask, ones, discount=1.0, decay=0.0)
    np.testing.assert_array_equal(skipped, 0.0)
    assert float(stepped[0, 2]) == -1.0


def test_a_lone_answer_keeps_its_raw_reward_in_verl():
    for result in recorded("verl-0.9", "group_relative"):
        np.testing.assert_allclose(result.value, result.inputs["rewards"], rtol=1e-5)
        np.testing.assert_array_equal(compat.recipe("verl-0.9", "group_relative")(result.inputs), 0)


def test_gpg_of_verl_takes_an_all_right_group_for_a_signal():
    """An all-right group and an all-wrong one have no gradient: they must count alike."""
    recipe = compat.recipe("verl-0.9", "gpg")
    mixed = np.float32([1, 0, 0])
    all_right, all_wrong = (
        np.asarray(recipe({"rewards": np.stack([np.full(3, r, np.float32), mixed])}))
        for r in (1, 0)
    )
    np.testing.assert_array_equal(all_right, all_wrong)
    for result in recorded("verl-0.9", "gpg"):
        samples, others_than_zero = 6, 4
        centred = mixed - mixed.mean()
        np.testing.assert_allclose(result.value[1], centred * samples / others_than_zero, rtol=1e-6)
        np.testing.assert_allclose(all_right[1], centred * 2, rtol=1e-6)


# --- input ---
def test_what_is_wrong_is_named():
    rows = np.full((2, 3), -1.0, np.float32)
    arrays = {"logprobs": rows, "old_logprobs": rows, "advantages": rows, "mask": rows < 0}
    with pytest.raises(ValueError, match="reduction must be one of token_mean"):
        compat.recipe("verl-0.9", "ppo_clip")(arrays, reduction="token-mean")
    with pytest.raises(ValueError, match="beta must be a number"):
        compat.recipe("verl-0.9", "dro")(arrays)
    with pytest.raises(ValueError, match="correction must be one of token, sequence"):
        compat.recipe("openrlhf-0.11", "ppo_clip")(arrays, correction="row")
    with pytest.raises(ValueError, match="beyond must be one of drop; got 'truncate'"):
        compat.recipe("openrlhf-0.11", "ppo_clip")(
            {**arrays, "sampler_logprobs": rows}, correction="sequence", beyond="truncate"
        )

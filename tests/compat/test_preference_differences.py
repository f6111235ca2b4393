"""Why recipes of preference losses differ from the code that they stand for, recomputed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import compat, losses
from tests.conformance import golden


def goldens(name: str, method: str, difference: str = "", **options) -> list[golden.Golden]:
    result = [
        g
        for g in golden.load(golden.FOLDER / f"{name}.npz")[0]
        if g.method == method
        and difference in g.difference
        and bool(difference) == bool(g.difference)
        and options.items() <= g.options.items()
    ]
    assert result
    return result


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -x)


def log_ratios(inputs: dict) -> list[np.ndarray]:
    return [
        np.sum(
            (inputs[f"{s}_logprobs"].astype(float) - inputs[f"reference_{s}_logprobs"])
            * inputs[f"{s}_mask"],
            axis=1,
        )
        for s in ("chosen", "rejected")
    ]


@pytest.mark.parametrize("divergence", ["js", "alpha"])
def test_trl_0_28_configured_with_a_divergence_computes_reverse_kl(divergence):
    for g in goldens("trl-0.28-pairs", "dpo", "no effect", divergence=divergence):
        result = compat.recipe("trl-0.28", "dpo")(g.inputs, beta=g.options["beta"])
        assert float(result["loss"].value) == pytest.approx(float(g.value), rel=1e-6)


def test_trl_0_28_counts_ld_positions_from_the_start_of_the_prompt():
    """An answer of n tokens after P of a prompt keeps its first n - P, and the reference all."""
    for g in goldens("trl-0.28-pairs", "dpo", "positions"):
        slots = np.arange(g.inputs["chosen_mask"].shape[1])[None]
        lengths = [g.inputs[f"{s}_mask"].sum(1)[:, None] for s in ("chosen", "rejected")]
        ratios = []
        for side, n in zip(("chosen", "rejected"), lengths, strict=True):
            logprobs = g.inputs[f"{side}_logprobs"].astype(float) * g.inputs[f"{side}_mask"]
            reference = g.inputs[f"reference_{side}_logprobs"] * g.inputs[f"{side}_mask"]
            weight = np.where(slots < np.minimum(*lengths), 1.0, g.options["ld_alpha"])
            ratios.append(np.sum(logprobs * weight * (slots < n), 1) - np.sum(reference, 1))
        wanted = -np.mean(log_sigmoid(g.options["beta"] * (ratios[0] - ratios[1])))
        assert float(g.value) == pytest.approx(wanted, rel=1e-6)


def test_trl_0_28_wpo_weights_leave_out_the_last_token():
    for g in goldens("trl-0.28-pairs", "dpo", "normalisers"):
        exponent = 0.0
        for side in ("chosen", "rejected"):
            mask = g.inputs[f"{side}_mask"]
            last = mask * (np.cumsum(mask, 1) == mask.sum(1, keepdims=True))
            said = g.inputs[f"{side}_logprobs"].astype(float) * (mask - last)
            normaliser = np.log(g.inputs[f"{side}_sum_p2"].astype(float)) * mask
            exponent = exponent + np.sum(said - normaliser, 1) / mask.sum(1)
        a, b = log_ratios(g.inputs)
        weight = np.minimum(np.exp(exponent), 1.0)
        wanted = -np.mean(weight * log_sigmoid(g.options["beta"] * (a - b)))
        assert float(g.value) == pytest.approx(wanted, rel=1e-6)


def test_trl_0_28_alpha_divergence_at_large_ratios_has_gradients_that_overflow_when_squared():
    for g in goldens("trl-0.28-pairs", "dpo", "exponents"):
        largest = max(np.abs(x).max() for x in g.gradients.values())
        assert largest**2 > np.finfo(np.float32).max
        arrays = {k: jnp.asarray(v) for k, v in g.inputs.items()}

        def loss(chosen, arrays=arrays, options=g.options):
            terms = compat.recipe("trl-0.28", "dpo")(
                {**arrays, "chosen_logprobs": chosen}, **options
            )
            return terms["loss"].value

        ours = jax.grad(loss)(arrays["chosen_logprobs"])
        assert np.all(np.isfinite(np.square(ours)))


def test_trl_1_16_orpo_has_nan_gradients_for_certain_answers():
    (g,) = goldens("trl-1.16-reference-free", "orpo", "exponential")
    assert np.isnan(g.gradients["chosen_logprobs"][0]).any()
    assert (np.exp(g.inputs["chosen_logprobs"][0]) == 1).all()

    def loss(chosen):
        terms = compat.recipe("trl-1.16", "orpo")({**g.inputs, "chosen_logprobs": chosen})
        return sum(term.value for term in terms.values())

    assert np.all(np.isfinite(jax.grad(loss)(jnp.asarray(g.inputs["chosen_logprobs"]))))


def test_trl_1_16_alphapo_rewards_of_sums_underflow_to_nan():
    (g,) = goldens("trl-1.16-reference-free", "cpo", "underflows")
    assert np.isnan(g.value)
    assert all(np.isnan(x).any() for x in g.gradients.values())
    arrays = {k: jnp.asarray(v) for k, v in g.inputs.items()}

    def loss(chosen):
        terms = compat.recipe("trl-1.16", "cpo")({**arrays, "chosen_logprobs": chosen}, **g.options)
        return sum(term.value for term in terms.values())

    value, gradient = jax.value_and_grad(loss)(arrays["chosen_logprobs"])
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_the_shift_of_bco_pair_in_trl_0_28_is_a_running_mean_over_steps():
    for g in goldens("trl-0.28-pairs", "bco_pair"):
        reward = g.options["beta"] * np.mean(np.concatenate(log_ratios(g.inputs)))
        moved, steps = losses.running_mean(
            g.inputs["mean_before"], g.inputs["steps_before"], jnp.array([reward])
        )
        assert float(moved) == pytest.approx(float(g.inputs["shift"]), rel=1e-5)
        assert float(steps) == 2


def test_the_shift_of_bco_in_trl_1_13_is_a_running_mean_over_answers():
    """The paper's is half the sum of the two kinds' means: another where their numbers differ."""
    for g in goldens("trl-1.13-bco", "bco"):
        ratio = (g.inputs["logprobs"].astype(float) - g.inputs["reference_logprobs"]) * (
            g.inputs["mask"]
        )
        rewards = jnp.asarray(g.options["beta"] * ratio.sum(1))
        before = g.inputs["mean_before"], g.inputs["weight_before"]
        moved, _ = losses.running_mean(*before, rewards)
        assert float(moved) == pytest.approx(float(g.inputs["shift"]), rel=1e-5)
        kinds = [
            losses.running_mean(0.0, 0.0, rewards, g.inputs["desirable"] == kind)[0]
            for kind in (0, 1)
        ]
        assert abs(float(sum(kinds)) / 2 - float(rewards.mean())) > 1e-3

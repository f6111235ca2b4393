"""The method's own reward of an answer, by hand."""

import math

import jax
import numpy as np
import pytest

from alignjax import compat
from tests.compat import batches

# The chosen answer has 2 tokens of log-probability -1, the rejected one 4 of -0.5; the reference
# gives every token -0.8, and a token outside the answers -9.
PAIR = {
    "chosen_logprobs": np.float32([[-1, -1, -9, -9]]),
    "rejected_logprobs": np.float32([[-0.5, -0.5, -0.5, -0.5]]),
    "chosen_mask": np.array([[1, 1, 0, 0]]),
    "rejected_mask": np.array([[1, 1, 1, 1]]),
}
REFERENCE = {f"reference_{side}_logprobs": np.full((1, 4), -0.8, np.float32)
             for side in ("chosen", "rejected")}  # fmt: skip
SUMS, MEANS = (-2.0, -2.0), (-1.0, -0.5)
RATIOS = (-0.4, 1.2)
ODDS = tuple(math.log(math.exp(x) / (1 - math.exp(x))) for x in MEANS)


def alphapo(alpha: float) -> tuple[float, float]:
    return tuple((1 - math.exp(-alpha * x)) / alpha for x in MEANS)


@pytest.mark.parametrize(
    ("preset", "method", "options", "wanted"),
    [
        ("paper", "dpo", {"beta": 0.5}, (-0.2, 0.6)),
        ("openrlhf-0.11", "dpo", {"beta": 0.5}, (-0.2, 0.6)),
        ("paper", "dpo_norm", {"beta": 0.5}, (-0.1, 0.15)),
        ("paper", "ipo", {"beta": 0.5}, (-0.2, 0.6)),
        ("trl-1.16", "ipo", {"beta": 0.5}, (-0.1, 0.15)),
        ("trl-0.28", "ipo", {"beta": 0.5}, (-0.1, 0.15)),
        ("openrlhf-0.11", "ipo", {"beta": 0.5}, (-0.2, 0.6)),
        ("paper", "hinge", {"beta": 0.5}, (-0.2, 0.6)),
        ("paper", "aot", {"beta": 0.5}, (-0.2, 0.6)),
        ("paper", "r_dpo", {"beta": 0.5}, (-0.2, 0.6)),
        ("trl-1.16", "online_dpo", {"beta": 0.5}, (-0.2, 0.6)),
        ("paper", "dpo", {"beta": 1.0, "ld_alpha": 0.0}, (-0.4, 0.6)),
        ("paper", "dpo", {"beta": 1.0, "divergence": "forward_kl"},
         tuple(1 - math.exp(-x) for x in RATIOS)),
        ("paper", "simpo", {"beta": 2.0}, (-2.0, -1.0)),
        ("trl-1.16", "simpo", {"beta": 2.0}, (-2.0, -1.0)),
        ("paper", "cpo", {"beta": 0.5}, (-1.0, -1.0)),
        ("trl-1.16", "cpo", {"beta": 0.5}, (-1.0, -1.0)),
        ("trl-1.16", "cpo_ipo", {"beta": 0.5}, (-0.5, -0.25)),
        ("paper", "orpo", {}, ODDS),
        ("trl-1.16", "orpo", {"ratio_weight": 0.3}, ODDS),
        ("paper", "alphapo", {"beta": 1.0, "alpha": 0.5}, alphapo(0.5)),
        ("trl-1.16", "alphapo", {"beta": 1.0, "alpha": -0.5}, alphapo(-0.5)),
        ("paper", "tpo", {"beta": 0.5}, (-1.0, -1.0)),
        ("paper", "tpo_l", {"beta": 0.5}, (-0.5, -0.25)),
        ("paper", "slic", {}, SUMS),
        ("trl-1.16", "chosen_nll", {}, SUMS),
    ],
)  # fmt: skip
def test_rewards_of_pairs_by_hand(preset, method, options, wanted):
    recipe = compat.recipe(preset, method)
    arrays = {**PAIR, **(REFERENCE if "reference" in recipe.reads else {})}
    rewards = recipe.rewards(arrays, **options)
    assert [x.shape for x in rewards] == [(1,), (1,)]
    np.testing.assert_allclose(np.ravel(rewards), wanted, rtol=1e-5)


def test_a_reward_model_says_its_scores():
    arrays = {"chosen_scores": np.float32([1, 2]), "rejected_scores": np.float32([3, 4])}
    for preset in ("paper", "trl-1.16", "openrlhf-0.11"):
        rewards = compat.recipe(preset, "bradley_terry").rewards(arrays)
        np.testing.assert_array_equal(rewards, [[1, 2], [3, 4]])


def test_rewards_of_single_answers_by_hand():
    arrays = {
        "logprobs": PAIR["chosen_logprobs"],
        "reference_logprobs": REFERENCE["reference_chosen_logprobs"],
        "mask": PAIR["chosen_mask"],
    }
    for preset, method in (("paper", "kto"), ("paper", "bco"), ("trl-1.16", "kto"),
                           ("trl-1.13", "bco"), ("paper", "apo_zero_unpaired")):  # fmt: skip
        rewards = compat.recipe(preset, method).rewards(arrays, beta=0.5)
        np.testing.assert_allclose(rewards, [-0.2], rtol=1e-5)


def test_no_gradient_flows_into_rewards():
    recipe, arrays = compat.recipe("paper", "simpo"), batches.batch("paper", "simpo")

    def total(logprobs):
        return sum(x.sum() for x in recipe.rewards({**arrays, "chosen_logprobs": logprobs}))

    assert not np.any(np.asarray(jax.grad(total)(arrays["chosen_logprobs"])))


@pytest.mark.parametrize(("preset", "method"), [
    (preset, name) for preset, recipes in compat.PRESETS.items()
    for name, recipe in recipes.items() if recipe.table == "pairs"
])  # fmt: skip
def test_larger_margins_of_rewards_have_smaller_losses(preset, method):
    """So the reward is the one that the loss is of: raising the chosen answer's tokens raises its
    reward and, where the pair is wrong way round, lowers the loss."""
    recipe, arrays = compat.recipe(preset, method), batches.batch(preset, method)
    name = "chosen_scores" if "scores" in recipe.reads else "chosen_logprobs"
    low = {**arrays, name: arrays[name] - 0.02}
    before, after = (np.asarray(recipe.rewards(x)) for x in (low, arrays))
    assert np.all(after[0] > before[0])
    np.testing.assert_array_equal(after[1], before[1])
    if method not in ("sppo_hard", "nca_pair", "ipo", "online_ipo", "cpo_ipo", "tpo_ipo",
                      "apo_down", "discopop"):  # fmt: skip
        loss = [sum(float(t.value) for t in recipe(x).values()) for x in (low, arrays)]
        assert loss[1] < loss[0]


def test_other_rows_have_no_rewards():
    with pytest.raises(ValueError, match="table of paper grpo, for rewards, must be one of pairs"):
        compat.recipe("paper", "grpo").rewards({})
    with pytest.raises(ValueError, match="reference_chosen_logprobs must be among the arrays"):
        compat.recipe("paper", "dpo").rewards(PAIR)
    with pytest.raises(ValueError, match="option of paper dpo"):
        compat.recipe("paper", "dpo").rewards(PAIR, bete=1.0)

"""Pairs with a probability and a weight count as so many votes, in every loss on pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import compat
from alignjax.algorithms import dpo
from tests.algorithms.test_pair_methods import CASES

# BCO's shift is of a batch: tests/algorithms/test_pair_methods.py says what weights do to it.
VOTES = [
    (preset, method)
    for preset, method in CASES
    if not method.startswith("aot")
    and "shift" not in dpo.DpoConfig(method=method, compat=preset).needs
]


def pair(seed: int) -> dict[str, np.ndarray]:
    """Arrays of two pairs on which policy and reference differ."""
    arrays = dpo.same_policies(seed)
    rng = np.random.default_rng(seed + 100)
    for side in dpo.SIDES:
        noise = rng.normal(0, 0.2, arrays[f"{side}_logprobs"].shape).astype(np.float32)
        arrays[f"reference_{side}_logprobs"] = arrays[f"{side}_logprobs"] + noise
    return arrays


def turned(arrays):
    """The pairs with their answers in each other's place."""
    names = {n: n.replace("chosen", "*").replace("rejected", "chosen").replace("*", "rejected")
             for n in arrays}  # fmt: skip
    return {name: arrays[other] for name, other in names.items()}


def gradients(config, arrays):
    """{side: gradient} of the sum of the terms' values."""

    def loss(logprobs):
        named = {f"{side}_logprobs": x for side, x in logprobs.items()}
        return sum(term.value for term in config.terms({**arrays, **named}).values())

    return jax.grad(loss)({side: jnp.asarray(arrays[f"{side}_logprobs"]) for side in dpo.SIDES})


@pytest.mark.parametrize(("preset", "method"), VOTES)
def test_three_votes_against_one_are_one_pair(preset, method):
    """Preference .75 and weight 4 of the first pair; the second is one vote for its chosen."""
    config = dpo.DpoConfig(method=method, compat=preset)
    arrays = pair(3)
    soft = {
        **arrays,
        "preference": np.array([0.75, 1.0], np.float32),
        "pair_weight": np.array([4.0, 1.0], np.float32),
    }
    other = turned(arrays)
    which = np.array([0, 0, 0, 1])  # rows of `arrays`, and last one of `other`
    apart = {name: np.concatenate([x[which], other[name][:1]]) for name, x in arrays.items()}
    one, many = config.terms(soft), config.terms(apart)
    assert one.keys() == many.keys()
    for name, term in one.items():
        np.testing.assert_allclose(term.value, many[name].value, rtol=2e-6, atol=1e-7)
        np.testing.assert_allclose(term.weight, many[name].weight, rtol=1e-6)
    merged, votes = gradients(config, soft), gradients(config, apart)
    for side, back in (("chosen", "rejected"), ("rejected", "chosen")):
        by_hand = jnp.stack([votes[side][:3].sum(0) + votes[back][4], votes[side][3]])
        size = float(jnp.abs(by_hand).max())
        assert size > 0 or method == "chosen_nll"
        np.testing.assert_allclose(merged[side], by_hand, rtol=1e-4, atol=1e-6 * max(size, 1))


def test_a_pair_of_no_weight_and_infinite_loss_never_reaches_the_sum():
    config = dpo.DpoConfig(method="ipo")
    arrays = pair(1)
    arrays["chosen_logprobs"] = arrays["chosen_logprobs"].copy()
    arrays["chosen_logprobs"][1, 0] = -np.inf
    soft = {**arrays, "pair_weight": np.array([2.0, 0.0], np.float32)}
    alone = {name: x[:1] for name, x in arrays.items()}
    np.testing.assert_allclose(
        config.terms(soft)["ipo"].value, config.terms(alone)["ipo"].value, rtol=1e-6
    )


def test_bradley_terry_of_a_probability_is_cross_entropy_and_a_margin_turns_with_the_pair():
    recipe = compat.recipe("paper", "bradley_terry", table="pairs")
    rng = np.random.default_rng(0)
    scores = {f"{side}_scores": rng.normal(size=5).astype(np.float32) for side in dpo.SIDES}
    margin, p = rng.normal(size=5).astype(np.float32), rng.uniform(size=5).astype(np.float32)
    weight = rng.uniform(1, 3, 5).astype(np.float32)
    terms = recipe({**scores, "margin": margin, "preference": p, "pair_weight": weight})
    gap = scores["chosen_scores"] - scores["rejected_scores"] - margin
    by_hand = -p * np.log(1 / (1 + np.exp(-gap))) - (1 - p) * np.log(1 / (1 + np.exp(gap)))
    value = next(iter(terms.values())).value
    np.testing.assert_allclose(value, (weight * by_hand).sum() / weight.sum(), rtol=1e-5)


@pytest.mark.parametrize("method", ["aot", "aot_unpaired"])
def test_a_loss_that_sorts_the_batch_refuses_votes(method):
    config = dpo.DpoConfig(method=method)
    arrays = {**pair(0), "preference": np.array([0.7, 1.0], np.float32)}
    with pytest.raises(ValueError, match="sorts all pairs of a batch, must have no preference"):
        config.terms(arrays)

"""Recipes for language models, reward models and distillation: by hand, and in micro-batches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import compat
from alignjax.compat.paper import language

LOG2, LOG3 = math.log(2), math.log(3)
MASK = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
B, T, V, N = 4, 3, 5, 3


def draw(seed=0):
    """Arrays under every name that a recipe of this file may ask for, [B, ...] all of them."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, B))
    return {
        "token_logprobs": -rng.exponential(size=(B, T)),
        "logsumexp": rng.normal(size=(B, T)),
        "mean_logits": rng.normal(size=(B, T)),
        "chosen_scores": scores[0],
        "rejected_scores": scores[1],
        "student_logits": rng.normal(size=(B, T, V)),
        "teacher_logits": rng.normal(size=(B, T, V)),
    }


OTHERS = {
    "plackett_luce": {"scores": (B, N), "ranks": (B, N)},
    "all_pairs": {"scores": (B, N), "ranks": (B, N)},
    "score_regression": {"scores": (B,), "targets": (B,)},
    "outcome_reward": {"logits": (B,), "labels": (B,)},
    "process_reward": {"logits": (B, T), "labels": (B, T)},
}
MASKS = {"plackett_luce": np.array([[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 0, 0]])}
MASKS["all_pairs"] = MASKS["plackett_luce"]
MASKED = {"score_regression": False, "outcome_reward": False, "bradley_terry": False}


def arrays_for(method):
    """What the method takes; labels and ranks are like those of data."""
    rng, arrays = np.random.default_rng(1), draw()
    for name, shape in OTHERS.get(method, {}).items():
        arrays[name] = rng.random(shape) if name == "labels" else rng.normal(size=shape)
    if MASKED.get(method, True):
        arrays["mask"] = MASKS.get(method, MASK)
    return arrays


def objective(terms):
    return sum(term.value for term in terms.values())


def near(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", language.RECIPES)
def test_micro_batches_join_to_the_batch(method):
    """Parts of unlike length: means of means would differ."""
    recipe, arrays = compat.recipe("paper", method), arrays_for(method)
    whole = recipe(arrays)
    first, second = (
        recipe({name: x[part] for name, x in arrays.items()}) for part in (slice(1), slice(1, B))
    )
    for term in whole:
        near((first[term] + second[term]).value, whole[term].value)
        near(first[term].weight + second[term].weight, whole[term].weight)


@pytest.mark.parametrize("method", language.RECIPES)
def test_weights_do_not_depend_on_numbers(method):
    recipe, arrays = compat.recipe("paper", method), arrays_for(method)
    other = {name: x if name == "mask" else 0.5 * x for name, x in arrays.items()}
    for a, b in zip(recipe(arrays).values(), recipe(other).values(), strict=True):
        assert float(a.weight) == float(b.weight)


@pytest.mark.parametrize("method", language.RECIPES)
def test_what_is_missing_is_named(method):
    recipe = compat.recipe("paper", method)
    with pytest.raises(ValueError, match=f"must be among the arrays of paper {method}; got"):
        recipe({"mask": MASK})


def test_language_models_by_hand():
    arrays = {"token_logprobs": jnp.log(jnp.array([[0.5, 0.25, 0.1], [0.5, 0.5, 0.5]]))}
    arrays["mask"] = np.array([[1, 1, 0], [1, 0, 0]])
    near(objective(compat.recipe("paper", "token_nll")(arrays)), 4 / 3 * LOG2)
    near(objective(compat.recipe("paper", "dft")(arrays)), (0.5 + 0.5 + 0.5) / 3 * LOG2)
    arrays |= {"logsumexp": jnp.full((2, 3), 2.0), "mean_logits": jnp.full((2, 3), -1.0)}
    smoothed = compat.recipe("paper", "smoothed_nll")(arrays, label_smoothing=0.25)
    near(objective(smoothed), 0.75 * 4 / 3 * LOG2 + 0.25 * 3)
    near(objective(compat.recipe("paper", "z_loss")(arrays, coefficient=0.5)), 2.0)


def test_rewards_by_hand():
    arrays = {"chosen_scores": jnp.array([LOG3, 0.0]), "rejected_scores": jnp.array([0.0, LOG3])}
    reward = compat.recipe("paper", "bradley_terry")
    near(objective(reward(arrays)), 2 * LOG2 - LOG3 / 2)
    centred = reward(arrays, center_coefficient=0.1)
    near(centred["center"].value, 0.1 * LOG3**2)
    near(objective(centred), 2 * LOG2 - LOG3 / 2 + 0.1 * LOG3**2)
    moved = reward({**arrays, "margin": jnp.array([LOG3, -LOG3])})
    near(objective(moved), LOG2)
    one = reward({**arrays, "pair_mask": np.array([1, 0])}, center_coefficient=0.1)
    near(objective(one), 2 * LOG2 - LOG3 + 0.1 * LOG3**2)
    steps = {
        "logits": jnp.array([[[0.0, LOG3], [5.0, 5.0], [LOG3, 0.0]]]),
        "labels": jnp.array([[1.0, 0.0, 1.0]]),
        "mask": np.array([[1, 0, 1]]),
    }
    near(objective(compat.recipe("trl-1.13", "process_reward")(steps)), 2 * LOG2 - LOG3 / 2)
    ranked = {"scores": jnp.zeros((2, 3)), "ranks": jnp.array([[0.0, 1, 2], [0, 1, 2]])}
    ranked["mask"] = np.array([[1, 1, 1], [1, 0, 0]])  # one prompt with nothing to compare
    near(objective(compat.recipe("paper", "plackett_luce")(ranked)), math.log(6))
    near(objective(compat.recipe("paper", "all_pairs")(ranked)), LOG2)


def test_distillation_by_hand():
    """Student (1/2, 1/2), teacher (3/4, 1/4); the masked token does not count."""
    arrays = {
        "student_logits": jnp.zeros((1, 2, 2)),
        "teacher_logits": jnp.array([[[LOG3, 0.0], [9.0, 0.0]]]),
        "mask": np.array([[1, 0]]),
    }
    forward, reverse = 0.75 * LOG3 - LOG2, LOG2 - LOG3 / 2
    near(objective(compat.recipe("paper", "forward_kl")(arrays)), forward)
    near(objective(compat.recipe("paper", "reverse_kl")(arrays)), reverse)
    for preset, method in (("paper", "generalised_jsd"), ("trl-1.16", "distillation")):
        recipe = compat.recipe(preset, method)
        near(objective(recipe(arrays, beta=0.0)), forward)
        near(objective(recipe(arrays, beta=1.0)), reverse)
    softer = compat.recipe("paper", "forward_kl")(arrays, temperature=0.5)  # teacher (9/10, 1/10)
    near(objective(softer), 0.9 * math.log(9) - math.log(5))
    defaults = {
        p: compat.recipe("trl-1.16", p).defaults for p in ("generalised_jsd", "distillation")
    }
    assert defaults["generalised_jsd"]["beta"] == 0.5
    assert defaults["distillation"]["beta"] == 1.0
    with pytest.raises(ValueError, match="temperature must be finite and > 0; got 0"):
        compat.recipe("paper", "forward_kl")(arrays, temperature=0.0)


def test_no_gradient_reaches_the_teacher():
    arrays = {**draw(), "mask": MASK}
    recipe = compat.recipe("paper", "generalised_jsd")

    def loss(student, teacher):
        return objective(recipe({**arrays, "student_logits": student, "teacher_logits": teacher}))

    logits = arrays["student_logits"], arrays["teacher_logits"]
    student, teacher = jax.grad(loss, (0, 1))(*logits)
    assert np.any(np.asarray(student) != 0)
    np.testing.assert_array_equal(teacher, 0)

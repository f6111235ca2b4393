"""Exact gradients of a tabular policy: all groups of samples of one prompt, each as often as drawn.

A prompt that is solved at rate p moves its log-odds by w(p) (online_rl.md 5.1; E14 of science.md);
here w is read off the gradient of the whole pipeline: samples, rewards, advantages, loss.
"""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import training
from alignjax.algorithms import grpo, reinforce
from alignjax.rollouts import experience
from alignjax.sampling import transforms
from alignjax.training import update
from tests.losses import test_group_weights as weights
from tests.rollouts import bigram, hand, learner

VOCAB, PROMPT = 4, 3  # a row is the prompt's one token and one answer
MODEL = bigram.bigram(VOCAB)
SAMPLING = transforms.SamplingConfig(max_new_tokens=1)
RIGHT = {"rare": [3], "even": [0, 2], "common": [0, 1, 2]}  # answers that are right


def policy():
    return {"logits": jnp.asarray(np.random.default_rng(5).normal(size=(VOCAB, VOCAB)))}


def law():
    """Probabilities of the answers."""
    return np.asarray(jax.nn.softmax(policy()["logits"][PROMPT]), np.float64)


def rows_of(answers):
    """Samples of groups of answers [P, G]."""
    prompts, size = answers.shape
    flat = answers.reshape(-1)
    tokens = np.stack([np.full(len(flat), PROMPT), flat], axis=1).astype(np.int32)
    mask = np.tile([[False, True]], (len(flat), 1))
    logprobs = np.where(mask, np.log(law())[flat][:, None], 0.0).astype(np.float32)
    two = np.full(len(flat), 2, np.int32)
    return hand.samples(
        prompts, size, tokens=tokens, mask=mask, logprobs=logprobs, lengths=two,
        prompt_lengths=two - 1, ended=np.ones(len(flat), bool),
    )  # fmt: skip


def expected_gradient(config, right, *, kept=False):
    """(gradient with respect to the logits behind the prompt, p), over all groups of answers.

    kept: of a group that has both right and wrong answers.
    """
    size = config.group
    answers = np.array(list(itertools.product(range(VOCAB), repeat=size)))
    chances = law()[answers].prod(1)
    rewards = np.isin(answers, right).astype(np.float32)
    if kept:
        mixed = np.ptp(rewards, axis=1) > 0
        answers, rewards, chances = answers[mixed], rewards[mixed], chances[mixed]
        chances = chances / chances.sum()
    method = learner.make(config, 1, MODEL)
    needs = experience.needs_of(config, config.recipe.reads, config.needs)
    networks = experience.Networks(MODEL, MODEL)
    frozen = {"reference": policy()}
    run = experience.make_experience(networks, config, needs)
    gradient = jax.jit(update.make_gradients(method.loss))
    total = np.zeros(VOCAB)
    for group, reward, chance in zip(answers, rewards, chances, strict=True):
        rows, _, _ = run(policy(), None, frozen, rows_of(group[None]), hand.found(reward), None)
        found, _ = gradient(policy(), frozen, rows, learner.KEY)
        assert not np.delete(np.asarray(found["logits"]), PROMPT, axis=0).any()
        total += chance * np.asarray(found["logits"], np.float64)[PROMPT]
    return total, float(law()[right].sum())


def gradient_of_log_odds(right):
    def log_odds(logits):
        probabilities = jax.nn.softmax(logits)
        p = jnp.sum(probabilities[jnp.asarray(right)])
        return jnp.log(p) - jnp.log(1 - p)

    return np.asarray(jax.grad(log_odds)(policy()["logits"][PROMPT]), np.float64)


def own(name, **changes):
    options = {"reward": "gold", "sampling": SAMPLING, **changes}
    if name == "reinforce":
        return reinforce.ReinforceConfig(**options)
    return grpo.GrpoConfig(method=name, **options)


# Method, its options, the estimator of test_group_weights whose w(p) it must have.
PIPELINES = {
    "rloo": ("reinforce", {"advantages": "leave_one_out"}, "rloo"),
    "grpo without std": ("grpo", {"kl_weight": 0.0}, "mean"),
    "grpo": ("grpo", {"kl_weight": 0.0, "scale": "group"}, "std1"),
    "dr_grpo": ("dr_grpo", {"length": 1.0}, "mean"),
    "dapo": ("dapo", {}, "mean"),
    "gspo": ("gspo", {}, "mean"),
    "max_rl": ("dapo", {"advantages": "max_rl"}, "max_rl"),
    "opo": ("reinforce", {"advantages": "opo"}, "mean"),
    "trl dapo": ("dapo", {"compat": "trl-1.16", "scale": "none"}, "mean"),
    "tunix rloo": ("dapo", {"compat": "tunix-0.1.7", "advantages": "leave_one_out"}, "rloo"),
    "verl grpo": ("ppo_clip", {"compat": "verl-0.9"}, "std1"),
    "openrlhf": ("ppo_clip", {"compat": "openrlhf-0.11", "advantages": "leave_one_out"}, "rloo"),
}  # fmt: skip


def check_weight(name, right, size, **changes):
    method, options, estimator = PIPELINES[name]
    config = own(method, group=size, **{**options, **changes})
    kept = changes.get("dead") == "drop"
    found, p = expected_gradient(config, RIGHT[right], kept=kept)
    w = weights.weight(weights.ESTIMATORS[estimator], p, size, kept=kept)
    wanted = -w * gradient_of_log_odds(RIGHT[right])  # a loss goes down where rewards go up
    assert np.abs(wanted).max() > 0.01
    # 1e-4 is added to standard deviations, which the table leaves out.
    np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-3 if "std" in estimator else 1e-5)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_prompt_moves_by_its_weight(name):
    check_weight(name, "rare", 3)


@pytest.mark.slow
@pytest.mark.parametrize(("right", "size"), [("even", 2), ("common", 3), ("even", 4)])
@pytest.mark.parametrize("name", PIPELINES)
def test_at_other_rates_and_sizes(name, right, size):
    check_weight(name, right, size)


@pytest.mark.parametrize("name", ["dapo", "rloo"])
def test_groups_that_are_dropped_change_the_objective(name):
    """Per group that is kept, as the table of dynamic sampling has it."""
    check_weight(name, "rare", 3, dead="drop")


# --- the optimum of a KL-regularised reward -----------------------------------------------------

BETA = 0.5
VALUES = np.array([0.0, 0.7, -0.4, 1.0])


def exact_optimum():
    tilted = law() * np.exp(VALUES / BETA)
    return tilted / tilted.sum()


@functools.cache
def learned():
    """Probabilities behind RLOO's steps, from samples alone, at a rate that goes to 0."""
    config = own("reinforce", advantages="leave_one_out", group=16, kl_in_reward=BETA)

    def reward(frozen, samples, columns):
        return jnp.asarray(VALUES, jnp.float32)[samples.tokens[:, 1]]

    count, rows = 250, 16
    method = learner.make(config, 1, MODEL, reward=reward, prompts=rows, reference=None)
    tx = optax.sgd(optax.linear_schedule(2.0, 0.0, count))
    prompts = {
        "prompts": np.full((rows, 1), PROMPT, np.int32),
        "lengths": np.ones(rows, np.int32),
        "index": np.arange(rows, dtype=np.int32),
    }
    state = training.initial_state(method, tx, start={"policy": policy()})
    frozen = {"reference": policy()}
    steps = training.steps(
        method, lambda step: prompts, tx, state=state, frozen=frozen, until=count
    )
    last = collections.deque(steps, maxlen=1)[0][0]
    return np.asarray(jax.nn.softmax(last.params["logits"][PROMPT]), np.float64)


def test_rloo_reaches_the_optimum_of_the_regularised_reward():
    before = np.abs(law() - exact_optimum()).sum() / 2
    after = np.abs(learned() - exact_optimum()).sum() / 2
    assert before > 0.15
    assert after <= 1e-2

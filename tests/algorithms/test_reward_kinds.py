"""Reward models of rankings, scores, labels and steps: losses by hand, micro-batches, refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.algorithms import process_reward, ranked_reward, reward, scored_reward
from alignjax.core import struct
from alignjax.models import scoring, transformer
from alignjax.training import stepping, update
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
ROWS = 8


def params(head=True):
    policy = jax.jit(MODEL.init)(jax.random.key(7))
    scalar = 0.5 * jax.random.normal(jax.random.key(8), (policy.norm.size,))
    return struct.replace(MODEL.with_scalar(policy), scalar=scalar if head else 0 * scalar)


def rankings():
    """Three answers a prompt: ties, a partial ranking, and one that is not there."""
    ranks = np.tile(np.array([0, 1, 2], np.float32), (ROWS, 1))
    ranks[1] = [0, 0, 1]
    ranks[2] = [0, np.inf, np.inf]
    mask = np.ones((ROWS, 3), bool)
    mask[3, 2] = False
    return {**tiny.rows(5, ROWS, 3), "ranks": ranks, "answer_mask": mask}


def scored(labels=False):
    scores = np.linspace(-1, 2, ROWS).astype(np.float32)
    return {**tiny.rows(5, ROWS), "scores": (scores > 0).astype(np.float32) if labels else scores}


def steps():
    rows = tiny.rows(5, ROWS)
    mask = rows["loss_mask"] & (np.arange(tiny.LENGTH) % 2 == 1)
    labels = (np.arange(ROWS)[:, None] % 2 == 0) & mask
    return {**rows, "step_mask": mask, "step_labels": labels.astype(np.float32)}


CASES = {
    "plackett_luce": (ranked_reward.ranked_reward, ranked_reward.RankedRewardConfig(), rankings()),
    "all_pairs": (
        ranked_reward.ranked_reward,
        ranked_reward.RankedRewardConfig(method="all_pairs"),
        rankings(),
    ),
    "score_regression": (
        scored_reward.scored_reward,
        scored_reward.ScoredRewardConfig(),
        scored(),
    ),
    "outcome_reward": (
        scored_reward.scored_reward,
        scored_reward.ScoredRewardConfig(method="outcome_reward"),
        scored(labels=True),
    ),
    "process_reward": (
        process_reward.process_reward,
        process_reward.ProcessRewardConfig(),
        steps(),
    ),
    "process_reward-trl": (
        process_reward.process_reward,
        process_reward.ProcessRewardConfig(compat="trl-1.13"),
        steps(),
    ),
}


def ready(name):
    make, config, data = CASES[name]
    return make(MODEL, config), {n: jnp.asarray(x) for n, x in data.items()}


def loss_of(name, tree):
    own, batch = ready(name)
    terms, _ = own.loss(tree, {}, batch, jax.random.key(0))
    (value,) = (float(term.value) for term in terms.values())
    return value


def scores_by_hand(data, tree):
    rows = scoring.flatten_choices({n: jnp.asarray(x) for n, x in data.items()})
    rows = {n: rows[n] for n in ("tokens", "segments", "positions")}
    return np.asarray(scoring.sequence_scores(MODEL, tree, rows))


def test_plackett_luce_by_hand():
    tree, data = params(), rankings()
    scores = scores_by_hand(data, tree).reshape(ROWS, 3)
    total = 0.0
    for row, ranks, mask in zip(scores, data["ranks"], data["answer_mask"], strict=True):
        for i in range(3):
            if mask[i] and np.isfinite(ranks[i]):
                later = [row[j] for j in range(3) if mask[j] and ranks[j] >= ranks[i]]
                total += math.log(sum(math.exp(s) for s in later)) - row[i]
    assert loss_of("plackett_luce", tree) == pytest.approx(total / ROWS, rel=1e-4)


def test_scores_and_labels_by_hand():
    tree = params()
    data = scored()
    found = scores_by_hand(data, tree)
    by_hand = ((found - data["scores"]) ** 2).mean()
    assert loss_of("score_regression", tree) == pytest.approx(by_hand, rel=1e-4)
    labels = scored(labels=True)["scores"]
    by_hand = (np.logaddexp(0, found) - labels * found).mean()
    assert loss_of("outcome_reward", tree) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("name", ["process_reward", "process_reward-trl"])
def test_steps_are_judged_at_their_places(name):
    """By the state after a step's last token, whatever that token is."""
    tree, data = params(), steps()
    batch = {n: jnp.asarray(x) for n, x in data.items()}
    logits = np.asarray(MODEL.scalar(tree, scoring.hidden_states(MODEL, tree, batch)))
    each = np.logaddexp(0, logits) - data["step_labels"] * logits
    assert loss_of(name, tree) == pytest.approx(each[data["step_mask"]].mean(), rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_micro_batches_change_nothing(name):
    own, batch = ready(name)
    results = [
        jax.jit(update.make_gradients(own.loss, micro_batches=n))(
            params(), {}, batch, jax.random.key(0)
        )
        for n in (1, 4)
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        results[0][0],
        results[1][0],
    )
    for metric, value in results[0][1].items():
        np.testing.assert_allclose(value.value, results[1][1][metric].value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_first_loss_is_that_of_a_zero_head(name):
    own, batch = ready(name)
    _, metrics = own.loss(params(head=False), {}, batch, jax.random.key(0))
    stepping.check_first(own.first(batch), metrics)
    if name.startswith("process"):
        assert own.first(batch)["process_reward"].value == pytest.approx(math.log(2))
        _, metrics = own.loss(params(), {}, batch, jax.random.key(0))
        with pytest.raises(RuntimeError, match="the first update must find"):
            stepping.check_first(own.first(batch), metrics)


def test_labels_outside_0_and_1_are_refused():
    own, _ = ready("outcome_reward")
    with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\] for outcome_reward"):
        own.prepare(scored())


def test_margins_reach_bradley_terry():
    own = reward.reward(MODEL, reward.RewardConfig())
    batch = {n: jnp.asarray(x) for n, x in tiny.rows(5, ROWS, 2).items()}
    tree = params()
    _, plain = own.loss(tree, {}, batch, jax.random.key(0))
    margin = np.full((ROWS, 1), 0.7, np.float32)
    with_margin = {**batch, "margin": jnp.asarray(margin)}
    _, moved = own.loss(tree, {}, with_margin, jax.random.key(0))
    scores = scores_by_hand(tiny.rows(5, ROWS, 2), tree).reshape(ROWS, 2)
    gap = scores[:, 0] - scores[:, 1]
    for found, by in ((plain, 0.0), (moved, 0.7)):
        by_hand = np.logaddexp(0, -(gap - by)).mean()
        np.testing.assert_allclose(found["bradley_terry"].value, by_hand, rtol=1e-4)
    assert own.first(with_margin) == {}


@pytest.mark.parametrize(
    ("preset", "options"), [("paper", {}), ("trl-1.16", {}), ("openrlhf-0.11", {})]
)
def test_presets_of_bradley_terry(preset, options):
    config = reward.RewardConfig(compat=preset, **options)
    config.validate()
    assert config.formula().startswith(f"{preset} bradley_terry")
    with pytest.raises(ValueError, match=r"must be one of .*bradley_terry.* does not read scores"):
        reward.RewardConfig(method="dpo").validate()


@pytest.mark.parametrize(
    ("options", "column", "by_hand"),
    [
        (
            {"method": "davidson", "tie_strength": 0.5},
            "ties",
            lambda d, t: (
                np.log(np.exp(d / 2) + np.exp(-d / 2) + 0.5) - (1 - t) * d / 2 - t * np.log(0.5)
            ),
        ),
        (
            {"method": "rao_kupper", "threshold": 0.3},
            "ties",
            lambda d, t: (
                -np.log(
                    (1 / (1 + np.exp(0.3 - d))) ** (1 - t)
                    * (1 - 1 / (1 + np.exp(0.3 - d)) - 1 / (1 + np.exp(0.3 + d))) ** t
                )
            ),
        ),
        (
            {"method": "rater_noise", "accuracy": 0.7},
            "accuracies",
            lambda d, a: -np.log(a / (1 + np.exp(-d)) + (1 - a) / (1 + np.exp(d))),
        ),
    ],
)
def test_ties_and_accuracies_reach_the_reward_model(options, column, by_hand):
    model = transformer.transformer(tiny.shape())
    own = reward.reward(model, reward.RewardConfig(**options))
    tree = params()
    batch = {n: jnp.asarray(x) for n, x in tiny.rows(5, ROWS, 2).items()}
    values = np.linspace(0.5, 1.0, ROWS, dtype=np.float32)[:, None]
    scores = scores_by_hand(tiny.rows(5, ROWS, 2), tree).reshape(ROWS, 2)
    gap = scores[:, 0] - scores[:, 1]
    for extra, each in (({}, 0.7 if column == "accuracies" else 0.0), ({column: values}, None)):
        terms, metrics = own.loss(tree, {}, {**batch, **extra}, jax.random.key(0))
        want = by_hand(gap, values[:, 0] if each is None else each).mean()
        np.testing.assert_allclose(terms[options["method"]].value, want, rtol=1e-4)
        assert "accuracy" in metrics


def test_bad_numbers_of_judgements_are_refused():
    for options, message in (
        ({"method": "rater_noise", "accuracy": 0.5}, r"accuracy must be .*\(algorithm\)"),
        ({"method": "davidson", "tie_strength": 0.0}, "tie_strength must be"),
        ({"method": "bradley_terry", "accuracy": 0.9}, "option of paper bradley_terry"),
    ):
        with pytest.raises(ValueError, match=message):
            reward.RewardConfig(**options).validate()

"""From prompts to updates: one policy samples and trains, rewards stay with rows, runs stop."""

import jax
import numpy as np
import pytest

from alignjax.core import errors
from alignjax.rollouts import collection
from alignjax.training import method
from tests.rollouts import learner, steps
from tests.training import tiny

WAYS = {
    "one update": {},
    "several updates": {"epochs": 2, "minibatches": 2},
    "kl in the reward": {"kl_in_reward": 0.1, "advantages": "leave_one_out"},
    "packed": {"pack": True},
    "a step behind": {"lag": 1, "correction": "truncate"},
}


def check_sampler_and_trainer(**changes):
    """Both give each sampled token the same probability, while the policy moves."""
    found = [metrics for _, metrics in steps.follow(steps.config(**changes), 3)]
    assert all(metrics["drift"] < 1e-3 for metrics in found), found
    assert found[0]["grad_norm"] > 1e-3
    return found


@pytest.mark.parametrize("way", WAYS)
def test_sampler_and_trainer_agree(way):
    found = check_sampler_and_trainer(**WAYS[way])
    assert all(metrics["skipped"] == 0 for metrics in found)
    assert all(0 <= metrics["reward"] <= 1 for metrics in found)


@pytest.mark.parametrize("pack", [False, True])
def test_the_first_ratio_is_one(pack):
    """At the parameters that sampled, whatever program computes the old log-probabilities."""
    made = steps.config(epochs=2, pack=pack)
    rows, _, _ = steps.collect(made)
    _, metrics = learner.gradient(made, rows, learner.policy(0))
    assert float(metrics["ratio_deviation"].value) < 2e-6
    _, metrics = learner.gradient(made, rows, learner.policy(1))
    assert float(metrics["ratio_deviation"].value) > 1e-3


def check_own_rewards(**options):
    """A row's advantage is its own reward less the mean of its group's."""
    rows, _, metrics = steps.collect(steps.config(), **options)
    rows = {name: np.asarray(x) for name, x in rows.items()}
    low = ((rows["tokens"] < tiny.VOCAB // 2) & rows["loss_mask"]).sum(1)
    rewards = (low / rows["loss_mask"].sum(1)).reshape(-1, 4)
    assert np.ptp(rewards, axis=1).max() > 0.2
    wanted = rewards - rewards.mean(1, keepdims=True)
    np.testing.assert_allclose(rows["advantages"], wanted.reshape(-1), atol=1e-6)
    np.testing.assert_allclose(float(metrics["reward"].value), rewards.mean(), rtol=1e-5)
    prompts = rows["tokens"].reshape(-1, 4, rows["tokens"].shape[1])[:, :, :2]
    assert (prompts == prompts[:, :1]).all()  # a group is of one prompt


def test_rows_keep_their_rewards():
    check_own_rewards()


def check_the_end_is_trained(**options):
    """Every sampled token counts, the one that ends a row as well, and no other."""
    rows, _, metrics = steps.collect(steps.config(), model=learner.TABLE, **options)
    tokens, mask = np.asarray(rows["tokens"]), np.asarray(rows["loss_mask"])
    lengths = np.asarray(rows["segments"]).sum(1)
    ended = tokens[np.arange(len(tokens)), lengths - 1] == tiny.EOS
    assert 0 < ended.sum() < len(ended)
    assert mask[np.arange(len(tokens)), lengths - 1].all()
    assert (mask.sum(1)[~ended] == tiny.NEW).all()
    assert float(metrics["cut"].value) == pytest.approx(1 - ended.mean())
    assert not mask[:, :2].any()


def test_the_end_is_trained():
    check_the_end_is_trained()


def test_sampling_lags_exactly_one_step_behind():
    """The first two steps sample from the start, then each from the policy before its update."""
    made = steps.config(lag=1, correction="truncate")
    before, metrics = [learner.policy(0)], []
    for number, (state, found) in enumerate(steps.follow(made, 4)):
        params, version = state.carry["behind"]
        assert int(version) == number
        jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(before[-1]))
        before.append(state.params)
        metrics.append(found)
    assert abs(metrics[0]["correction"] - 1) < 1e-5
    assert abs(metrics[2]["correction"] - 1) > 1e-5  # another policy's samples


# --- runs that can't go on ----------------------------------------------------------------------


def stopped(made, message, count=8, model=learner.TABLE, **options):
    with pytest.raises(errors.Failure, match=message) as caught:
        list(steps.follow(made, count, model=model, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_steps_without_signal_stop_the_run():
    made = steps.config(patience=3)
    taken = []
    run = steps.follow(made, 8, model=learner.TABLE, reward=steps.always(0.0))
    with pytest.raises(errors.Failure, match="3 steps in a row had none"):
        taken.extend(int(state.carry["barren"]) for state, _ in run)
    assert taken == [1, 2]
    said = stopped(made, "a group whose rewards differ", reward=steps.always(1.0))
    assert "mean reward 1, 100% of groups all at 1" in said
    assert "Use easier or harder prompts" in said


def test_verifiers_that_fail_stop_the_run():
    said = stopped(steps.config(), "rewards must be computed", reward=steps.always(1.0, 0.25))
    assert "for all but 5% of a step's rows; 25% failed" in said
    assert "no 0; gold: RuntimeError: no 1; gold: RuntimeError: no 2" in said
    enough = steps.config(max_failures=0.25, patience=9)
    found = [
        m for _, m in steps.follow(enough, 1, model=learner.TABLE, reward=steps.always(1, 0.25))
    ]
    assert found[0]["failed"] == 0.25
    assert found[0]["unscored"] == 0.0


def task_of(told, journal=None):
    return method.Task(
        eos=tiny.EOS, pad=tiny.PAD, length=10, prompt_length=4, tell=told.append, journal=journal,
        text=lambda ids: " ".join(map(str, ids)),
    )  # fmt: skip


def test_a_part_that_never_moves_is_told_once():
    told = []
    task = task_of(told)
    made = steps.config(patience=99)
    list(steps.follow(made, 22, model=learner.TABLE, reward=steps.always(0.5), task=task))
    lines = [line for line in told if "teaches nothing" in line]
    assert lines == [
        "the reward's part gold was 0.5 on every row of 20 steps: it teaches nothing. Look at "
        "samples.jsonl."
    ]
    assert collection.CONSTANT == 20


def test_the_first_group_is_shown():
    shown = []
    task = task_of([], lambda step, rows: shown.append((step, rows)))
    list(steps.follow(steps.config(), 2, model=learner.TABLE, task=task))
    assert [step for step, _ in shown] == [0, 1]
    rows = shown[0][1]
    assert [row["sample"] for row in rows] == [0, 1, 2, 3]
    assert len({row["task"] for row in rows}) == len({row["prompt"] for row in rows}) == 1
    for row in rows:
        ids = [int(word) for word in row["text"].split()]
        assert row["tokens"] == len(ids)
        assert row["reward"] == pytest.approx(np.mean(np.array(ids) < tiny.VOCAB // 2))
        assert row["cut"] == (ids[-1] != tiny.EOS)
    rewards = np.array([row["reward"] for row in rows])
    found = [row["advantage"] for row in rows]
    np.testing.assert_allclose(found, rewards - rewards.mean(), atol=1e-6)


def test_a_drifting_sampler_stops_the_run():
    """The limit is the configuration's; one below rounding is missed by a transformer, which the
    sampler reads token by token, and the trainer at once."""
    message = "sampler and trainer log-probabilities differ"
    said = stopped(steps.config(max_drift=1e-12), message, model=learner.MODEL)
    assert "the limit is 1e-12 (max_drift)" in said
    stopped(steps.config(max_drift=1e-12, epochs=2), message, model=learner.MODEL)

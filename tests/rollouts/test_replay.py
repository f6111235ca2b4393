"""Groups of earlier steps that stand in for groups without signal, by hand and over steps."""

import jax
import numpy as np
import pytest

from alignjax.rollouts import replay, select
from tests.rollouts import hand, steps
from tests.training import tiny

WIDTH = tiny.PROMPT + tiny.NEW
DEAD, MIXED = [1, 1, 1], [0, 1, 0]


def config(**changes):
    return hand.config(replay=2, correction="truncate", **changes)


def step(own, stored, rewards, tasks):
    """(chosen groups, what is told, metrics) of groups with these rewards and tasks."""
    rows = np.repeat(np.asarray(tasks, np.int32), 3)
    drawn = hand.samples(len(rewards), 3, seed=tasks[0], task=rows, version=rows // 10)
    run = jax.jit(lambda *arguments: select.choose(own, *arguments))
    chosen, told, metrics = run(drawn, hand.found(rewards), None, stored)
    return jax.device_get(chosen), jax.device_get(told), metrics, drawn


def tasks_of(samples, size=3):
    return np.asarray(samples.task).reshape(-1, size)[:, 0].tolist()


def test_the_newest_groups_stand_in_once_each():
    own = config()
    stored = replay.empty(own, WIDTH)
    chosen, told, metrics, first = step(own, stored, [MIXED, DEAD, MIXED], [10, 11, 12])
    assert tasks_of(chosen.samples) == [10, 12, 11]  # nothing is stored yet
    assert not chosen.replayed.any()
    assert float(metrics["replayed"].value) == 0
    assert float(metrics["trained"].value) == pytest.approx(2 / 3)
    stored = told["replay"]
    assert int(stored.count) == 2
    assert tasks_of(stored.samples) == [10, 12]

    chosen, told, metrics, _ = step(own, stored, [DEAD, MIXED, DEAD, DEAD], [20, 21, 22, 23])
    # One informative group, two stored ones, and the first dead one where none is left.
    assert tasks_of(chosen.samples) == [21, 10, 12, 23]
    assert chosen.replayed.reshape(-1, 3)[:, 0].tolist() == [False, True, True, False]
    assert float(metrics["replayed"].value) == pytest.approx(2 / 4)
    assert float(metrics["trained"].value) == pytest.approx(3 / 4)
    assert float(metrics["dead"].value) == pytest.approx(3 / 4)  # of what was sampled
    old = np.asarray(first.tokens).reshape(3, 3, -1)
    np.testing.assert_array_equal(chosen.samples.tokens[3:6], old[0])
    np.testing.assert_array_equal(
        chosen.samples.logprobs[6:9], np.asarray(first.logprobs)[6:9]
    )  # of the policy that sampled, for the correction
    assert chosen.reward[3:9].tolist() == [0, 1, 0] * 2
    assert chosen.samples.version.reshape(-1, 3)[:, 0].tolist() == [2, 1, 1, 2]
    assert tasks_of(told["replay"].samples) == [21, 10]  # the oldest has left
    assert told["informative"].tolist() == [False, True, False, False]
    assert np.isnan(chosen.parts["gold"][3:9]).all()


def test_rows_without_a_score_stay_out_when_they_are_replayed():
    own = config()
    stored = replay.empty(own, WIDTH)
    told = step(own, stored, [[hand.NAN, 1, 0], DEAD], [10, 11])[1]
    chosen = step(own, told["replay"], [DEAD, DEAD], [20, 21])[0]
    assert chosen.valid.tolist() == [False, True, True, True, True, True]
    assert not chosen.samples.mask[0].any()
    assert chosen.samples.mask[1:].any(1).all()


def mostly_dead(number):
    """Rewards of which only every second step's differ within groups."""
    calls = iter(range(100))

    def reward(frozen, samples, columns):
        own = steps.low_tokens(frozen, samples, columns)
        return own if next(calls) % 2 == number else own * 0.0

    return reward


@pytest.mark.parametrize("pack", [False, True])
def test_a_step_without_signal_trains_on_stored_groups(pack):
    made = steps.config(replay=4, correction="truncate", pack=pack)
    found = [m for _, m in steps.follow(made, 4, reward=mostly_dead(0))]
    assert [round(m["replayed"], 3) for m in found] == [0, 1, 0, 1]
    assert found[1]["grad_norm"] > 1e-3
    assert all(m["drift"] < 1e-3 for m in found)  # of what this step's policy sampled
    assert found[1]["correction"] != pytest.approx(1.0, abs=1e-6)  # the policy has moved since
    alone = [m for _, m in steps.follow(steps.config(), 2, reward=mostly_dead(0))]
    assert alone[1]["grad_norm"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replay": 2}, "algorithm.correction must be truncate or mask where lag=0 and replay=2"),
        ({"replay": -1}, "algorithm.replay must be finite and >= 0"),
        (
            {"replay": 2, "correction": "mask", "advantages": "gdpo"},
            "algorithm.replay must be 0 for advantages=gdpo",
        ),
    ],
)
def test_options_that_do_not_go_with_replay(changes, words):
    with pytest.raises(ValueError, match=words):
        hand.config(**changes).validate()

"""Which rows count, which groups are trained on, and what the host is told, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.rollouts import select
from tests.rollouts import hand
from tests.training import tiny

NAN = hand.NAN
# Groups: mixed; all right; nothing right beside a row without a score; mixed beside a failed row.
REWARDS = [[1, 0, 1], [1, 1, 1], [NAN, 0, 0], [NAN, 0, 1]]
FAILED = [[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
INFORMATIVE = [True, False, False, True]
ORDER = [0, 3, 1, 2]  # informative groups first


def in_order(rows, order=ORDER, size=3):
    """Rows [P G] in the order of their groups."""
    x = np.asarray(rows)
    return x.reshape(len(order), size, *x.shape[1:])[order].reshape(x.shape)


def chosen(config, samples=None, found=None, greedy=None):
    samples = hand.samples(4, 3) if samples is None else samples
    found = hand.found(REWARDS, FAILED) if found is None else found
    run = jax.jit(lambda *arguments: select.choose(config, *arguments))
    return jax.device_get(run(samples, found, greedy))


def numbers(metrics):
    return {name: float(x.value) for name, x in metrics.items()}


def test_dead_groups_are_counted():
    drawn = hand.samples(4, 3)
    own, told, metrics = chosen(hand.config(), drawn)
    assert told["informative"].tolist() == INFORMATIVE
    np.testing.assert_allclose(told["pass_rate"], [2 / 3, 1, 0, 1 / 2])
    valid = np.array([1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1], bool)
    assert own.valid.tolist() == in_order(valid).tolist()
    assert own.reward.tolist() == in_order([1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1]).tolist()
    mask = in_order(np.asarray(drawn.mask) & valid[:, None])
    np.testing.assert_array_equal(own.samples.mask, mask)
    np.testing.assert_array_equal(own.samples.tokens, in_order(drawn.tokens))
    assert own.samples.task.tolist() == in_order(np.repeat(range(4), 3)).tolist()
    found = numbers(metrics)
    assert found["reward"] == pytest.approx(6 / 10)
    assert found["unscored"] == pytest.approx(1 / 12)
    assert found["failed"] == pytest.approx(1 / 12)
    assert found["dead"] == pytest.approx(2 / 4)
    assert found["dead_predicted"] == pytest.approx(0.6**3 + 0.4**3)
    assert found["trained"] == pytest.approx(2 / 4)
    assert found["cut"] == pytest.approx(float(np.mean(~np.asarray(drawn.ended))))
    assert found["length"] == pytest.approx(float(np.asarray(drawn.mask).sum(1).mean()))


def test_dead_groups_are_dropped():
    drawn = hand.samples(4, 3)
    own, told, metrics = chosen(hand.config(dead="drop"), drawn)
    valid = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1], bool)
    assert own.valid.tolist() == in_order(valid).tolist()
    mask = in_order(np.asarray(drawn.mask) & valid[:, None])
    np.testing.assert_array_equal(own.samples.mask, mask)
    assert told["informative"].tolist() == INFORMATIVE
    assert numbers(metrics)["dead"] == pytest.approx(2 / 4)  # of all that were sampled


@pytest.mark.parametrize("dead", ["count", "drop"])
def test_the_first_informative_candidates_are_trained_on(dead):
    drawn = hand.samples(4, 3)
    config = hand.config(candidates=2.0, dead=dead)
    own, told, metrics = chosen(config, drawn, greedy=jnp.arange(4.0))
    rows = [0, 1, 2, 9, 10, 11]
    np.testing.assert_array_equal(own.samples.tokens, np.asarray(drawn.tokens)[rows])
    assert own.samples.task.tolist() == [0, 0, 0, 3, 3, 3]
    assert own.valid.tolist() == [True, True, True, False, True, True]
    assert own.parts["gold"].shape == (6,)
    assert own.greedy.tolist() == [0, 0, 0, 3, 3, 3]
    assert len(told["informative"]) == 4
    assert numbers(metrics)["trained"] == 1.0


def test_too_few_informative_candidates_leave_rows_that_weigh_nothing():
    """The batch keeps its shape; dead groups in it do not count, whatever `dead` says."""
    found = hand.found([[1, 1, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    own, _, metrics = chosen(hand.config(candidates=2.0), found=found)
    assert own.samples.task.tolist() == [2, 2, 2, 0, 0, 0]
    assert own.valid.tolist() == [True] * 3 + [False] * 3
    assert not own.samples.mask[3:].any()
    assert numbers(metrics)["trained"] == 0.5


def ends(*ended):
    counts = np.where(np.array(ended), 2, tiny.NEW)
    slot = np.arange(tiny.PROMPT + tiny.NEW)[None]
    begin = np.full(len(ended), tiny.PROMPT)
    mask = (slot >= tiny.PROMPT) & (slot < (begin + counts)[:, None])
    return hand.samples(
        len(ended) // 3, 3, ended=np.array(ended), mask=mask, prompt_lengths=begin,
        lengths=begin + counts, logprobs=np.where(mask, -1.0, 0.0).astype(np.float32),
    )  # fmt: skip


def test_rows_cut_at_the_limit_are_kept_masked_or_penalised():
    drawn = ends(True, False, True, True, True, True)
    found = hand.found([[1, 0, 1], [1, 0, 1]])
    own, told, _ = chosen(hand.config(), drawn, found)
    assert own.valid.all()
    own, told, metrics = chosen(hand.config(overlong="mask"), drawn, found)
    assert own.valid.tolist() == [True, True, True, True, False, True]  # the mixed group first
    assert own.samples.mask.any(1).tolist() == own.valid.tolist()
    assert told["informative"].tolist() == [False, True]  # without it all of the group are alike
    assert told["pass_rate"].tolist() == [1.0, pytest.approx(2 / 3)]
    assert numbers(metrics)["cut"] == pytest.approx(1 / 6)
    assert numbers(metrics)["unscored"] == 0
    soft = hand.config(overlong="soft", overlong_buffer=3)
    own, told, metrics = chosen(soft, drawn, found)
    assert own.valid.all()
    assert own.reward.tolist() == [1, -1, 1, 1, 0, 1]
    assert numbers(metrics)["reward"] == pytest.approx(3 / 6)


def test_the_soft_penalty_is_that_of_the_equation():
    lengths = jnp.arange(13)
    found = select.soft_overlong(lengths, limit=10, buffer=4)
    np.testing.assert_allclose(found, [0] * 7 + [-0.25, -0.5, -0.75, -1, -1, -1])


def test_a_lone_sample_teaches_wherever_it_has_a_score():
    config = hand.config(group=1, advantages="no_baseline")
    drawn = hand.samples(4, 1)
    own, told, metrics = chosen(config, drawn, hand.found([1, NAN, 0, 1]))
    assert told["informative"].tolist() == [True, False, True, True]
    assert own.samples.task.tolist() == [0, 2, 3, 1]
    assert own.valid.tolist() == [True, True, True, False]
    assert not {"dead", "dead_predicted"} & set(metrics)


def test_a_greedy_answer_without_a_score_takes_its_samples_along():
    """They have no baseline: neither a loss nor a NaN comes of them."""
    config = hand.config(advantages="remax")
    own, _, _ = chosen(config, found=hand.found([[1, 0, 1]] * 4), greedy=jnp.array([1, NAN, 0, 1]))
    assert own.samples.task.tolist() == [0] * 3 + [2] * 3 + [3] * 3 + [1] * 3
    assert own.valid.tolist() == [True] * 9 + [False] * 3
    assert not own.samples.mask[9:].any()
    assert np.isfinite(own.greedy).all()


def test_rewards_that_are_no_0_or_1_predict_no_dead_groups():
    _, _, metrics = chosen(hand.config(), found=hand.found([[0.5, 0, 1]] * 4))
    assert float(metrics["dead_predicted"].weight) == 0

"""What a method keeps from step to step: patience, parts that never move, rates of prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.rewards import rules
from alignjax.rollouts import collection, experience, select
from tests.rollouts import hand

NAN = hand.NAN
MIXED, ALIKE = [[1, 0, 1], [0, 0, 1]], [[1, 1, 1], [0, 0, 0]]


def after(config, carry, rewards, drawn=None, **parts):
    """The carry behind a step of these rewards."""
    drawn = hand.samples(len(rewards), 3) if drawn is None else drawn
    found = hand.found(rewards, **parts)

    @jax.jit
    def run(carry, drawn, found):
        told = select.choose(config, drawn, found, None)[1]
        return collection.carried(config, carry, told, found, drawn.task)

    return jax.device_get(run(carry, drawn, found))


def follow(config, steps, **options):
    carry = collection.start_carry(config)
    for rewards in steps:
        carry = after(config, carry, rewards, **options)
        yield carry


def test_steps_without_signal_are_counted_until_one_has_some():
    steps = [ALIKE, ALIKE, MIXED, ALIKE, [[NAN, 1, 1], [NAN, NAN, 0]]]
    found = [int(carry["barren"]) for carry in follow(hand.config(), steps)]
    assert found == [1, 2, 0, 1, 2]
    assert collection.start_carry(hand.config())["barren"] == 0


def test_a_part_that_never_moves_is_counted():
    two = {"right": rules.ExactNumber(), "brief": rules.Length(target=3)}
    config = hand.config(reward="rules", rules=two)
    carry = collection.start_carry(config)
    seen = []
    constant = [[0.5] * 6] * 3 + [[0.25] * 6] * 2 + [[0.25] * 5 + [0.5]] + [[0.25] * 6]
    for brief in constant:
        carry = after(config, carry, MIXED, right=MIXED, brief=brief)
        seen.append(carry["part_steps"].tolist())
    assert seen == [[0, 1], [0, 2], [0, 3], [0, 1], [0, 2], [0, 0], [0, 1]]
    assert carry["part_value"].tolist()[1] == 0.25
    assert np.isnan(carry["part_value"][0])


def test_rates_of_prompts_follow_their_rewards():
    """Each at its own place; groups without a score leave theirs as it was."""
    config = hand.config(curriculum=2.0, curriculum_decay=0.75)
    far = collection.BUCKETS + 5
    task = np.repeat([7, far, 9], 3).astype(np.int32)
    drawn = hand.samples(3, 3, task=task)
    rewards = [[1, 1, 0], [1, NAN, 1], [NAN, NAN, NAN]]
    rates = [carry["pass_rate"] for carry in follow(config, [rewards, rewards], drawn=drawn)]
    assert rates[0].shape == (collection.BUCKETS,)
    one = 0.75 * 0.5 + 0.25 * 2 / 3
    np.testing.assert_allclose(rates[0][[7, 5, 9]], [one, 0.75 * 0.5 + 0.25, 0.5], rtol=1e-6)
    two = 0.75 * one + 0.25 * 2 / 3
    np.testing.assert_allclose(rates[1][7], two, rtol=1e-6)
    others = np.delete(rates[1], [7, 5])
    assert (others == 0.5).all()
    assert "pass_rate" not in collection.start_carry(hand.config())


def test_a_change_of_what_is_kept_changes_no_shape():
    """The state of a step is donated to the next: all of it keeps shape and dtype."""
    config = hand.config(curriculum=2.0)
    start = collection.start_carry(config)
    later = after(config, start, MIXED)
    assert start.keys() == later.keys()
    for name, x in start.items():
        assert (np.shape(x), np.asarray(x).dtype) == (later[name].shape, later[name].dtype), name


# --- weights of trainer over sampler ------------------------------------------------------------

MASK = np.array([[0, 1, 1, 0], [0, 1, 1, 1]], bool)
RATIO = np.array([[1, 0.5, 3.0, 1], [1, 1.5, 1.5, 1.0]])


@pytest.mark.parametrize(
    ("correction", "level", "wanted"),
    [
        ("truncate", "token", [[0.5, 2, 0], [1.5, 1.5, 1]]),
        ("mask", "token", [[0.5, 0, 0], [1.5, 1.5, 1]]),
        ("truncate", "sequence", [[1.5, 1.5, 0], [2, 2, 2]]),
        ("mask", "sequence", [[1.5, 1.5, 0], [0, 0, 0]]),
        ("truncate", "geometric", [[1.5**0.5] * 2 + [0], [2.25 ** (1 / 3)] * 3]),
    ],
)
def test_advantages_are_weighted_by_trainer_over_sampler(correction, level, wanted):
    sampler = np.where(MASK, -2.0, 0.0).astype(np.float32)
    drawn = hand.samples(1, 2, mask=MASK, logprobs=sampler)
    now = jnp.asarray(np.where(MASK, sampler + np.log(RATIO), 0.0), jnp.float32)
    config = hand.config(group=2, correction=correction, correction_level=level)
    weight = experience.correction(config, now, drawn)
    found = np.where(MASK, weight, 0.0)[:, 1:]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    advantages = jnp.asarray([3.0, -1.0])
    times = experience._times(config, advantages, weight, jnp.asarray(MASK))
    by_hand = np.array([[3.0], [-1.0]]) * wanted
    if level == "token":
        np.testing.assert_allclose(times[:, 1:], by_hand, rtol=1e-5)
    else:
        np.testing.assert_allclose(times, by_hand[:, 0], rtol=1e-5)
    times = experience._times(config, jnp.ones((2, 4)), weight, jnp.asarray(MASK))
    np.testing.assert_allclose(np.where(MASK, times, 0)[:, 1:], wanted, rtol=1e-5)

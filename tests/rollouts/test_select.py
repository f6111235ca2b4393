"""Rows of groups, and which prompts and groups are taken."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.rollouts import rollouts, select
from tests.rollouts import hand

SIZE = 3


def test_rows_are_group_major():
    x = jnp.asarray([[1, 2], [3, 4]])
    wide = rollouts.repeated(x, SIZE)
    assert wide.tolist() == [[1, 2]] * 3 + [[3, 4]] * 3
    assert rollouts.in_groups(wide, SIZE).tolist() == [[[1, 2]] * 3, [[3, 4]] * 3]
    assert rollouts.repeated(x, 1) is x
    assert rollouts.in_groups(jnp.arange(6), 2).tolist() == [[0, 1], [2, 3], [4, 5]]
    empty = rollouts.repeated(jnp.zeros((0, 2)), SIZE)
    assert empty.shape == (0, 2)


def test_samples_carry_their_prompt_and_the_step_of_their_policy():
    drawn = hand.samples(2, SIZE)
    batch = {"lengths": jnp.asarray([3, 4]), "index": jnp.asarray([70, 5])}
    joined = rollouts.of_samples(drawn, batch, SIZE, jnp.asarray(9))
    assert joined.task.tolist() == [70, 70, 70, 5, 5, 5]
    assert joined.version.tolist() == [9] * 6
    del batch["index"]  # a table without numbers of rows
    assert (
        rollouts.of_samples(drawn, batch, SIZE, jnp.asarray(0)).task.tolist() == [0] * 3 + [1] * 3
    )
    assert joined.cut.tolist() == [not x for x in drawn.ended.tolist()]


@pytest.mark.parametrize(
    ("informative", "count", "wanted"),
    [
        ([1, 1, 1, 1], 2, [0, 1]),
        ([0, 1, 0, 1], 2, [1, 3]),
        ([0, 0, 0, 1], 2, [3, 0]),
        ([0, 0, 0, 0], 2, [0, 1]),
        ([0, 1, 1, 0], 4, [1, 2, 0, 3]),
    ],
)
def test_informative_groups_come_first_in_order(informative, count, wanted):
    found = jax.jit(select.informative_first, static_argnums=1)(jnp.asarray(informative) > 0, count)
    assert found.tolist() == wanted


def shares_of_sets(weights, count):
    """{set of numbers: chance} of drawing one after the other, without putting back."""
    shares = {}
    for order in itertools.permutations(range(len(weights)), count):
        left, chance = sum(weights), 1.0
        for i in order:
            chance *= weights[i] / left
            left -= weights[i]
        key = tuple(sorted(order))
        shares[key] = shares.get(key, 0.0) + chance
    return shares


@pytest.mark.parametrize(
    ("rates", "count", "floor"),
    [([0.0, 0.1, 0.5, 1.0], 2, 0.05), ([0.5, 0.9, 0.2, 0.0, 0.6], 3, 0.02)],
)
def test_prompts_are_drawn_by_difficulty_without_replacement(rates, count, floor):
    draws = 40_000
    keys = jax.random.split(jax.random.key(0), draws)
    rates = jnp.asarray(rates)

    @jax.jit
    @jax.vmap
    def draw(key):
        return select.by_difficulty(key, rates, count, floor=floor)

    drawn = np.asarray(draw(keys))
    assert (np.diff(drawn) > 0).all()  # ascending, each at most once
    weights = [float(p * (1 - p) + floor) for p in rates]
    expected = shares_of_sets(weights, count)
    assert sum(expected.values()) == pytest.approx(1.0)
    numbers, counts = np.unique(drawn, axis=0, return_counts=True)
    seen = dict(zip(map(tuple, numbers.tolist()), counts, strict=True))
    assert set(seen) <= set(expected)
    squares = [(seen.get(k, 0) - draws * p) ** 2 / (draws * p) for k, p in expected.items()]
    degrees = len(expected) - 1
    assert sum(squares) < degrees + 4 * np.sqrt(2 * degrees)


def test_rates_outside_of_0_and_1_are_those_of_solved_and_hopeless_prompts():
    key = jax.random.key(3)
    near, far = (
        select.by_difficulty(key, jnp.asarray(rates), 2, floor=0.1)
        for rates in ([0.0, 1.0, 0.5, 1.0], [-3.0, 7.0, 0.5, 1.0])
    )
    assert near.tolist() == far.tolist()
    whole = select.by_difficulty(key, jnp.asarray([0.2, 0.0, 1.0]), 3, floor=0.1)
    assert whole.tolist() == [0, 1, 2]


def test_shares_of_dead_groups():
    """By counting the outcomes of G samples; numbers of the design for G = 8."""
    for size in (1, 2, 4):
        for p in (0.0, 0.25, 0.5, 1.0):
            alike = [o for o in itertools.product((0, 1), repeat=size) if len({*o}) == 1]
            chance = sum(p ** sum(o) * (1 - p) ** (size - sum(o)) for o in alike)
            wanted = chance if size > 1 else 1.0
            assert float(select.dead_share(jnp.asarray(p), size)) == pytest.approx(wanted)
    found = select.dead_share(jnp.asarray([0.02, 0.1, 0.3, 0.5, 0.9]), 8)
    np.testing.assert_allclose(found, [0.8508, 0.4305, 0.0577, 0.0078, 0.4305], atol=5.1e-5)

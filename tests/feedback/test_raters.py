"""Simulated raters err as often as they say, and a judgement depends on its own key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.feedback import position, raters

N = 20_000
KEYS = jax.random.split(jax.random.key(0), N)


def choices(rater, utilities, keys=KEYS):
    return np.asarray(jax.jit(jax.vmap(lambda key: raters.choose(key, rater, utilities)))(keys))


@pytest.mark.parametrize(
    "rater",
    [
        raters.Rater(),
        raters.Rater(temperature=0.25),
        raters.Rater(careless=0.3),
        raters.Rater(position_bias=0.3),
        raters.Rater(temperature=2.0, careless=0.2, position_bias=0.1, tie=0.8),
    ],
)
def test_choices_have_their_probabilities(rater):
    utilities = jnp.array([-0.4, 0.3])
    got = np.bincount(choices(rater, utilities), minlength=3) / N
    want = np.asarray(raters.chances(rater, utilities))
    np.testing.assert_allclose(want.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(got, want, atol=3 * 0.5 / N**0.5)


def test_probabilities_by_hand():
    plain = 1 / (1 + np.exp(0.7))
    got = raters.chances(raters.Rater(), jnp.array([-0.4, 0.3]))
    np.testing.assert_allclose(got, [plain, 1 - plain, 0], rtol=1e-5)
    got = raters.chances(raters.Rater(careless=0.3), jnp.array([-0.4, 0.3]))
    np.testing.assert_allclose(got[0], 0.7 * plain + 0.15, rtol=1e-5)
    got = raters.chances(raters.Rater(position_bias=0.3), jnp.array([-0.4, 0.3]))
    np.testing.assert_allclose(got[0], 0.3 + 0.7 * plain, rtol=1e-5)
    got = raters.chances(raters.Rater(tie=0.5), jnp.zeros(2))
    np.testing.assert_allclose(got[2], 0.5 / 2.5, rtol=1e-5)
    never = raters.chances(raters.Rater(temperature=0.0), jnp.array([0.01, 0.0]))
    np.testing.assert_allclose(never, [1, 0, 0])


def test_the_planted_bias_is_the_estimated_one():
    """Answers in random order: what `position` finds is what the rater was told."""
    first = jax.random.bernoulli(jax.random.key(1), 0.5, (N,))
    shown = jnp.where(first[:, None], jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    rater = raters.Rater(position_bias=0.3)
    got = jax.jit(jax.vmap(lambda key, u: raters.choose(key, rater, u)))(KEYS, shown)
    found = position.win_rate(1 - 2 * np.asarray(got, float), np.asarray(first))
    assert found.bias.value == pytest.approx(0.3, abs=3 * found.bias.se)
    truth = 1 / (1 + np.exp(-1.0))
    assert found.corrected_win.value == pytest.approx(truth, abs=3 * found.corrected_win.se)


def test_a_judgement_is_a_function_of_seed_item_and_repeat():
    rater, utilities = raters.Rater(), jnp.zeros(2)
    items = [f"item {i}" for i in range(40)]

    def judge(seed, item, repeat=0):
        return int(raters.choose(raters.item_key(seed, item, repeat), rater, utilities))

    one = {item: judge(3, item) for item in items}
    assert {item: judge(3, item) for item in reversed(items)} == one
    assert {item: judge(4, item) for item in items} != one
    assert {item: judge(3, item, 1) for item in items} != one


def test_rankings_are_plackett_luce():
    utilities = jnp.array([1.0, 0.0, -0.5])
    rank = jax.jit(jax.vmap(lambda key: raters.rank(key, raters.Rater(), utilities)))
    got = np.asarray(rank(KEYS))
    assert (np.sort(got, axis=1) == [1, 2, 3]).all()
    worth = np.exp(np.asarray(utilities))
    want = worth[0] / worth.sum() * worth[1] / worth[1:].sum()
    share = np.mean((got == [1, 2, 3]).all(axis=1))
    assert share == pytest.approx(want, abs=3 * 0.5 / N**0.5)
    # Two answers are Bradley-Terry; a rater who never reads leaves the order as it is shown.
    best = jax.vmap(lambda key: raters.rank(key, raters.Rater(), utilities[:2]))(KEYS)[:, 0] == 1
    assert float(best.mean()) == pytest.approx(1 / (1 + np.exp(-1)), abs=3 * 0.5 / N**0.5)
    blind = raters.Rater(position_bias=1.0)
    np.testing.assert_array_equal(raters.rank(KEYS[0], blind, utilities[::-1]), [1, 2, 3])
    careless = jax.vmap(lambda key: raters.rank(key, raters.Rater(careless=1.0), utilities))(KEYS)
    np.testing.assert_allclose(careless.mean(axis=0), 2, atol=0.03)


def test_scores_lie_on_their_scale():
    def scores(rater, utility):
        return np.asarray(jax.vmap(lambda key: raters.score(key, rater, utility))(KEYS[:4000]))

    sure = raters.Rater(temperature=0.0)
    assert set(scores(sure, 0.0)) == {4}
    assert set(scores(sure, 2.2)) == {6}
    assert set(scores(sure, 99.0)) == {7}
    noisy = scores(raters.Rater(), 0.0)
    assert noisy.mean() == pytest.approx(4, abs=0.1)
    assert set(noisy) == set(range(1, 8))
    blind = scores(raters.Rater(temperature=0.0, careless=1.0), 99.0)
    np.testing.assert_allclose(np.bincount(blind, minlength=8)[1:] / 4000, 1 / 7, atol=0.03)


@pytest.mark.parametrize(
    ("rater", "message"),
    [
        (raters.Rater(temperature=-1.0), "temperature must be"),
        (raters.Rater(careless=1.2), "careless must be"),
        (raters.Rater(position_bias=-0.1), "position_bias must be"),
        (raters.Rater(tie=-1.0), "tie must be"),
    ],
)
def test_impossible_raters_are_refused(rater, message):
    with pytest.raises(ValueError, match=message):
        raters.choose(KEYS[0], rater, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"utilities must have shape \[2\]"):
        raters.choose(KEYS[0], raters.Rater(), jnp.zeros(3))

"""Losses on ties, noisy raters, spans and groups: populations whose optimum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

from alignjax import losses

NAN = float("nan")


def minimum(loss):
    """The d that minimises the population's loss of one comparison."""
    return optimize.minimize_scalar(loss, bounds=(-8, 8), method="bounded", options={"xatol": 1e-9})


def pair(d, *columns):
    one = jnp.full(1, d, jnp.float32), jnp.zeros(1), *(jnp.full(1, c, jnp.float32) for c in columns)
    return one


@pytest.mark.parametrize("gap", [0.0, 0.8, -1.5])
@pytest.mark.parametrize(
    ("loss", "option", "chance"),
    [
        (losses.davidson, {"tie_strength": 0.6}, None),
        (losses.rao_kupper, {"threshold": 0.5}, None),
    ],
)
def test_the_population_of_a_tie_model_has_its_gap_as_optimum(gap, loss, option, chance):
    """With the chances that the model itself gives, by the loss of pure outcomes."""

    def price(d, swap, tie):
        a, b, t = pair(d, tie)
        return float(loss(b, a, t, **option)[0] if swap else loss(a, b, t, **option)[0])

    outcomes = [(False, 0.0), (True, 0.0), (False, 1.0)]
    chances = np.exp([-price(gap, *outcome) for outcome in outcomes])
    assert chances.sum() == pytest.approx(1, abs=1e-6)

    def population(d):
        return sum(p * price(d, *o) for p, o in zip(chances, outcomes, strict=True))

    assert minimum(population).x == pytest.approx(gap, abs=5e-3)


def test_equal_answers_tie_as_often_as_told():
    a, b, tie = pair(0.0, 1.0)
    got = np.exp(-losses.davidson(a, b, tie, tie_strength=0.5))
    np.testing.assert_allclose(got, 0.5 / 2.5, rtol=1e-6)
    got = np.exp(-losses.rao_kupper(a, b, tie, threshold=0.5))
    np.testing.assert_allclose(got, 1 - 2 * special.expit(-0.5), rtol=1e-6)


def test_a_tie_is_no_half_win():
    """All ties but some wins: a half win each would let the gap shrink to that of the shares."""
    wins, tied = 0.3, 0.7

    def davidson(d):
        a, b, _ = pair(d)[0], jnp.zeros(1), None
        won = losses.davidson(a, b, jnp.zeros(1), tie_strength=0.6)
        level = losses.davidson(a, b, jnp.ones(1), tie_strength=0.6)
        return float((wins * won + tied * level)[0])

    def half_win(d):
        return float(-(wins + tied / 2) * special.log_expit(d) - tied / 2 * special.log_expit(-d))

    found = minimum(davidson).x
    # Its condition: expected score difference equals the observed one, P(win) - P(loss) = .3.
    weights = np.array([np.exp(found / 2), np.exp(-found / 2), 0.6])
    chances = weights / weights.sum()
    assert chances[0] - chances[1] == pytest.approx(wins, abs=1e-3)
    assert minimum(half_win).x == pytest.approx(special.logit(0.65), abs=1e-3)
    assert abs(found - minimum(half_win).x) > 0.1


@pytest.mark.parametrize("accuracy", [0.6, 0.8, 0.95])
def test_noise_of_known_accuracy_leaves_the_optimum(accuracy):
    truth = special.expit(0.7)
    seen = accuracy * truth + (1 - accuracy) * (1 - truth)

    def population(d, right):
        a, b, column = pair(d, right)
        kept, turned = losses.rater_noise(a, b, column), losses.rater_noise(b, a, column)
        return float((seen * kept + (1 - seen) * turned)[0])

    assert minimum(lambda d: population(d, accuracy)).x == pytest.approx(0.7, abs=5e-3)
    assert abs(minimum(lambda d: population(d, 1.0)).x - 0.7) > 0.05  # taken at their word


def test_accuracy_one_is_bradley_terry_bit_for_bit_and_half_has_no_gradient():
    a, b = jnp.linspace(-90, 90, 9), jnp.linspace(1, -1, 9)
    np.testing.assert_array_equal(losses.rater_noise(a, b, jnp.ones(9)), losses.bradley_terry(a, b))
    np.testing.assert_array_equal(
        losses.rater_noise(a, b, jnp.zeros(9)), losses.bradley_terry(b, a)
    )

    def total(x, right):
        return losses.rater_noise(x, b, right).sum()

    for right in (0.0, 0.5, 1.0):
        slope = jax.grad(total)(a, jnp.full(9, right))
        assert np.isfinite(slope).all()
        if right == 0.5:
            np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_a_span_counts_once_however_long():
    logits = jnp.array([[2.0, -1.0, 0.5, 0.5, 9.0]])
    got = losses.span_reward(logits, jnp.array([[1, 1, 1, 1, 0]]), jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(got, [[-special.log_expit(0.5), 0]], rtol=1e-6)


# --- groups ---
def robust_logit(p1, p2, steps=4000):
    """Exponentiated gradient on q and gradient descent on one logit, averaged over the end."""
    rates = jnp.array([p1, p2])

    def step(carry, _):
        h, q = carry

        def loss(h):
            return -rates * jax.nn.log_sigmoid(h) - (1 - rates) * jax.nn.log_sigmoid(-h)

        q = losses.maximin_weights(q, -loss(h), step_size=0.05)
        slope = jax.grad(lambda h: losses.group_robust(loss(h), jnp.arange(2), q).mean())(h)
        h = h - 0.05 * slope
        return (h, q), h

    _, path = jax.lax.scan(step, (jnp.float32(1.0), jnp.full(2, 0.5)), length=steps)
    return float(path[steps // 2 :].mean())


@pytest.mark.parametrize(("p1", "p2"), [(0.9, 0.3), (0.6, 0.05), (0.8, 0.45)])
def test_groups_in_conflict_leave_the_reference(p1, p2):
    assert robust_logit(p1, p2) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("p1", "p2"), [(0.9, 0.7), (0.6, 0.95)])
def test_groups_that_agree_get_the_weaker_ones_logit(p1, p2):
    assert robust_logit(p1, p2) == pytest.approx(special.logit(min(p1, p2)), abs=0.05)


def test_one_group_is_the_plain_loss_bit_for_bit():
    a, b = jnp.linspace(-2, 3, 7), jnp.linspace(1, -1, 7)
    plain = losses.dpo(a, b, beta=0.1)
    got = losses.group_robust(plain, jnp.zeros(7, jnp.int32), jnp.ones(1))
    np.testing.assert_array_equal(got, plain)


def test_the_mean_is_of_groups_not_of_rows():
    loss = jnp.array([1.0, 1.0, 1.0, 5.0, NAN])
    groups, mask = jnp.array([0, 0, 0, 1, 1]), np.array([1, 1, 1, 1, 0])
    got = losses.group_robust(loss, groups, jnp.array([0.25, 0.75]), mask)
    assert float(got.sum()) / 4 == pytest.approx(0.25 * 1 + 0.75 * 5)
    turned = losses.group_robust(loss, 1 - groups, jnp.array([0.75, 0.25]), mask)
    np.testing.assert_array_equal(turned, got)  # the numbers of groups are names


def test_an_absent_group_keeps_its_weight():
    q = jnp.array([0.5, 0.3, 0.2])
    got = losses.maximin_weights(q, jnp.array([-1.0, 0.0, -3.0]), np.array([1, 1, 0]), step_size=1)
    assert float(got[2]) == pytest.approx(0.2, abs=1e-7)
    assert float(got.sum()) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(got[0] / got[1], 0.5 / 0.3 * np.e, rtol=1e-5)
    # Whatever stands in its place.
    other = losses.maximin_weights(q, jnp.array([-1.0, 0.0, NAN]), np.array([1, 1, 0]), step_size=1)
    np.testing.assert_array_equal(got, other)
    none = losses.maximin_weights(q, jnp.zeros(3), np.zeros(3), step_size=1)
    np.testing.assert_allclose(none, q)


def test_weights_of_a_long_run_stay_finite():
    q = jnp.array([0.5, 0.5])
    for _ in range(20):
        q = losses.maximin_weights(q, jnp.array([1000.0, -1000.0]), step_size=10.0)
    np.testing.assert_allclose(q, [0, 1])


# --- hidden context ---
def test_phi_is_exact_and_no_logistic():
    zero = jnp.full(3, -0.5 * np.log(2.0))  # so that s = 1
    z = jnp.array([1.0, -1.0, 3.0])
    got = np.exp(-losses.distributional(z, jnp.zeros(3), zero, zero))
    np.testing.assert_allclose(got, stats.norm.cdf(np.asarray(z)), rtol=1e-5)
    assert got[0] == pytest.approx(0.841, abs=5e-4)  # sigmoid(sqrt(2 pi)) would be .925


def test_levels_are_compared_with_half_on_ties():
    even = jnp.zeros((1, 4))
    np.testing.assert_allclose(losses.distributional_categorical(even, even), np.log(2), rtol=1e-6)
    top = jnp.array([[-30.0, -30.0, -30.0, 30.0]])
    np.testing.assert_allclose(
        np.exp(-losses.distributional_categorical(top, even)), 0.75 + 0.125, rtol=1e-5
    )

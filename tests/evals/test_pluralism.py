"""Closed forms of what groups' preferences teach, and simulations of them."""

import numpy as np
import pytest
from scipy import optimize, special

from alignjax.evals import pluralism


def test_negative_correlation_buys_little():
    assert pluralism.most_pair_variance(4) == pytest.approx(4 / 3)
    assert pluralism.most_pair_variance(2) == 2
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(40_000, 4))
    apart = (draws - draws.mean(axis=1, keepdims=True)) / (1 - 1 / 4) ** 0.5  # rho = -1/3
    assert apart.var() == pytest.approx(1, abs=0.02)
    ratio = np.var(apart[:, 0] - apart[:, 1]) / np.var(draws[:, 0] - draws[:, 1])
    assert ratio == pytest.approx(pluralism.pair_variance_ratio(-1 / 3), abs=0.03)
    assert pluralism.pair_variance_ratio(-1 / 3) == pytest.approx(pluralism.most_pair_variance(4))
    with pytest.raises(ValueError, match="draws must be 2"):
        pluralism.most_pair_variance(1)


@pytest.mark.parametrize(("rate", "want"), [(0.02, 0.078), (0.05, 0.185), (0.1, 0.344)])
def test_both_sides_in_four_draws(rate, want):
    assert pluralism.coverage(rate) == pytest.approx(want, abs=5e-4)
    held = np.random.default_rng(1).random((50_000, 4)) < rate
    both = held.any(axis=1) & ~held.all(axis=1)
    assert both.mean() == pytest.approx(want, abs=4 * (want / 50_000) ** 0.5 + 5e-4)


@pytest.mark.parametrize(("share", "want"), [(0.15, 0.040), (0.30, 0.085), (0.60, 0.205)])
def test_coverage_gives_the_rate(share, want):
    assert pluralism.minority_rate(share) == pytest.approx(want, abs=5e-4)


@pytest.mark.parametrize(
    ("n", "rate", "sign", "win"),
    [(200, 0.02, 0.959, 0.782), (200, 0.002, 0.670, 0.700), (50, 0.002, 0.555, 0.666)],
)
def test_win_rates_of_a_taste_that_is_rarely_seen(n, rate, sign, win):
    got = pluralism.sign_learned(n, rate, 0.8)
    assert got == pytest.approx(sign, abs=6e-4)
    assert pluralism.win_rate(got, rate, 0.8) == pytest.approx(win, abs=6e-4)
    assert pluralism.win_rate(1.0, 0.02, 0.8) == pytest.approx(0.794, abs=5e-4)
    rng = np.random.default_rng(2)
    informed = rng.binomial(n, 2 * rate * (1 - rate), 40_000)
    right = rng.binomial(informed, 0.8)
    learned = (right > informed / 2) + 0.5 * (right == informed / 2)
    assert learned.mean() == pytest.approx(got, abs=4 * 0.5 / 40_000**0.5)


def test_at_measured_coverage_one_feature_is_learned():
    """15 % coverage is a rate of .04: 200 comparisons already tell the sign."""
    assert pluralism.sign_learned(200, pluralism.minority_rate(0.15), 0.8) == pytest.approx(
        0.993, abs=1.5e-3
    )


def test_the_sign_by_fisher_information():
    """A logistic regression with a nuisance feature: the estimate's sign, simulated."""
    rng = np.random.default_rng(3)
    weight, n = 0.15, 200
    x = rng.normal(size=(400, n, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
    true = np.array([weight, 1.0])
    hits, matrices = 0, []
    for rows in x:
        chance = special.expit(rows @ true)
        y = rng.random(n) < chance
        found = optimize.minimize(
            lambda w, r=rows, y=y: (np.logaddexp(0, r @ w) - y * (r @ w)).sum(), true
        )
        hits += found.x[0] > 0
        matrices.append((rows.T * (chance * (1 - chance))) @ rows / n)
    information = 1 / np.linalg.inv(np.mean(matrices, axis=0))[0, 0]
    want = pluralism.sign_by_information(weight, n, information)
    assert 0.7 < want < 0.95
    assert hits / 400 == pytest.approx(want, abs=3 * (want * (1 - want) / 400) ** 0.5 + 0.01)


def test_pooled_and_robust_logits():
    assert pluralism.pooled_logit([0.9, 0.3], [0.5, 0.5]) == pytest.approx(special.logit(0.6))
    for rates in ([0.9, 0.3], [0.51, 0.01], [0.5, 0.9]):
        assert pluralism.robust_logit(rates) == 0.0
    assert pluralism.robust_logit([0.9, 0.7]) == pytest.approx(special.logit(0.7))
    assert pluralism.robust_logit([0.1, 0.3]) == pytest.approx(special.logit(0.3))
    rng = np.random.default_rng(4)
    for _ in range(20):
        rates = rng.uniform(0.02, 0.98, 3)

        def worst(h, rates=rates):
            losses = -rates * special.log_expit(h) - (1 - rates) * special.log_expit(-h)
            return losses.max()

        found = optimize.minimize_scalar(worst, bounds=(-6, 6), method="bounded").x
        assert worst(pluralism.robust_logit(rates)) <= worst(found) + 1e-9

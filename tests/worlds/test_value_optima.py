"""What methods reach on ValueWorld in the limit: draws, other solvers, and closed forms."""

import dataclasses

import numpy as np
import pytest
from scipy import special

from alignjax.evals import pluralism
from alignjax.sampling import diverse
from alignjax.worlds import value_optima, values

CONFIG = values.ValueConfig(seed=3, words=4, longest=3, shares=(0.7, 0.3), lean=1.0)
WORLD = values.make_world(CONFIG)
EVERY = value_optima.every(WORLD)
KINDS = (EVERY.utilities[1] > EVERY.utilities[0]).astype(int)


def place_of(words):
    """The number of each response in the list of all."""
    weights = (CONFIG.words + 1) ** np.arange(CONFIG.longest)
    codes = (EVERY.words + 1) @ weights
    order = np.argsort(codes)
    return order[np.searchsorted(codes[order], (words + 1) @ weights)]


def test_every_response_and_its_chance():
    assert len(EVERY.words) == 4 + 16 + 64
    assert EVERY.chances.sum() == pytest.approx(1, abs=1e-12)
    drawn = place_of(values.draw(WORLD, np.random.default_rng(0), 40_000))
    counts = np.bincount(drawn, minlength=len(EVERY.words))
    error = np.sqrt(40_000 * EVERY.chances * (1 - EVERY.chances))
    assert np.abs((counts - 40_000 * EVERY.chances) / np.maximum(error, 1)).max() < 4.5


def test_a_lean_makes_the_other_groups_words_rare():
    plain = values.make_world(dataclasses.replace(CONFIG, lean=0.0))
    apart = WORLD.utilities[0] - WORLD.utilities[1]  # twice group 0's taste, opposed to group 1's
    odds = np.log(WORLD.chances) - np.log(plain.chances)
    np.testing.assert_allclose(odds - odds[0], (apart - apart[0]) / 2, atol=1e-9)
    assert EVERY.chances @ KINDS < value_optima.every(plain).chances @ KINDS


def test_hotter_draws_are_those_of_tempered_tokens():
    """Of one and two words by hand; a temperature of infinity makes tokens equal."""
    hot = value_optima.hotter(WORLD, EVERY.words, 2.0)
    assert hot.sum() == pytest.approx(1, abs=1e-12)
    root, stop = np.sqrt(WORLD.chances), CONFIG.stop
    later = np.append(np.sqrt((1 - stop) * WORLD.chances), np.sqrt(stop))
    later /= later.sum()
    np.testing.assert_allclose(hot[:4], root / root.sum() * later[-1], rtol=1e-12)
    assert hot[4 + 6] == pytest.approx(root[1] / root.sum() * later[2] * later[-1])  # words 1, 2
    flat = value_optima.hotter(WORLD, EVERY.words, 1e9)
    np.testing.assert_allclose(flat[:4], 1 / 4 / 5, rtol=1e-6)
    with pytest.raises(ValueError, match="temperature must be > 0; got 0"):
        value_optima.hotter(WORLD, EVERY.words, 0)


@pytest.mark.parametrize(("drawn", "kept"), [(16, 4), (4, 4), (8, 2)])
def test_stratified_pairs_are_those_of_the_sampler(drawn, kept):
    exact = value_optima.stratified(EVERY.chances, KINDS, drawn, kept)
    assert exact.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(exact, exact.T, atol=1e-15)
    rng = np.random.default_rng(1)
    answers = rng.choice(len(KINDS), size=(20_000, drawn), p=EVERY.chances)
    chosen = diverse.stratified(KINDS[answers], kept)
    answers = answers[np.arange(20_000)[:, None], chosen]
    pair = rng.permuted(answers, axis=1)[:, :2]
    apart = KINDS[pair[:, 0]] != KINDS[pair[:, 1]]
    want = exact[KINDS == 0][:, KINDS == 1].sum() * 2
    assert apart.mean() == pytest.approx(want, abs=4 * np.sqrt(want * (1 - want) / 20_000))
    first = np.bincount(pair[:, 0], minlength=len(KINDS)) / 20_000
    np.testing.assert_allclose(first, exact.sum(1), atol=4.5 * np.sqrt(0.25 / 20_000))
    if kept == drawn:  # all are kept: plain independent draws
        np.testing.assert_allclose(exact, value_optima.independent(EVERY.chances), atol=1e-12)


def test_what_cannot_be_split_is_refused():
    for kept in (3, 0, 18):
        with pytest.raises(ValueError, match=f"kept must be even.*got {kept}"):
            value_optima.stratified(EVERY.chances, KINDS, 16, kept)


def test_a_single_taste_is_fitted_exactly_whatever_is_compared():
    for pairs in (value_optima.independent(EVERY.chances), np.full((84, 84), 84**-2)):
        h = value_optima.fitted(pairs, EVERY.wins[1])
        want = EVERY.utilities[1] - EVERY.utilities[1].mean()
        np.testing.assert_allclose(h, want, atol=1e-6)


def test_pooled_taste_of_two_answers_is_the_logit_of_the_mean():
    rates, shares = (0.9, 0.3), (0.7, 0.3)
    wins = np.array([[[0.5, p], [1 - p, 0.5]] for p in rates])
    pairs = np.full((2, 2), 0.25)
    h = value_optima.fitted(pairs, np.tensordot(shares, wins, 1))
    assert h[0] - h[1] == pytest.approx(pluralism.pooled_logit(rates, shares), abs=1e-8)


@pytest.mark.parametrize("rates", [(0.9, 0.3), (0.9, 0.6), (0.2, 0.4), (0.55, 0.52, 0.9)])
def test_the_robust_policy_of_one_comparison(rates):
    """It abstains where groups conflict, and is the weakest group's where they agree."""
    wins = np.array([[[0.5, p], [1 - p, 0.5]] for p in rates])
    found = value_optima.robust(np.full((2, 2), 0.25), wins)
    want = pluralism.robust_logit(rates)
    assert found.h[0] - found.h[1] == pytest.approx(want, abs=1e-3)


def test_the_robust_policy_of_a_world_makes_the_worst_loss_least():
    pairs = value_optima.independent(EVERY.chances)
    found = value_optima.robust(pairs, EVERY.wins)
    assert found.weights.sum() == pytest.approx(1)
    assert found.losses[0] == pytest.approx(found.losses[1], abs=1e-4)  # both weigh: both are worst

    def worst(h):
        gaps = h[:, None] - h[None, :]
        own = EVERY.wins * np.logaddexp(0, -gaps) + (1 - EVERY.wins) * np.logaddexp(0, gaps)
        return (pairs * own).sum(axis=(1, 2)).max()

    rng = np.random.default_rng(2)
    for size in (0.01, 0.1, 1.0):
        for _ in range(5):
            assert worst(found.h + size * rng.normal(size=len(found.h))) > worst(found.h) - 1e-6


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_the_maximin_weights_lift_the_least_gain(beta):
    weights = value_optima.maximin(EVERY.chances, EVERY.utilities, beta)
    moved = value_optima.maximin(EVERY.chances, EVERY.utilities + np.array([[5.0], [-3.0]]), beta)
    np.testing.assert_allclose(weights, moved, atol=1e-5)  # zeros of rewards do not matter
    gains = EVERY.utilities - (EVERY.utilities @ EVERY.chances)[:, None]

    def value(own):
        chances = value_optima.tilted(EVERY.chances, own @ gains, beta)
        kl = special.rel_entr(chances, EVERY.chances).sum()
        return (gains @ chances).min() - beta * kl

    for other in np.linspace(0, 1, 41):
        assert value(np.array([other, 1 - other])) <= value(weights) + 1e-6


def test_win_rates_of_the_reference_are_even():
    np.testing.assert_allclose(value_optima.win_rates(EVERY, EVERY.chances), 0.5, atol=1e-12)

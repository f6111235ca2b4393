"""Position bias: planted, found, taken out; ties are true answers."""

import numpy as np
import pytest

from alignjax.feedback import position

N = 20_000


def judged(bias, win, tie, share_first, seed=0):
    """(choices, whether A stood first) of a rater who takes the first with probability `bias`."""
    rng = np.random.default_rng(seed)
    first = rng.random(N) < share_first
    u = rng.random(N)
    said = np.where(u < win, 1, np.where(u < win + tie, 0, -1)) * np.where(first, 1, -1)
    return np.where(rng.random(N) < bias, 1, said).astype(float), first


def within(got, want, times=3):
    assert got.value == pytest.approx(want, abs=times * got.se)
    assert got.se < 0.02


@pytest.mark.parametrize("bias", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("tie", [0.0, 0.25])
def test_a_planted_bias_is_found(bias, tie):
    choices, first = judged(bias, 0.45, tie, 0.5)
    within(position.position_bias(choices), bias)
    if not tie:
        assert np.mean(choices == 1) == pytest.approx((1 + bias) / 2, abs=0.012)
    within(position.win_rate(choices, first).bias, bias)


@pytest.mark.parametrize("bias", [0.1, 0.3])
@pytest.mark.parametrize("win", [0.3, 0.5, 0.8])
def test_win_rates_shrink_to_half_and_are_corrected(bias, win):
    got = position.win_rate(*judged(bias, win, 0.0, 0.5))
    within(got.win, bias / 2 + (1 - bias) * win)
    within(got.corrected_win, win)
    within(got.corrected_loss, 1 - win)
    assert got.corrected_tie.value == 0.0
    assert (got.win.value > 0.5) == (win > 0.5) or win == 0.5


def test_an_order_that_is_not_balanced_is_corrected_too():
    got = position.win_rate(*judged(0.3, 0.5, 0.2, 0.8))
    within(got.win, 0.3 * 0.8 + 0.7 * 0.5)
    within(got.corrected_win, 0.5)
    within(got.corrected_tie, 0.2)
    within(got.corrected_loss, 0.3)
    within(got.bias, 0.3)
    assert got.corrected_win.value + got.corrected_tie.value + got.corrected_loss.value == (
        pytest.approx(1)
    )


def test_one_order_alone_identifies_nothing():
    got = position.win_rate(*judged(0.3, 0.6, 0.0, 1.0))
    within(got.win, 0.3 + 0.7 * 0.6)
    assert np.isnan([got.bias.value, got.corrected_win.value]).all()


def test_errors_are_those_of_repeated_studies():
    bias, corrected, claimed = [], [], []
    for seed in range(200):
        choices, first = judged(0.3, 0.5, 0.2, 0.5, seed)
        got = position.win_rate(choices[:500], first[:500])
        bias.append(got.bias.value)
        corrected.append(got.corrected_win.value)
        claimed.append([got.bias.se, got.corrected_win.se])
    assert np.std(bias) == pytest.approx(np.mean(claimed, axis=0)[0], rel=0.15)
    assert np.std(corrected) == pytest.approx(np.mean(claimed, axis=0)[1], rel=0.15)


def test_gaps_count_for_nothing_and_bad_choices_are_refused():
    choices, first = judged(0.3, 0.6, 0.1, 0.5)
    more = np.r_[choices, np.full(500, np.nan)]
    assert position.position_bias(more) == position.position_bias(choices)
    wide = position.win_rate(more, np.r_[first, np.ones(500, bool)])
    assert wide == position.win_rate(choices, first)
    with pytest.raises(ValueError, match=r"1 for the first answer.*got 2"):
        position.position_bias(np.array([2.0]))
    with pytest.raises(ValueError, match="shape of choices"):
        position.win_rate(choices, first[1:])
    assert np.isnan(position.position_bias(np.array([])).value)

"""Corrected rates: closed forms, another implementation, and intervals that hold the truth."""

import json
import pathlib

import numpy as np
import pytest

from alignjax.evals import corrected, estimate

RECORDED = json.loads(pathlib.Path(__file__).with_name("ppi.json").read_text())
SIDES = {
    "true_positive": 80, "labelled_positive": 100, "true_negative": 80, "labelled_negative": 100
}  # fmt: skip


def test_a_judge_of_eight_in_ten():
    """Truth .8, Se = Sp = .8: it says .68, which is corrected to .80."""
    got = corrected.rogan_gladen(680, 1000, **SIDES)
    assert got.value == pytest.approx(0.80)
    want = (0.68 * 0.32 / 1000 + 0.8**2 * 0.0016 + 0.2**2 * 0.0016) / 0.6**2
    assert got.se == pytest.approx(want**0.5)
    assert got.low < 0.8 < got.high


def test_sensitivity_and_specificity_are_not_each_other():
    """Se .9, Sp .7, truth .4: it says .54."""
    got = corrected.rogan_gladen(
        540, 1000,
        true_positive=90, labelled_positive=100, true_negative=70, labelled_negative=100,
    )  # fmt: skip
    assert got.value == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("truth", "se", "sp"), [(0.5, 0.8, 0.8), (0.3, 0.9, 0.75), (0.7, 0.7, 0.9)]
)
def test_intervals_of_corrected_rates_hold_the_truth(truth, se, sp):
    """With Se and Sp of 150 labels each; those that take them as known hold it far too rarely."""
    rng = np.random.default_rng(0)
    inside, known = 0, 0
    for _ in range(1000):
        positive = rng.binomial(2000, truth * se + (1 - truth) * (1 - sp))
        got = corrected.rogan_gladen(
            positive, 2000,
            true_positive=rng.binomial(150, se), labelled_positive=150,
            true_negative=rng.binomial(150, sp), labelled_negative=150,
        )  # fmt: skip
        inside += got.low <= truth <= got.high
        p = positive / 2000
        alone = 1.96 * (p * (1 - p) / 2000) ** 0.5 / (se + sp - 1)
        known += abs(got.value - truth) <= alone
    assert 930 <= inside <= 970
    assert known < 750


def test_a_judge_that_says_nothing_is_refused():
    weak = {**SIDES, "true_positive": 55, "true_negative": 50}
    with pytest.raises(ValueError, match=r"at least; got 0\.050 .*Label more items"):
        corrected.rogan_gladen(500, 1000, **weak)
    with pytest.raises(ValueError, match=r"positive must lie in 0 \.\. 1000"):
        corrected.rogan_gladen(1001, 1000, **SIDES)
    with pytest.raises(ValueError, match=r"true_negative must lie in 0 \.\. 0"):
        corrected.rogan_gladen(500, 1000, **{**SIDES, "labelled_negative": 0, "true_negative": 0})


@pytest.mark.parametrize("case", RECORDED)
@pytest.mark.parametrize("name", ["tuned", "plain"])
def test_a_second_implementation_agrees(case, name):
    sides = (case["labels"], case["judged"], case["unlabelled"])
    got = corrected.prediction_powered(*sides, tuned=name == "tuned").rate
    # It divides by n where we divide by n - 1.
    assert [got.value, got.low, got.high] == pytest.approx(case[name], abs=2e-3)


@pytest.mark.parametrize(("accuracy", "want"), [(0.7, 234), (0.8, 297), (0.9, 478)])
def test_what_a_judge_is_worth(accuracy, want):
    assert corrected.effective_labels(200, 2000, 2 * accuracy - 1) == pytest.approx(want, abs=0.5)
    effective = [study(np.random.default_rng(s), accuracy)[0].effective_n for s in range(200)]
    assert np.mean(effective) == pytest.approx(want, rel=0.04)


def study(rng, accuracy, tuned=True, truth=0.5):
    label = (rng.random(2200) < truth).astype(float)
    judged = np.where(rng.random(2200) < accuracy, label, 1 - label)
    found = corrected.prediction_powered(label[:200], judged[:200], judged[200:], tuned=tuned)
    return found, label


@pytest.mark.parametrize(("accuracy", "truth"), [(0.7, 0.5), (0.8, 0.7), (0.9, 0.5)])
def test_prediction_powered_intervals_hold_the_truth(accuracy, truth):
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        rate = study(rng, accuracy, truth=truth)[0].rate
        inside += rate.low <= truth <= rate.high
    assert 930 <= inside <= 970


def test_the_untuned_form_is_worse_than_people_alone_with_a_weak_judge():
    ses = [study(np.random.default_rng(s), 0.7, tuned=False)[0].rate.se for s in range(200)]
    assert np.mean(ses) == pytest.approx(0.0403, abs=5e-4)
    tuned = [study(np.random.default_rng(s), 0.7)[0].rate.se for s in range(200)]
    assert np.mean(tuned) < 0.0354 < np.mean(ses)


def test_gaps_and_bad_sides():
    rng = np.random.default_rng(0)
    y, f, rest = rng.random((3, 50))
    full = corrected.prediction_powered(y, f, rest)
    gaps = corrected.prediction_powered(
        np.r_[y, np.nan, 0.5], np.r_[f, 0.5, np.nan], np.r_[rest, np.nan]
    )
    assert gaps == full
    blind = corrected.prediction_powered(y, np.full(50, 0.5), np.full(50, 0.5))
    assert blind.weight == 0
    assert blind.rate.value == pytest.approx(y.mean())
    with pytest.raises(ValueError, match=r"\[n\] both"):
        corrected.prediction_powered(y, f[1:], rest)
    with pytest.raises(ValueError, match="two items at least"):
        corrected.prediction_powered(y[:1], f[:1], rest)


def test_a_share_with_its_own_error_is_corrected_alike():
    """A clustered share: only p's own term differs."""
    plain = corrected.rogan_gladen(680, 1000, **SIDES)
    alike = estimate.Estimate(0.68, (0.68 * 0.32 / 1000) ** 0.5, 1000)
    assert corrected.rogan_gladen_of(alike, **SIDES) == pytest.approx(plain)
    wider = corrected.rogan_gladen_of(alike._replace(se=0.05), **SIDES)
    assert wider.value == pytest.approx(plain.value)
    assert wider.se > plain.se
    with pytest.raises(ValueError, match="of one item at least; got none"):
        corrected.rogan_gladen_of(estimate.Estimate(float("nan"), 0.0, 0), **SIDES)

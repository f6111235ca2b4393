"""Thresholds by order statistics: the law of the realised rate, exact truths, refusals, files."""

import math

import numpy as np
import pytest
from scipy import stats

from alignjax.data import rows
from alignjax.evals import ranks
from alignjax.serving import calibration, thresholds
from alignjax.text import chat


def test_the_threshold_is_the_kth_smallest():
    scores = np.random.default_rng(0).permutation(500) / 500
    found = thresholds.order_statistic(scores, 0.05)
    assert (found.n, found.k) == (500, math.ceil(501 * 0.95))
    assert found.value == pytest.approx((found.k - 1) / 500)
    assert np.mean(scores > found.value) <= 0.05
    assert found.mean == pytest.approx((501 - found.k) / 501)
    assert stats.beta(501 - found.k, found.k).std() == pytest.approx(0.0097, abs=1e-4)


@pytest.mark.parametrize(("alpha", "n"), [(0.05, 200), (0.1, 40), (0.01, 100)])
def test_the_realised_rate_follows_its_beta_law(alpha, n):
    """Over calibrations; the rate on all further texts is known, as scores are normal."""
    rng = np.random.default_rng(1)
    found = [thresholds.order_statistic(rng.normal(size=n), alpha) for _ in range(2000)]
    rates = stats.norm.sf([one.value for one in found])
    law = stats.beta(found[0].n + 1 - found[0].k, found[0].k)
    assert stats.kstest(rates, law.cdf).pvalue > 0.001
    assert rates.mean() <= alpha + 3 * law.std() / math.sqrt(2000)
    low, high = found[0].interval()
    assert np.mean((rates >= low) & (rates <= high)) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("gap", "area", "recall"), [(2.0, 0.921, 0.639), (2.326, 0.950, 0.752), (3.0, 0.983, 0.912)]
)
def test_normal_scores_have_the_exact_area_and_recall(gap, area, recall):
    """Scores d' apart: AUC Phi(d'/sqrt 2), recall at a 5% rate Phi(d' - 1.645)."""
    rng = np.random.default_rng(2)
    assert stats.norm.cdf(gap / math.sqrt(2)) == pytest.approx(area, abs=5e-4)
    assert stats.norm.cdf(gap - stats.norm.isf(0.05)) == pytest.approx(recall, abs=6e-4)
    safe, unsafe = rng.normal(size=20_000), rng.normal(gap, 1, 20_000)
    found = ranks.auc(unsafe, safe)
    assert abs(found.value - area) < 3 * found.se + 5e-4
    limit = thresholds.order_statistic(safe, 0.05)
    assert np.mean(unsafe > limit.value) == pytest.approx(recall, abs=0.015)


def test_too_few_rows_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"at least 100 for .* of 0.01; got 99 \(de, amber\)") as e:
        thresholds.order_statistic(np.zeros(99), 0.01, "de, amber")
    assert "\n" not in str(e.value)
    assert thresholds.order_statistic(np.arange(100.0), 0.01).k == 100
    with pytest.raises(ValueError, match="1 of 100 that could not be told"):
        thresholds.order_statistic(np.array([np.nan, *range(99)]), 0.01)
    with pytest.raises(ValueError, match="max_false_positive"):
        thresholds.order_statistic(np.zeros(99), 1.0)


def scored(n=400, seed=0):
    rng = np.random.default_rng(seed)
    languages = np.where(np.arange(n) % 2, "de", "en")
    scores = rng.random((n, 2)) + np.where(languages == "de", 1.0, 0.0)[:, None]
    labels = np.zeros((n, 2))
    labels[::10] = 1
    labels[5::10, 1] = np.nan
    return scores, labels, languages


def test_each_language_and_category_has_its_own_and_missing_labels_have_no_part(tmp_path):
    scores, labels, languages = scored()
    found = thresholds.calibrate(scores, labels, languages, ("a", "b"), 0.1, guard="g")
    assert set(found.by) == {"de", "en", "*"}
    assert found.of("de")["a"].value > 1.8 > 1 > found.of("en")["a"].value
    assert (found.of("de")["a"].n, found.of("de")["b"].n) == (200, 160)
    assert found.of("fr") == found.of("*")
    assert found.of("*")["a"].n == 360
    rows = (languages == "en") & (labels[:, 0] == 0)
    assert found.of("en")["a"] == thresholds.order_statistic(scores[rows, 0], 0.1)
    one = thresholds.calibrate(scores, labels, languages, ("a", "b"), 0.1, own=("en",))
    assert set(one.by) == {"en", "*"}
    with pytest.raises(ValueError, match=r"at least 1000 .* got 200 "):
        thresholds.calibrate(scores, labels, languages, ("a", "b"), 0.001)
    thresholds.write(tmp_path / "t.json", found)
    assert thresholds.read(tmp_path / "t.json") == found
    with pytest.raises(ValueError, match="must be those of the guard"):
        found.check("another")
    (tmp_path / "bad.json").write_text('{"thresholds": {"en": {}}}')
    for name, match in (("bad.json", "as alignjax guard"), ("none.json", "must be a file")):
        with pytest.raises(ValueError, match=match):
            thresholds.read(tmp_path / name)


def test_two_guards_in_series_have_the_false_positives_of_both():
    """Independent guards of rates f1, f2 block safe texts at 1 - (1 - f1)(1 - f2)."""
    rng = np.random.default_rng(3)
    safe = rng.normal(size=(40_000, 2))
    first, second = (
        thresholds.order_statistic(safe[:20_000, i], f) for i, f in ((0, 0.05), (1, 0.1))
    )
    rest = safe[20_000:]
    both = (rest[:, 0] > first.value) | (rest[:, 1] > second.value)
    assert both.mean() == pytest.approx(1 - 0.95 * 0.9, abs=0.012)


def test_a_score_that_could_not_be_told_blocks():
    limits = thresholds.calibrate(*scored(), ("a", "b"), 0.1)
    scores, labels, languages = np.array([[np.nan, 0.0], [0.0, 0.0]]), np.zeros((2, 2)), ("en", "")
    own = calibration.Scored(scores, labels, np.ones(2), languages, ("a", "b"))
    np.testing.assert_array_equal(calibration.blocked(own, limits), [[True, False], [False, False]])


def test_a_new_guard_is_promoted_only_where_it_is_no_worse():
    rng = np.random.default_rng(4)
    unsafe = rng.random(4000) < 0.3
    old = np.where(unsafe, rng.random(4000) < 0.8, rng.random(4000) < 0.05)
    better = old | (unsafe & (rng.random(4000) < 0.5))
    assert calibration.compare(better, old, unsafe).is_promoted
    assert calibration.compare(old, old, unsafe).is_promoted
    worse = old & ~(unsafe & (rng.random(4000) < 0.03))
    found = calibration.compare(worse, old, unsafe)
    assert not found.is_promoted
    assert found.recall.value < -0.01
    noisy = old | (~unsafe & (rng.random(4000) < 0.03))
    assert not calibration.compare(noisy, old, unsafe).is_promoted
    with pytest.raises(ValueError, match="safe and unsafe"):
        calibration.compare(old, old, unsafe | True)
    # Rows in which nothing is unsafe and a label is missing say nothing.
    labels = np.array([[1, np.nan], [0, np.nan], [0, 0]])
    own = calibration.Scored(labels, labels, np.ones(3), ("",) * 3, ("a", "b"))
    found, known = calibration.unsafe_rows(own)
    np.testing.assert_array_equal(found, [True, False, False])
    np.testing.assert_array_equal(known, [True, False, True])


def test_non_inferiority_errs_at_its_rate():
    """A guard that loses exactly the margin is promoted in about 5% of comparisons, no more."""
    rng, promoted = np.random.default_rng(5), 0
    unsafe = np.arange(3000) < 1500
    for _ in range(400):
        lost, won = rng.random(3000) < 0.06, rng.random(3000) < 0.05
        old = np.where(unsafe, True, False) & ~won
        new = np.where(unsafe, ~lost, False)
        promoted += calibration.compare(new, old, unsafe).is_promoted
    assert promoted / 400 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_rows_of_a_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "one", "labels": {"a": 1}, "language": "en"}\n'
        '{"turns": [{"role": "user", "content": "x"}], "labels": {"a": 0, "b": null}}\n'
    )
    found = calibration.read(str(path))
    assert [row.labels for row in found] == [{"a": 1.0}, {"a": 0.0}]
    assert isinstance(found[0], rows.Labelled)
    assert found[0].turns == (chat.Turn(chat.HUMAN, "one"),)

"""Agreement: textbook tables, closed forms, two other implementations, and what is not counted."""

import gzip
import json
import os
import pathlib

import krippendorff as other
import numpy as np
import pytest

from alignjax.feedback import agreement, summary

NAN = float("nan")
# Krippendorff (2011): four raters, twelve units, with gaps.
TEXTBOOK = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
# Fleiss (1971): of 14 raters, how many gave each of five categories to each of ten subjects.
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
RECORDED = json.loads(pathlib.Path(__file__).with_name("statsmodels.json").read_text())


def fourteen() -> np.ndarray:
    return np.array([np.repeat(np.arange(5), row) for row in FLEISS], float).T


@pytest.mark.parametrize(
    ("metric", "want"),
    [("nominal", 0.743421052632), ("ordinal", 0.815387503755), ("interval", 0.849107142857)],
)
def test_krippendorffs_table(metric, want):
    assert agreement.krippendorff(TEXTBOOK, metric) == pytest.approx(want, abs=1e-9)


def test_fleiss_table():
    assert agreement.fleiss(fourteen()) == pytest.approx(0.209930704422, abs=1e-9)
    assert agreement.krippendorff(fourteen()) == pytest.approx(0.215574056533, abs=1e-9)


@pytest.mark.parametrize("metric", agreement.METRICS)
@pytest.mark.parametrize("seed", range(6))
def test_alpha_is_that_of_a_second_implementation(metric, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([0.0, 1.0, 1.5, 4.0, 9.0], (2 + seed, 40))
    values[rng.random(values.shape) < 0.1 * seed] = NAN
    want = other.alpha(values, level_of_measurement=metric)
    assert agreement.krippendorff(values, metric) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("case", RECORDED["tables"])
def test_kappas_are_those_of_a_second_implementation(case):
    values = np.array(case["ratings"], float)
    assert agreement.fleiss(values) == pytest.approx(case["fleiss"], abs=1e-9)
    assert agreement.cohen(*values[:2]) == pytest.approx(case["cohen"], abs=1e-9)


@pytest.mark.parametrize("case", RECORDED["shares"])
def test_exact_intervals_are_those_of_a_second_implementation(case):
    got = agreement.share(case["hits"], case["n"])
    assert [got.low, got.high] == pytest.approx(case["ends"], abs=1e-9)
    assert (got.value, got.n) == (case["hits"] / case["n"], case["n"])


@pytest.mark.parametrize(("accuracy", "equal", "kappa"), [(0.8, 0.68, 0.36), (0.9, 0.82, 0.64)])
def test_two_raters_of_known_accuracy(accuracy, equal, kappa):
    """The population as a table: 100 items a label, each rater right independently."""
    assert agreement.expected_agreement(accuracy) == pytest.approx(equal)
    assert agreement.expected_kappa(accuracy) == pytest.approx(kappa)
    right = [round(100 * p) for p in (accuracy**2, accuracy * (1 - accuracy), (1 - accuracy) ** 2)]
    both, one, none = right
    pattern = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [both, one, one, none], axis=0).T
    values = np.concatenate([pattern, 1 - pattern], axis=1).astype(float)
    assert agreement.raw(values) == pytest.approx(equal, abs=1e-9)
    assert agreement.cohen(*values) == pytest.approx(kappa, abs=1e-9)


def test_our_pandalm_set():
    """Three annotators of 760 comparisons: what any judge of them can reach."""
    beside = pathlib.Path(__file__).parents[3] / "shared"
    file = pathlib.Path(os.environ.get("ALIGNJAX_SHARED", beside)) / "data" / "pandalm"
    file /= "pandalm.train.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"no PandaLM data at {file}; set ALIGNJAX_SHARED to the shared folder")
    rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    values = np.array([[row[f"annotator{i}"] for row in rows] for i in (1, 2, 3)], float)
    assert agreement.unanimous(values) == pytest.approx(0.8895, abs=5e-5)
    assert agreement.fleiss(values) == pytest.approx(0.8770, abs=5e-5)
    assert agreement.krippendorff(values) == pytest.approx(0.8771, abs=5e-5)


STATISTICS = (
    agreement.raw,
    agreement.unanimous,
    *(lambda v, m=m: agreement.krippendorff(v, m) for m in agreement.METRICS),
)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_items_that_one_rater_saw_and_gaps_change_nothing(statistic):
    alone = np.full((4, 30), NAN)
    alone[0, :10], alone[1, 10:20], alone[3, 20:] = 3, 5, np.arange(10)
    assert statistic(np.concatenate([TEXTBOOK, alone], axis=1)) == statistic(TEXTBOOK)
    absent = np.concatenate([TEXTBOOK, np.full((2, 12), NAN)])
    assert statistic(absent) == statistic(TEXTBOOK)


@pytest.mark.parametrize("statistic", [*STATISTICS, agreement.fleiss])
def test_raters_and_items_have_no_order(statistic):
    values = fourteen()
    shuffled = np.random.default_rng(0).permuted(values, axis=0)[:, ::-1]
    assert statistic(shuffled) == pytest.approx(statistic(values), abs=1e-12)


def test_a_skip_is_a_gap_and_a_tie_a_category():
    labels = ("first", "second", "tie", "both_bad")
    rows = [("i", "ann", "first"), ("i", "bob", "first"), ("j", "ann", "tie"), ("j", "bob", "skip")]
    got = agreement.table(rows, labels)
    assert got.raters == ("ann", "bob")
    assert got.items == ("i", "j")
    assert got.labels == labels
    np.testing.assert_array_equal(got.values, [[0, 2], [0, NAN]])
    assert agreement.raw(got.values) == 1.0
    assert agreement.raw(agreement.table([*rows[:3], ("j", "bob", "first")], labels).values) == 0.5


def test_bad_judgements_are_refused():
    twice = [("i", "ann", 1.0), ("i", "ann", 2.0)]
    with pytest.raises(ValueError, match=r"must judge an item once; got two .* 'ann' \(item 'i'\)"):
        agreement.table(twice)
    with pytest.raises(ValueError, match="must be one of a, b, skip; got 'c'"):
        agreement.table([("i", "ann", "c")], ("a", "b"))
    with pytest.raises(ValueError, match="metric must be one of nominal, ordinal, interval"):
        agreement.krippendorff(TEXTBOOK, "ratio")
    with pytest.raises(ValueError, match=r"shape \[R, N\]; got \[3\]"):
        agreement.raw(np.zeros(3))
    with pytest.raises(ValueError, match="must be finite"):
        agreement.raw(np.full((2, 2), np.inf))


@pytest.mark.parametrize(
    "values",
    [np.zeros((3, 0)), np.array([[1, NAN], [NAN, 2]]), np.full((2, 5), NAN)],
    ids=["no items", "no overlap", "gaps alone"],
)
def test_without_overlap_all_is_undefined(values):
    for statistic in (*STATISTICS, agreement.fleiss):
        assert np.isnan(statistic(values))
    got = agreement.bootstrap(agreement.raw, values)
    assert np.isnan(got.value)
    assert got.as_dict() == {"value": None, "low": None, "high": None, "n": 0}


def test_one_category_alone_is_undefined_by_chance_but_not_raw():
    same = np.ones((3, 10))
    assert agreement.raw(same) == agreement.unanimous(same) == 1.0
    assert np.isnan([agreement.fleiss(same), agreement.krippendorff(same)]).all()
    assert np.isnan(agreement.cohen(same[0], same[1]))


def test_fleiss_is_undefined_for_unequal_counts():
    assert np.isnan(agreement.fleiss(TEXTBOOK))
    other_raters = np.array([[1, NAN, 2], [1, 2, NAN], [NAN, 2, 1]])
    assert np.isfinite(agreement.fleiss(other_raters))


def test_tau_b_by_hand():
    assert agreement.kendall([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    # One tie in the first: 5 of 5 ordered pairs agree, tau-b = 5 / sqrt(5 * 6).
    assert agreement.kendall([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(5 / 30**0.5)
    assert agreement.kendall([1, 2, NAN, 3], [3, 2, 9, 1]) == pytest.approx(-1)
    assert np.isnan(agreement.kendall([1, 1, 1], [1, 2, 3]))
    assert np.isnan(agreement.kendall([1, NAN], [NAN, 1]))
    rankings = np.array([[[1, 2, 3], [1, 2, 3]], [[1, 2, 3], [NAN] * 3], [[3, 2, 1], [NAN] * 3]])
    np.testing.assert_allclose(agreement.kendall_mean(rankings), [-1 / 3, NAN])


def test_intervals_cover_and_are_those_of_the_seed():
    """95 % intervals of alpha hold the population's (2 a - 1)^2 in about 95 % of studies."""
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(100):
        truth = rng.integers(0, 2, 150)
        wrong = rng.random((2, 150)) < 0.2
        got = agreement.bootstrap(agreement.krippendorff, truth ^ wrong, draws=200)
        inside += got.low <= agreement.expected_kappa(0.8) <= got.high
    assert 88 <= inside <= 99
    one, two, three = (
        agreement.bootstrap(agreement.raw, TEXTBOOK, seed=seed, draws=50) for seed in (1, 1, 2)
    )
    assert one == two != three


def test_a_summary_tells_the_careless_rater():
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, 400)
    values = (truth ^ (rng.random((3, 400)) < [[0.05], [0.1], [0.5]])).astype(float)
    values[0, :100] = NAN
    values[1:, 300:] = NAN
    names = ("ann", "bob", "eve")
    got = summary.summary(agreement.Ratings(values, names, tuple(map(str, range(400)))), draws=100)
    assert (got.items, got.overlapping, got.gaps) == (400, 300, 300)
    assert [r.rater for r in got.raters] == list(names)
    assert [(r.judged, r.overlapping) for r in got.raters] == [(300, 200), (300, 300), (300, 300)]
    ann, bob, eve = got.raters
    assert eve.kappa.high < 0.2 < 0.4 < min(ann.raw.low, bob.raw.low)
    assert eve.alpha_without > 0.6 > ann.alpha_without
    assert ann.kappa.low <= ann.kappa.value <= ann.kappa.high
    told = json.loads(json.dumps(got.as_dict(), allow_nan=False))
    assert told["fleiss"]["value"] is None
    assert told["alpha"]["value"] == agreement.krippendorff(values)
    assert told["raters"][2]["rater"] == "eve"


def test_raw_agreement_of_two_raters_has_an_exact_interval():
    values = np.ones((2, 20))
    got = summary.summary(agreement.Ratings(values, ("a", "b"), tuple("x" * 20)), draws=10)
    assert got.raw == agreement.share(20, 20)
    assert got.raw.low < 0.85  # drawn again, items that all agree would claim certainty

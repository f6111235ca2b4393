"""Results compared: errors of pairs, exact tests, many tests at once, and what is refused."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from alignjax.commands import compare as command
from alignjax.evals import compare, estimate, significance
from alignjax.evals.suites import record, run
from alignjax.main import main

IDENTITY = {"data": "d", "template": "t", "system": "s", "model": "m"}


def write(folder, values, clusters=None, weights=None, suite="own", **identity):
    """A result with the score `right`."""
    count = len(values)
    clusters = range(count) if clusters is None else clusters
    weights = np.ones(count) if weights is None else weights
    rows = [
        record.Result(str(i), str(c), "", {"right": (float(x), float(w))})
        for i, (x, c, w) in enumerate(zip(values, clusters, weights, strict=True))
    ]
    summary = {"suite": suite, "rows": count, "metrics": [], "identity": IDENTITY | identity}
    run.write(folder / suite, run.Outcome(rows, summary))
    return folder / suite


def difference(tmp_path, a, b, **options):
    sides = [
        compare.read(write(tmp_path / name, values, **options))
        for name, values in (("a", a), ("b", b))
    ]
    (own,) = compare.differences(*sides)
    return own


def test_mcnemar_is_exact():
    assert significance.mcnemar(10, 2) == pytest.approx(0.03857421875)
    assert significance.mcnemar(2, 10) == significance.mcnemar(10, 2)
    assert significance.mcnemar(0, 0) == 1.0


def test_no_number_has_no_p():
    for own in ((math.nan, 0.0, 5), (0.1, math.nan, 5), (0.1, 0.1, 1)):
        assert math.isnan(significance.t_test(estimate.Estimate(*own)))
    assert significance.t_test(estimate.Estimate(0.0, 0.0, 5)) == 1.0


def test_holm_by_hand():
    assert significance.holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx(
        [0.03, 0.06, 0.06, math.nan], nan_ok=True
    )
    assert significance.holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_keeps_the_family_error():
    """20 tests, 15 of them of nothing: in 2,000 families at most 5% find something there."""
    draw = np.random.default_rng(0)
    z = draw.normal(size=(2000, 20)) + np.array([0.0] * 15 + [4.0] * 5)
    chances = 2 * stats.norm.sf(np.abs(z))
    false = [min(significance.holm(row)[:15]) <= 0.05 for row in chances]
    plain = [min(row[:15]) <= 0.05 for row in chances]
    assert np.mean(false) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert np.mean(plain) > 0.4


def test_pairs_of_right_and_wrong_go_to_mcnemar(tmp_path):
    a = np.array([1] * 10 + [0] * 2 + [1] * 20 + [0] * 8)
    b = np.array([0] * 10 + [1] * 2 + [1] * 20 + [0] * 8)
    own = difference(tmp_path, a, b)
    assert (own.test, own.p) == (compare.MCNEMAR, pytest.approx(0.03857421875))
    assert own.difference.value == pytest.approx(-8 / 40)
    assert own.difference.se == pytest.approx(estimate.mean(b - a).se)


def test_pairs_that_go_together_have_a_smaller_error(tmp_path):
    draw = np.random.default_rng(0)
    hard = draw.normal(size=200)
    a, b = hard + 0.3 * draw.normal(size=200), hard + 0.1 + 0.3 * draw.normal(size=200)
    own = difference(tmp_path, a, b)
    paired = stats.ttest_rel(b, a)
    assert (own.test, own.p) == (compare.PAIRED_T, pytest.approx(paired.pvalue))
    unpaired = math.hypot(estimate.mean(a).se, estimate.mean(b).se)
    assert own.difference.se < 0.5 * unpaired


def test_clusters_are_kept_together(tmp_path):
    draw = np.random.default_rng(0)
    clusters = np.repeat(np.arange(20), 10)
    shift = draw.normal(size=20)[clusters]
    own = difference(tmp_path, np.zeros(200), shift, clusters=clusters)
    means = shift.reshape(20, 10)[:, 0]
    assert own.difference.n == 20
    assert own.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue, rel=1e-6)
    right = (draw.random(200) < 0.5).astype(float)
    assert difference(tmp_path, right, 1 - right, clusters=clusters).test == compare.PAIRED_T


def test_ratios_are_compared_as_ratios(tmp_path):
    weights = np.array([1.0, 3.0, 6.0])
    own = difference(tmp_path, [1, 2, 3], [2, 2, 8], weights=weights)
    assert (own.a, own.b) == (pytest.approx(0.6), pytest.approx(1.2))
    assert own.test == compare.PAIRED_T


def test_rows_that_one_side_could_not_score_are_left_out(tmp_path):
    own = difference(tmp_path, [1, 1, math.nan, 0], [0, 1, 1, 0])
    assert own.rows == 3
    assert own.difference.value == pytest.approx(-1 / 3)


def test_the_command_prints_a_table_and_json(tmp_path, capsys):
    a, b = (write(tmp_path / n, x).parent for n, x in (("a", [1, 0, 1]), ("b", [1, 1, 1])))
    assert main(["compare", str(a), str(b)]) == 0
    printed = capsys.readouterr().out
    assert "own: right" in printed
    assert "0.3333" in printed
    assert main(["compare", str(a / "own"), str(b / "own"), "--json"]) == 0
    (own,) = json.loads(capsys.readouterr().out)
    assert (own["suite"], own["rows"], own["p"]) == ("own", 3, 1.0)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("data", "rows"),
        ("template", "chat template"),
        ("system", "system prompt"),
        ("judge", "judge"),
        ("generate", "way of answering"),
    ],
)
def test_what_was_asked_otherwise_is_refused_by_name(tmp_path, capsys, name, word):
    a = write(tmp_path / "a", [1, 0])
    b = write(tmp_path / "b", [1, 0, 1], **{name: "another"})
    assert main(["compare", str(a), str(b)]) == 2
    error = capsys.readouterr().err
    assert f"another {word} (" in error
    assert main(["compare", str(a), str(b), "--allow_different"]) == 0
    assert "2 rows" in capsys.readouterr().out


def test_bad_input_ends_with_2(tmp_path, capsys):
    a = write(tmp_path / "a", [1, 0])
    other = write(tmp_path / "b", [1, 0], suite="other")
    (tmp_path / "empty").mkdir()
    damaged = write(tmp_path / "c", [1, 0])
    (damaged / run.ROWS).write_text("{")
    short = write(tmp_path / "d", [1, 0])
    (short / run.ROWS).write_text((short / run.ROWS).read_text().splitlines(keepends=True)[0])
    for words in (
        [], [str(a)], [str(a), str(tmp_path / "empty")], [str(a), str(other)],
        [str(a), str(damaged)], [str(a), str(short)], [str(a), str(a), str(a)],
        [str(a), str(short), "--allow_different"],
    ):  # fmt: skip
        assert main(["compare", *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "Traceback" not in error


def test_options_that_lead_are_words(tmp_path):
    assert [o.name for o in command.OPTIONS if o.leads] == ["a", "b"]

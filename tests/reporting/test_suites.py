"""Results of suites on the page of a report: tables, bars with intervals, damaged files."""

import json

import pytest

from alignjax.main import main
from alignjax.reporting import report, suites


def metric(name, value, se, category="", **more):
    return {
        "name": name, "value": value, "se": se, "category": category, "rows": 4, "clusters": 4,
        **more,
    }  # fmt: skip


METRICS = [
    metric("accuracy", 0.25, 0.1, "Age"),
    metric("accuracy", 0.5, 0.1),
    metric("bias", None, None, note="undefined: no answer names a group"),
    metric("bias", 0.3, 0.05, "Age"),
    metric("p", 0.2, None, "Age"),
]


def write(folder, name="own", metrics=METRICS):
    (folder / name).mkdir(parents=True)
    own = {"suite": name, "rows": 4, "unscored": 1, "metrics": metrics}
    identity = {"template": "ab" * 32, "system": "cd" * 32}
    (folder / name / "summary.json").write_text(json.dumps(own | {"identity": identity}))
    return folder


def test_the_page_shows_every_number_and_a_picture(tmp_path, capsys):
    write(tmp_path, "one")
    write(tmp_path, "<two>", [metric("mc1", 0.5, 0.1)])
    assert main(["report", f"--workdir={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    for text in (printed, page):
        assert "undefined: no answer names a group" in text
        assert "0.2500" in text
        assert "1 of them unscored" in text
    assert page.count("data:image/png;base64,") == 2
    assert "&lt;two&gt;" in page
    assert "abababab" in page
    assert "<h2>Results</h2>" not in page


def test_all_rows_come_first_and_a_metric_without_error_is_not_drawn(tmp_path):
    own = {"metrics": METRICS}
    assert [m["category"] for m in suites.ordered(own)] == ["", "", "Age", "Age", "Age"]
    panels = suites.bars(own)
    assert {name: [bar.label for bar in own] for name, own in panels.items()} == {
        "accuracy": ["all rows", "Age"], "bias": ["Age"],
    }  # fmt: skip
    assert panels["accuracy"][0].reach == pytest.approx(0.196)
    assert suites.figure({"metrics": [metric("p", 0.2, None)]}) is None


def test_metrics_without_categories_share_a_panel():
    own = {"metrics": [metric("strict", 0.2, 0.1), metric("loose", 0.3, 0.1)]}
    assert [bar.label for bar in suites.bars(own)["all rows"]] == ["strict", "loose"]


def test_a_runs_report_has_its_evaluations_below(tmp_path):
    (tmp_path / report.RESULTS).write_text(json.dumps({"label": "life", "rows": []}))
    write(tmp_path / "evaluations")
    text = report.write(tmp_path)
    assert text.startswith("life\n\nno results\n\nown: 4 rows")
    assert "<h2>own</h2>" in (tmp_path / "report.html").read_text()


def test_damaged_summaries_are_left_out(tmp_path):
    write(tmp_path)
    for name, text in (("torn", "{"), ("list", "[]"), ("other", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(text)
    assert [own["suite"] for own in suites.summaries_in(tmp_path)] == ["own"]
    (tmp_path / "none").mkdir()
    assert main(["report", f"--workdir={tmp_path / 'none'}"]) == 2

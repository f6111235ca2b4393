"""The report: every number of results.json is in the table and on the page, safely and alone."""

import html.parser
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from alignjax.reporting import figures, report, tables

HOSTILE = '<script src="https://evil.example/x.js">alert(1)</script> & "quotes" $x_{$ \x00\ud800'
ARMS = {  # science.md 5.1, seed 0: (gold, its standard error, KL, its standard error)
    "DPO": {"β=3": (1.20, 0.05, 0.20, 0.01), "β=1": (2.55, 0.05, 0.99, 0.02),
            "β=0.3": (4.61, 0.06, 4.5, 0.06), "β=0.1": (2.43, 0.09, 19.8, 0.2)},
    "PPO, reward model": {"β=1": (1.85, 0.05, 0.59, 0.02), "β=0.3": (3.55, 0.05, 2.6, 0.04),
            "β=0.1": (4.37, 0.05, 4.8, 0.06), "β=0.03": (5.09, 0.06, 10.4, 0.1)},
    "PPO, gold": {"β=2": (1.92, 0.05, 0.46, 0.02), "β=1": (3.88, 0.05, 1.85, 0.03)},
    "Best of n": {"n=4": (1.62, 0.07, 0.64, 0.0), "n=16": (2.71, 0.08, 1.84, 0.0),
            "n=64": (3.88, 0.08, 3.17, 0.0)},
}  # fmt: skip


def _results() -> dict:
    rows = [
        {"stage": "sft", "label": "SFT", "family": "SFT", "metrics": {
            "gold": {"value": -0.09, "se": 0.04}, "kl": {"value": 0.0, "se": 0.0},
            "nll": {"value": 0.0127, "se": 0.0004}}},
    ]  # fmt: skip
    for family, arms in ARMS.items():
        for label, (gold, gold_se, kl, kl_se) in arms.items():
            values = {"gold": {"value": gold, "se": gold_se}, "kl": {"value": kl, "se": kl_se}}
            rows.append({"stage": f"{family}-{label}", "label": f"{family} {label}",
                         "family": family, "metrics": values})  # fmt: skip
    rows[2]["metrics"]["gold"]["expected"] = 2.61
    return {
        "title": "Review world: a lifecycle",
        "description": "SFT, a reward model, DPO and PPO on a world whose optimum is known.",
        "environment": {"alignjax": "0.1.0", "jax": "0.10.2", "devices": "1 cpu"},
        "seconds": {"pretrain": 37.2, "sft": 12.0, "reward": 60.5, "dpo": 63.0, "ppo": 54.1},
        "columns": [
            {"key": "gold", "label": "gold reward", "digits": 2},
            {"key": "kl", "label": "KL (nats)", "digits": 2},
            {"key": "nll", "label": "excess nats/token", "digits": 4},
        ],
        "rows": rows,
        "frontier": {
            "kl": [0.0, 0.04, 0.16, 0.64, 2.68, 7.54, 13.5, 22.0],
            "gold": [-0.09, 0.6, 1.19, 2.47, 5.20, 8.62, 10.8, 12.4],
            "label": "exact optimum", "x": "kl", "y": "gold",
        },
        "curves": [
            {"stage": "pretrain", "label": "pretraining", "keys": ["loss"]},
            {"stage": "sft", "label": "SFT", "keys": ["loss"]},
            {"stage": "reward", "label": "reward model", "keys": ["loss", "accuracy"]},
            {"stage": "ppo", "label": "PPO β=0.3", "keys": ["reward", "kl"]},
        ],
        "samples": [
            {"prompt": "review of the soup, three stars",
             "answers": [
                 {"label": "SFT", "text": "the soup was warm and\nvery plain .", "score": -0.4},
                 {"label": "PPO β=0.3", "text": "a rich soup , good bread .", "score": 3.9}]},
            {"prompt": HOSTILE, "answers": [{"label": "DPO <b>", "text": HOSTILE, "score": None}]},
        ],
        "gates": [
            {"name": "pretraining excess", "value": 0.0167, "rule": "<= 0.04", "passed": True},
            {"name": "reward correlation", "value": 0.815, "rule": ">= 0.75", "passed": True},
            {"name": "efficiency of every arm", "value": 1.07, "rule": "<= 1.03", "passed": False},
        ],
        "baselines": ["longer answer wins: 0.523 ± 0.011"],
        "notes": ["2048 prompts each; reward by the world's own gold function"],
    }  # fmt: skip


def _folder(path, results):
    rng = np.random.default_rng(0)
    for stage, steps in {"pretrain": 600, "sft": 64, "reward": 1000, "ppo": 40}.items():
        (path / stage).mkdir()
        t = np.arange(steps) / steps
        values = {"loss": 1.6 + 2.5 * np.exp(-12 * t), "accuracy": 0.83 - 0.3 * np.exp(-6 * t),
                  "reward": 4 * t**0.6, "kl": 2.6 * t}  # fmt: skip
        values = {key: value + 0.06 * rng.normal(size=steps) for key, value in values.items()}
        rows = [{"step": i, **{k: float(v[i]) for k, v in values.items()}} for i in range(steps)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (path / stage / "metrics.jsonl").write_text(lines)
    (path / report.RESULTS).write_text(json.dumps(results))
    return path


class _Page(html.parser.HTMLParser):
    """Tags, attributes and the text outside style, in order."""

    def __init__(self, source: str):
        super().__init__()
        self.tags, self.attributes, self.text, self._inside = [], [], [], []
        self.feed(source)
        self.close()
        assert self._inside == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in ("meta", "img", "br"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        assert self._inside.pop() == tag

    def handle_data(self, data):
        if "style" not in self._inside:
            self.text.append(data)


def _page(path) -> _Page:
    return _Page((path / "report.html").read_text(encoding="utf-8"))


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder and the table of the full example."""
    folder = _folder(tmp_path_factory.mktemp("lifecycle"), _results())
    return folder, report.write(folder)


def test_table_holds_every_number(written):
    lines = written[1].splitlines()
    for row in _results()["rows"]:
        (line,) = [entry for entry in lines if entry.startswith(row["label"] + "  ")]
        gold, kl = row["metrics"]["gold"], row["metrics"]["kl"]
        assert f"{gold['value']:.2f} ± {gold['se']:.2f}" in line
        assert f"{kl['value']:.2f} ± {kl['se']:.2f}" in line
        assert line.rstrip().endswith("0.0127 ± 0.0004" if row["label"] == "SFT" else "-")
    assert "2.55 ± 0.05 [2.61]" in written[1]
    assert "time: 4 min (pretrain 37 s, sft 12 s, reward 60 s, dpo 63 s, ppo 54 s)" in lines
    assert "longer answer wins: 0.523 ± 0.011" in lines


def test_table_is_aligned(written):
    lines = written[1].split("\n\n")[1].splitlines()
    rows = [line for line in lines[1:] if "±" in line]
    assert len({line.index("±") for line in rows}) == 1
    assert len({[m.start() for m in re.finditer("±", line)][1] for line in rows}) == 1


def test_gates_are_listed(written):
    assert "gates: 2 of 3 passed" in written[1]
    assert re.search(r"^  FAIL  efficiency of every arm +1\.07 +<= 1\.03$", written[1], re.M)
    assert re.search(r"^  PASS  pretraining excess +0\.0167 +<= 0\.04$", written[1], re.M)


def test_page_holds_every_row_number_and_gate(written):
    page = _page(written[0])
    text = _squeezed(" ".join(page.text))
    for row in _results()["rows"]:
        gold = row["metrics"]["gold"]
        assert f"{row['label']} {gold['value']:.2f} ± {gold['se']:.2f}" in text
    assert "2.55 ± 0.05 expected 2.61" in text
    assert "Gates: 2 of 3 passed" in text
    for gate in _results()["gates"]:
        verdict = "PASS" if gate["passed"] else "FAIL"
        assert f"{gate['name']} {gate['value']:.4g} {gate['rule']} {verdict}" in text
    assert "jax 0.10.2" in text
    assert "the soup was warm and\nvery plain ." in "".join(page.text)


def test_page_escapes_and_refers_to_nothing_outside(written):
    page = _page(written[0])
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "alert(1)" in "".join(page.text)
    assert "\x00" not in "".join(page.text)
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "action", "srcset", "data"):
            assert (tag, value[:22]) == ("img", "data:image/png;base64,")
        assert "url(" not in (value or "")
    assert not re.search(r"url\(|@import", report.STYLE)
    assert ("meta", "name", "viewport") in page.attributes


@pytest.mark.parametrize("name", ["frontier.png", "curves.png"])
def test_figures_are_wide_and_drawn(written, name):
    image = Image.open(written[0] / name)
    assert image.width == 1400
    assert 600 <= image.height <= 2000
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert 0.02 < (pixels.min(axis=1) < 225).mean() < 0.4


def test_frontier_draws_each_family_in_its_colour(written):
    pixels = np.asarray(Image.open(written[0] / "frontier.png").convert("RGB")).reshape(-1, 3)
    for name, shade in figures.families(_results()).items():
        wanted = [int(shade[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - np.array(wanted)).max(axis=1) <= 2).sum() > 100, name


def test_the_grey_area_is_above_the_line_that_bounds_these_policies():
    exact = {"kl": [0.0, 1.0], "gold": [0.0, 2.0]}
    own = {"kl": [0.0, 0.5], "gold": [0.0, 3.0], "label": "its own"}
    assert figures.edge_of(exact).tolist() == [[0, 0], [1, 2]]
    assert figures.edge_of({**exact, "own": own}).tolist() == [[0, 0], [1, 2]]
    loose = {**exact, "is_bound": False}
    assert figures.edge_of({**loose, "own": own}).tolist() == [[0, 0], [0.5, 3]]
    assert len(figures.edge_of(loose)) == 0


@pytest.mark.parametrize(
    ("changes", "says", "says_not"),
    [
        ({}, "Nothing can lie in the grey area: the line is the exact", "does not bound"),
        ({"is_bound": False}, "does not bound them", "grey area"),
        ({"is_bound": False, "own": {"kl": [0, 1], "gold": [0, 9], "label": "own line"}},
         "nothing can lie in the grey area above the dashed line", "grey area: the line"),
    ],
)  # fmt: skip
def test_the_caption_says_what_the_lines_bound(tmp_path, changes, says, says_not):
    results = _results()
    results["frontier"] |= changes
    folder = _folder(tmp_path, results)
    report.write(folder)
    page = (folder / "report.html").read_text()
    assert says in page
    assert says_not not in page


def test_how_it_was_made_is_on_the_page(tmp_path):
    results = {**_results(), "command": "alignjax run --config=<b>", "seed": 7}
    folder = _folder(tmp_path, results)
    config = {"class": "a.B", "seed": 7, "dpo": {"class": "a.C", "beta": 0.25}}
    (folder / "config.json").write_text(json.dumps({"config": config}))
    assert "command: alignjax run --config=<b>" in report.write(folder)
    page = (folder / "report.html").read_text()
    assert "command: alignjax run --config=&lt;b&gt;" in page
    assert "seed: 7" in page
    assert "<summary>configuration</summary><pre>seed = 7\ndpo.beta = 0.25</pre>" in page


def test_points_join_in_order_of_kl():
    results = _results()
    results["rows"].reverse()
    dpo = figures.points(results)["DPO"]
    assert [p.label for p in dpo] == ["β=3", "β=1", "β=0.3", "β=0.1"]
    assert dpo[1] == ("β=1", 0.99, 2.55, 0.02, 0.05)


def test_writing_twice_gives_the_same_bytes(written):
    names = ["report.html", "frontier.png", "curves.png"]
    before = [(written[0] / name).read_bytes() for name in names]
    assert report.write(written[0]) == written[1]
    assert [(written[0] / name).read_bytes() for name in names] == before


def test_nothing_but_a_title(tmp_path):
    (tmp_path / report.RESULTS).write_text('{"title": "empty", "frontier": null, "rows": []}')
    (tmp_path / "frontier.png").write_bytes(b"of an earlier report")
    assert report.write(tmp_path) == "empty\n\nno results"
    assert "No results." in _page(tmp_path).text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "results.json"]


def test_bare_objects_are_tolerated(tmp_path):
    results = {"columns": [{"key": "gold"}], "rows": [{}, {"label": "a", "metrics": {"gold": 1.5}}],
               "frontier": {"kl": [], "gold": []}, "curves": [{"stage": "none", "keys": ["loss"]}],
               "gates": [{"name": "g"}], "samples": [{}, {"answers": [{}]}]}  # fmt: skip
    (tmp_path / report.RESULTS).write_text(json.dumps(results))
    assert re.search(r"^a +1\.50$", report.write(tmp_path), re.M)
    assert "Not drawn, without both numbers" in "".join(_page(tmp_path).text)


def test_torn_and_missing_metrics(tmp_path):
    _folder(tmp_path, _results())
    (tmp_path / "sft" / "metrics.jsonl").unlink()
    torn = tmp_path / "pretrain" / "metrics.jsonl"
    torn.write_text('{"step": 0, "loss": 3.0}\n7\n{"step": 1, "loss": "nan"}\n{"step": 2, "lo')
    (tmp_path / "ppo" / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    report.write(tmp_path)
    steps, values = figures.series(report._rows(torn), "loss")
    np.testing.assert_array_equal(steps, [0, 1])
    np.testing.assert_array_equal(values, [3.0, math.nan])
    assert Image.open(tmp_path / "curves.png").width == 1400


def test_nan_is_shown_and_not_drawn(tmp_path):
    results = _results()
    results["rows"][1]["metrics"]["gold"] = {"value": "nan", "se": math.nan, "expected": 1.0}
    results["rows"][2]["metrics"]["kl"] = {"value": math.inf, "se": None}
    results["gates"][0] |= {"value": "nan", "passed": False}
    _folder(tmp_path, results)
    table = report.write(tmp_path)
    assert "nan ± nan" in table
    assert re.search(r"FAIL  pretraining excess +nan", table)
    text = "".join(_page(tmp_path).text)
    assert "Not drawn, without both numbers: DPO β=3, DPO β=1." in text
    assert [p.label for p in figures.points(results)["DPO"]] == ["β=0.3", "β=0.1"]


@pytest.mark.parametrize("content", [None, "", "[]", '{"title": '])
def test_unreadable_results_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / report.RESULTS).write_text(content)
    with pytest.raises(ValueError, match=r"results\.json must"):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("metric", "digits", "shown"),
    [
        ({"value": 2.549, "se": 0.051}, 2, ("2.55", "± 0.05", "")),
        ({"value": 2.549, "se": 0.0004}, 2, ("2.5490", "± 0.0004", "")),
        ({"value": -0.001, "se": 0.0}, 2, ("0.00", "± 0.00", "")),
        ({"value": 0.5}, 3, ("0.500", "", "")),
        ({"value": None, "expected": 2}, 1, ("-", "", "[2.0]")),
        ("inf", 2, ("inf", "", "")),
        (None, 2, ("-", "", "")),
    ],
)
def test_cell(metric, digits, shown):
    assert tables.cell({"metrics": {"m": metric}}, {"key": "m", "digits": digits}) == shown


def test_smoothing_keeps_constants_and_skips_nan():
    values = np.full(80, 3.0)
    values[[0, 40, 41]] = math.nan
    np.testing.assert_allclose(figures.smoothed(values), 3.0, rtol=1e-12)
    assert np.isnan(figures.smoothed(np.full(5, math.nan))).all()


def test_series_takes_the_last_of_a_step_in_order():
    rows = [{"step": 2, "x": 5.0}, {"step": 1, "x": 1}, {"step": 2, "x": "inf"}, {"y": 0}]
    steps, values = figures.series(rows, "x")
    np.testing.assert_array_equal(steps, [1, 2])
    np.testing.assert_array_equal(values, [1.0, math.nan])


def test_hostile_labels_are_drawn_as_they_stand(tmp_path):
    results = _results()
    for item in (*results["rows"], *results["columns"], *results["curves"], results["frontier"]):
        item["label"] = f"$\\frac{{ {HOSTILE}"
    _folder(tmp_path, results)
    assert "\x00" not in report.write(tmp_path)
    Image.open(io.BytesIO((tmp_path / "frontier.png").read_bytes())).verify()

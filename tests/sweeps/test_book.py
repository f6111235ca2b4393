"""docs/ablations.md and EXPECTED of the experiment files are those of the committed sweeps."""

import importlib
import json
import pathlib

import pytest

from alignjax import main
from alignjax.sweeps import book, folder, judged, record
from tests.commands import cli

DOCS = cli.ROOT / "docs"
FOLDER = DOCS / "ablations"
REPORTS = book.read(FOLDER)


def test_the_page_is_made_of_the_committed_sweeps():
    assert (DOCS / "ablations.md").read_text() == book.text(FOLDER)
    assert REPORTS


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_a_files_numbers_and_verdict_are_those_of_its_sweep(name):
    content = REPORTS[name]
    file, _, variant = content["spec"].partition(":")
    module = importlib.import_module(f"alignjax.experiments.{pathlib.Path(file).stem}")
    own = module.sweep(variant)
    own.validate()
    known = book.values(content)
    assert [*known] == [*own.arms]
    assert book.sweep_of(content).gates == own.gates
    assert judged.verdict(judged.gates(known, own)) == content["verdict"] == own.verdict
    for arm, measures in module.EXPECTED[variant].items():
        for measure, (mean, sd, n) in measures.items():
            found = judged.summary(known[arm][measure])
            assert mean == pytest.approx(found.mean, rel=1e-4, abs=1e-6)
            assert sd == pytest.approx(found.sd, rel=1e-2, abs=1e-6)
            assert n == found.n
    assert module.EXPECTED[variant].keys() == own.arms.keys()


def report(verdict: str, values: dict) -> dict:
    own = record.Sweep(
        arms={"a": {}, "b": {}},
        baseline="a",
        measures=(record.Measure(name="x", key="x"),),
        paper="A paper",
        claim="A claim.",
        gates=(record.Gate(measure="x", arm="b", other="a", rule=">", bound=0.0),),
    )
    return {
        "spec": "experiments/some.py:tiny", "sweep": own.as_dict(), "arms": {"a": {}, "b": {}},
        "seeds": [0, 1], "values": values, "verdict": verdict, "missing": [], "cpu_seconds": 120,
        "environment": {"jax": "1"}, "origin": {"commit": "c0ffee"},
    }  # fmt: skip


def test_what_does_not_reproduce_stands_on_top(tmp_path):
    values = {"a": {"x": {"0": 1.0, "1": 2.0}}, "b": {"x": {"0": "nan", "1": 0.5}}}
    for name, verdict in (("good", record.REPRODUCED), ("bad", record.NOT)):
        (tmp_path / f"{name}.json").write_text(json.dumps(report(verdict, values)))
    page = book.text(tmp_path)
    negative, _, rest = page.partition("## All")
    assert "[bad](#bad)" in negative
    assert "[good](#good)" not in negative
    assert "| [good](#good) | A claim. | reproduced | 2 | 2 CPU minutes |" in rest
    assert "| a | 1.500 sd 0.707 n 2 |" in rest
    assert "| b | n 1 |" in rest
    assert "| x: b minus a | shape | -1.500 | - .. - | > 0 | open |" in rest


def test_only_a_sweep_goes_into_the_book(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    for option in ("--expected", f"--book={tmp_path / 'book'}"):
        assert main.main(["report", f"--workdir={tmp_path / 'run'}", option]) == 2
        assert "must be of a sweep's folder" in capsys.readouterr().err
    assert not folder.is_sweep(tmp_path / "run")

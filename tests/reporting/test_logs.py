"""`alignjax compare` of training runs: what their logs say, side by side."""

import json
import pathlib

import pytest

from alignjax import main
from alignjax.reporting import logs


def write(folder, values, **others):
    folder.mkdir()
    rows = [{"step": i, "loss": x, **others} for i, x in enumerate(values)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    return [
        write(tmp_path / "a", [3.0, 1.0, 2.0], reward=0.5),
        write(tmp_path / "b", [4.0, "nan", 1.5, 1.5]),
        write(tmp_path / "c", [2.0]),
    ]


def call(capsys, *argv):
    capsys.readouterr()
    code = main.main(["compare", *argv])
    return code, *capsys.readouterr()


def test_a_run_has_its_last_value_and_both_extremes(runs):
    found = [logs.read(pathlib.Path(run)) for run in runs]
    assert found[0]["loss"] == logs.Extent(2.0, 2, 1.0, 1, 3.0, 0)
    assert found[1]["loss"] == logs.Extent(1.5, 3, 1.5, 2, 4.0, 0)  # nan is no extreme
    assert "reward" not in found[1]


def test_two_and_more_runs_are_put_side_by_side(capsys, runs):
    code, out, _ = call(capsys, *runs)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [runs[0], "2", "at", "2", "1", "at", "1", "3", "at", "0"] in lines
    assert [line[0] for line in lines] == ["last", "loss", *runs, "reward", runs[0]]
    code, out, _ = call(capsys, *runs[:2], "--json")
    assert code == 0
    rows = json.loads(out)
    assert [(row["metric"], row["run"]) for row in rows] == [
        ("loss", runs[0]), ("loss", runs[1]), ("reward", runs[0]),
    ]  # fmt: skip
    assert rows[1]["highest"] == 4.0


def test_what_is_no_run_is_refused_in_one_line(capsys, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    for argv, said in (
        ((runs[0], runs[1], str(tmp_path / "empty")), "must have rows in metrics.jsonl"),
        ((runs[0], str(tmp_path / "empty")), "a side must be a result of"),
        ((runs[0], runs[1], runs[0]), "named once"),
        ((runs[0],), "must have two results"),
    ):
        code, out, err = call(capsys, *argv)
        assert (code, out) == (2, ""), err
        assert said in err
        assert len(err.splitlines()) == 1

"""Several processes on one prepared table, and on caches of their own."""

import json

import pytest

from tests.commands import cli
from tests.data import sources
from tests.processes import launch


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [pytest.param(True, marks=pytest.mark.ci), False])
def test_processes_share_101_rows_and_take_the_steps_of_one(shared, tmp_path):
    """Each reads its own rows; every one takes as many steps, and as many as one process does."""
    path = sources.folder(tmp_path / "data", train=(50, 51), eval_rows=7)
    argv = ("train", "--config=experiments/hh_sft.py:micro", f"--config.data.path={path}",
            "--config.data.max_unusable_share=0.5", "--config.loop.steps=30",
            "--config.data.pack=false")  # fmt: skip
    places = [tmp_path / ("cache" if shared else f"cache{index}") for index in (0, 1)]
    own = {index: [f"--data_cache={place}"] for index, place in enumerate(places)}
    launch.run(tmp_path / "logs", *argv, f"--workdir={tmp_path / 'two'}", own=own, devices=1)
    cli.run(*argv, f"--workdir={tmp_path / 'one'}", devices=2)
    found, expected = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert len(found) == 30
    assert found == pytest.approx(expected, rel=1e-4)
    for place in places:
        (manifest,) = [json.loads(file.read_text())["values"] for file in place.rglob("table.json")]
        assert manifest["counts"]["read"] == 101

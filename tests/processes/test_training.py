"""Runs on several processes: the losses of one process, one voice, one checkpoint."""

import pathlib

import pytest

from alignjax.training import metrics
from tests.processes import launch


def losses(workdir: pathlib.Path) -> dict[str, list[list[float]]]:
    """Loss and gradient norm of every step of every run under a folder."""
    return {
        str(file.parent.relative_to(workdir)): [
            [row["loss"], row["grad_norm"]] for row in metrics.read(file)
        ]
        for file in sorted(workdir.rglob(metrics.FILE))
    }


def assert_close(one: pathlib.Path, other: pathlib.Path, bound: float = 1e-5) -> None:
    left, right = losses(one), losses(other)
    assert left.keys() == right.keys()
    assert left
    for name, rows in left.items():
        assert len(rows) == len(right[name]), name
        for step, (a, b) in enumerate(zip(rows, right[name], strict=True)):
            assert a == pytest.approx(b, rel=bound, abs=bound), (name, step)


def train(folder: pathlib.Path, name: str, *words: str, count: int = 2, devices: int = 2):
    """(workdir, processes) of the tiny run, ended."""
    config = launch.config_file(folder)
    argv = ("train", f"--config={config}", f"--workdir={folder / name}", *words)
    return folder / name, launch.run(folder / f"logs-{name}", *argv, count=count, devices=devices)


def test_two_processes_train_as_one_does(tmp_path):
    one, _ = train(tmp_path, "one", "--config.loop.steps=2", count=1, devices=4)
    two, processes = train(tmp_path, "two", "--config.loop.steps=2")
    assert_close(one, two)
    assert processes.out(0) == f"finished: {two}"
    assert processes.out(1) == ""
    assert processes.err(1) == ""

"""Runs on several processes: the losses of one process, one voice, one checkpoint."""

import json
import pathlib
import shutil

import pytest

from alignjax.cli import config_file
from alignjax.runs import train as runs
from alignjax.training import metrics
from tests.commands import cli
from tests.commands.conftest import MICRO
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


@pytest.mark.slow
@pytest.mark.ci
def test_two_processes_train_as_one_does(tmp_path):
    """The quick guard of all that follows."""
    file, two = launch.config_file(tmp_path), tmp_path / "two"
    argv = ("train", f"--config={file}", "--config.loop.steps=2", f"--workdir={two}")
    processes = launch.start(tmp_path / "logs", *argv, devices=1)
    _, config, _ = config_file.load(str(file))
    config.loop.steps = 2
    runs.train(config, tmp_path / "one", name="one", log=lambda line: None)
    assert processes.codes() == [0, 0], processes.report()
    assert_close(tmp_path / "one", two)
    assert processes.out(0) == f"finished: {two}\n"
    assert processes.out(1) == ""
    assert processes.err(1) == ""


@pytest.mark.slow
@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.ci), 4])
def test_a_lifecycle_of_several_processes_has_the_losses_of_one(tmp_path, lifecycle, count):
    several = tmp_path / "several"
    processes = launch.run(
        tmp_path / "logs", "run", *MICRO, f"--workdir={several}", count=count, devices=2
    )
    assert_close(lifecycle, several)
    for index in range(1, count):
        assert processes.out(index) + processes.err(index) == ""
    rows = [json.loads((f / "results.json").read_text())["rows"] for f in (lifecycle, several)]
    for one, other in zip(*rows, strict=True):
        for name, found in one["metrics"].items():
            assert other["metrics"][name]["value"] == pytest.approx(found["value"], abs=1e-3), name
    written = [
        {str(p.relative_to(folder)) for p in folder.rglob("*.json*")}
        for folder in (lifecycle, several)
    ]
    # Columns kept on disk are named after the program, which differs; those of checkpoints, too.
    own = [
        {p for p in each if not {"checkpoints", "data_cache"} & set(pathlib.Path(p).parts)}
        for each in written
    ]
    assert own[0] == own[1]


@pytest.mark.slow
def test_single_answers_train_as_in_one_process(tmp_path, lifecycle):
    """KTO, which the lifecycle does not have, on its pairs taken one by one."""
    algorithm = "importlib.import_module('alignjax.algorithms.unpaired').UnpairedConfig()"
    changes = f"import importlib; config.algorithm = {algorithm}; config.loop.steps = 2"
    file = cli.stage_config(tmp_path, lifecycle / "dpo-1", changes)
    two = tmp_path / "two"
    processes = launch.start(tmp_path / "logs", "train", f"--config={file}", f"--workdir={two}")
    _, config, _ = config_file.load(str(file))
    runs.train(config, tmp_path / "one", name="one", log=lambda line: None)
    assert processes.codes() == [0, 0], processes.report()
    assert_close(tmp_path / "one", two)


STEADY = ("--config.optim.schedule=constant", "--config.optim.warmup_steps=0")


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """(a run of two processes, one of half its steps)."""
    folder = tmp_path_factory.mktemp("halfway")
    whole, _ = train(folder, "whole", *STEADY)
    half, _ = train(folder, "half", *STEADY, "--config.loop.steps=4")
    return whole, half


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "count", "devices"),
    [
        ((), 1, 1),
        pytest.param(("--config.mesh.model=2",), 1, 4, marks=pytest.mark.ci),
        ((), 4, 2),
        (("--config.mesh.model=2",), 2, 1),
    ],
)
def test_a_checkpoint_goes_on_with_other_processes_and_meshes(
    tmp_path, halfway, mesh, count, devices
):
    """R7"""
    whole, half = halfway
    shutil.copytree(half, tmp_path / "other")
    other, _ = train(tmp_path, "other", *STEADY, *mesh, count=count, devices=devices)
    assert_close(whole, other)
    cli.run("verify", f"--workdir={other}")  # on a single device


@pytest.mark.slow
@pytest.mark.ci
def test_101_rows_end_every_process_at_the_same_step_and_count_once(tmp_path):
    """R40: 101 rows to train on, more than once over, and 101 to evaluate, 8 at a time."""
    words = (
        "--config.data.demonstrations=101",
        "--config.data.eval_rows=101",
        "--config.loop.steps=27",
    )
    found = []
    for name, count, devices in (("one", 1, 4), ("two", 2, 2)):
        workdir, _ = train(tmp_path, name, *words, count=count, devices=devices)
        argv = ("evaluate", f"--workdir={workdir}", "--rows=8", "--json")
        ended = launch.run(tmp_path / f"eval-{name}", *argv, count=count, devices=devices)
        found.append(json.loads(ended.out(0))["nats a token"])
    assert_close(tmp_path / "one", tmp_path / "two")
    assert [f["n"] for f in found] == [101, 101]
    assert found[0]["value"] == pytest.approx(found[1]["value"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.ci
def test_rows_are_disjoint_and_complete_and_samples_differ_across_processes(tmp_path):
    """Each process's rows and draws against those of one process with all devices."""
    script = str(pathlib.Path(__file__).with_name("rows.py"))
    one = launch.run(tmp_path / "one", script, count=1, devices=4)
    two = launch.run(tmp_path / "two", script, count=2, devices=2)
    whole, *parts = (json.loads(run.out(i)) for run, i in ((one, 0), (two, 0), (two, 1)))
    for mesh, found in whole.items():
        assert found["own"] == list(range(8))
        own = [part[mesh]["own"] for part in parts]
        shared = mesh == "(1, 4)"  # one shard of the batch, which both processes hold
        assert own == ([found["own"]] * 2 if shared else [[0, 1, 2, 3], [4, 5, 6, 7]])
        for part in parts:
            assert part[mesh]["whole"] == found["whole"]
            assert part[mesh]["local"] == [found["whole"][row] for row in part[mesh]["own"]]
            assert part[mesh]["drawn"] == [found["drawn"][row] for row in part[mesh]["own"]]
        draws = [tuple(row) for row in found["drawn"]]
        assert len(set(draws)) == len(draws)  # of one and the same prompt


UNREADABLE = """
import orbax.checkpoint as ocp

inner = ocp.CheckpointManager.restore

def restore(self, step, args=None, **more):
    if {which} and step == 8 and "params" in args.keys():
        raise OSError("a disk that this host alone reads")
    return inner(self, step, args=args, **more)

ocp.CheckpointManager.restore = restore
"""


@pytest.mark.slow
def test_a_damaged_step_is_passed_over_by_all(tmp_path):
    """R9: and the end is that of a run without the damage."""
    steady = ("--config.optim.schedule=constant", "--config.optim.warmup_steps=0")
    whole, _ = train(tmp_path, "whole", *steady, "--config.loop.steps=10")
    harmed, _ = train(tmp_path, "harmed", *steady)
    for which, code in (("index == 1", 1), ("True", 0)):
        config = launch.config_file(tmp_path, fault=UNREADABLE.replace("{which}", which))
        argv = ("train", f"--config={config}", *steady, "--config.loop.steps=10")
        processes = launch.run(tmp_path / f"logs-{code}", *argv, f"--workdir={harmed}", code=code)
        if code:  # what one process alone can't read ends all, in words
            for index in (0, 1):
                assert "can't be read by process 1 alone: OSError" in processes.err(index)
    assert "warning: checkpoint 8 is damaged: files are damaged (OSError" in processes.err(0)
    assert (harmed / "damaged" / "8").is_dir()
    assert cli.stored_checksums(harmed) == cli.stored_checksums(whole)

"""Trackers: what they get, that they go on where they were, and that none can stop a run."""

import contextlib
import json
import sqlite3
import sys
import types

import pytest

from alignjax import main
from alignjax.training import metrics, trackers


@pytest.fixture
def packages(monkeypatch):
    """wandb, mlflow and trackio that note what they are asked; `fail` is raised by what is sent."""
    noted = types.SimpleNamespace(calls=[], fail=None)

    def send(*values):
        if noted.fail is not None:
            raise noted.fail
        noted.calls.append(values)

    class Run:
        def log(self, values, step):
            send("log", step, values)

        def finish(self, exit_code=0):
            send("finish", exit_code)

    def init(**how):
        send("init", how)
        return Run()

    class Client:
        def get_experiment_by_name(self, name):
            send("experiment", name)

        def create_experiment(self, name):
            return "7"

        def create_run(self, place, run_name):
            send("run", place, run_name)
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

        def log_param(self, run, name, value):
            send("param", run, name, value)

        def log_batch(self, run, metrics):
            send("batch", run, metrics)

        def set_terminated(self, run, status):
            send("status", run, status)

    made = {name: types.ModuleType(name) for name in trackers.NAMES}
    made["wandb"].init, made["wandb"].Settings = init, lambda **how: how
    made["trackio"].init = init
    made["mlflow"].MlflowClient = Client
    made["mlflow"].entities = types.SimpleNamespace(Metric=lambda *values: values)
    for name, module in made.items():
        module.__spec__ = types.SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, module)
    return noted


def opened(folder, names, lines, config=None):
    tracking = trackers.Tracking(tuple(names), "mine")
    return trackers.opened(tracking, folder, config or {"loop.steps": 3}, lines.append)


def write(folder, tracked, step, values):
    writer = metrics.Writer(folder, start=step, tracked=tracked)
    writer.write(step, values)
    writer.write_speed(step, {"step_seconds": 0.5})
    writer.close()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_they_get_every_row_and_go_on_in_the_same_run(packages, tmp_path, name):
    lines = []
    for step in (0, 1):
        with opened(tmp_path, [name], lines) as tracked:
            write(tmp_path, tracked, step, {"loss": 1.5, "eval/x": 2.0})
    first, second = (how for kind, how in packages.calls[::4] if kind == "init")
    key = "id" if name == "wandb" else "name"
    assert first[key] == second[key] == json.loads((tmp_path / trackers.FILE).read_text())[name]
    assert first["project"] == "mine"
    assert first["config"] == {"loop.steps": 3}
    assert packages.calls[1:4] == [
        ("log", 0, {"loss": 1.5, "eval/x": 2.0}),
        ("log", 0, {"speed/step_seconds": 0.5}),
        ("finish", 0),
    ]
    assert lines == []


def test_mlflow_gets_names_that_it_takes(packages, tmp_path):
    with opened(tmp_path, ["mlflow"], []) as tracked:
        write(tmp_path, tracked, 4, {"eval/KL, nats (a token)": 2.0})
    with pytest.raises(RuntimeError), opened(tmp_path, ["mlflow"], []):
        raise RuntimeError
    assert packages.calls[:3] == [
        ("experiment", "mine"), ("run", "7", tmp_path.name), ("param", "abc", "loop.steps", "3"),
    ]  # fmt: skip
    (_, run, ((name, value, _, step),)) = packages.calls[3]
    assert (run, name, value, step) == ("abc", "eval/KL- nats -a token-", 2.0, 4)
    assert packages.calls[5:] == [
        ("status", "abc", "FINISHED"), ("status", "abc", "RUNNING"), ("status", "abc", "FAILED"),
    ]  # fmt: skip


def test_one_that_fails_is_told_once_and_the_files_have_all(packages, tmp_path):
    lines = []
    with opened(tmp_path, ["wandb", "mlflow"], lines) as tracked:
        packages.fail = OSError("gone")
        for step in (0, 1):
            write(tmp_path, tracked, step, {"loss": 1.0})
    assert len(lines) == 2
    assert lines[0].startswith("warning: wandb gets no more of this run (OSError: gone)")
    assert [row["step"] for row in metrics.read(tmp_path / metrics.FILE)] == [0, 1]


def test_one_that_cannot_begin_is_a_line_before_the_first_step(packages, tmp_path):
    packages.fail = RuntimeError("no key\nmore of it")
    with (
        pytest.raises(ValueError, match="--tracker=wandb must be able to begin") as told,
        opened(tmp_path, ["wandb"], []),
    ):
        pass
    assert "\n" not in str(told.value)
    assert "WANDB_MODE=offline" in str(told.value)
    assert not (tmp_path / trackers.FILE).exists()


def test_none_asked_is_none(tmp_path):
    with trackers.opened(trackers.NONE, tmp_path, {}, print) as tracked:
        assert tracked is None


def test_what_is_unknown_or_not_installed_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    for name, says in (
        ("comet", "must name one of wandb, mlflow, trackio"),
        (
            "wandb",
            "it is not installed. Run pip install 'alignjax[wandb]'",
        ),
    ):
        with pytest.raises(ValueError, match="--tracker"):
            trackers.parse(name, "p")
        argv = ("train", "--config=hh_sft:tiny", f"--tracker={name}", f"--workdir={tmp_path}/run")
        code = main.main([*argv])
        err = capsys.readouterr().err
        assert code == 2
        assert says in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "run").exists()
    assert trackers.parse("", "p").names == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", trackers.NAMES)
def test_the_packages_themselves_offline(tmp_path, monkeypatch, name):
    """Where the extra is installed: two starts of a run are one run there, with every step."""
    monkeypatch.chdir(tmp_path)
    for variable, value in (
        ("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"),
        ("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db"),
        ("TRACKIO_DIR", str(tmp_path / "trackio")),
    ):  # fmt: skip
        monkeypatch.setenv(variable, value)
    pytest.importorskip(name)  # trackio reads its folder when it is imported
    lines = []
    for step in (0, 1):
        with opened(tmp_path, [name], lines) as tracked:
            write(tmp_path, tracked, step, {"loss": 1.5, "eval/KL, nats": 2.0})
    assert lines == []
    if name == "wandb":
        assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
        return
    file = tmp_path / "mlflow.db" if name == "mlflow" else tmp_path / "trackio" / "mine.db"
    with contextlib.closing(sqlite3.connect(file)) as base:
        steps = {row[0] for row in base.execute("select step from metrics")}
    assert steps == {0, 1}

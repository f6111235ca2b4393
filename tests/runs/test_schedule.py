"""A run goes on with the learning-rate schedule that it began with, or says that it does not."""

import dataclasses

import pytest

from alignjax.runs import folder, train
from alignjax.runs import starts as own_starts
from alignjax.training import optim, schedules
from tests.runs import starts


def config_of(steps, schedule="linear"):
    config = starts.make(starts.PullConfig())
    config.loop = dataclasses.replace(config.loop, steps=steps)
    config.optim = optim.OptimConfig(learning_rate=0.02, warmup_steps=0, schedule=schedule)
    return config


def go(tmp_path, steps, schedule="linear", **options):
    lines = []
    run = tmp_path / "run"
    train.train(config_of(steps, schedule), run, name="run", log=lines.append, **options)
    return run, lines


def test_a_moved_schedule_is_refused_and_nothing_changes(tmp_path):
    run, lines = go(tmp_path, 2, command="alignjax train --config=x")
    assert not [line for line in lines if "schedule" in line]
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"loop\.steps=4 where it was 2.*--allow_moved_sch"):
        go(tmp_path, 4)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert [row["command"] for row in own_starts.read(run)] == ["alignjax train --config=x"]


def test_asked_for_it_is_told_and_written_down(tmp_path):
    go(tmp_path, 2)
    run, lines = go(tmp_path, 4, allow_moved_schedule=True)
    told = [line for line in lines if "moves the learning-rate schedule" in line]
    assert told == [
        "run: loop.steps was 2 and is 4, which moves the learning-rate schedule: the rate of step "
        "2 was to be 0 and is 0.01."
    ]
    assert "run: resumed from step 2 of 4." in lines
    first, second = own_starts.read(run)
    assert "moved" not in first
    assert second["moved"] == {
        "step": 2, "asked": 2, "steps": 4, "at": 2, "before": 0.0, "now": pytest.approx(0.01)
    }  # fmt: skip
    assert (first["step"], second["step"], second["steps"]) == (0, 2, 4)
    assert folder.read(run).config.loop.steps == 4


def test_a_constant_rate_has_no_schedule_to_move(tmp_path):
    go(tmp_path, 1, "constant")
    run, _ = go(tmp_path, 2, "constant")
    assert len(own_starts.read(run)) == 2


def test_all_steps_to_come_are_compared():
    """During a warm-up that does not depend on the steps, the rates agree at first."""
    config = optim.OptimConfig(learning_rate=1.0, warmup_steps=5, schedule="cosine")
    change = schedules.moved(config, 1, step=2, asked=100, steps=200)
    assert change is not None
    assert change.at > 5
    assert change.before < change.now
    assert schedules.moved(config, 1, step=2, asked=100, steps=100) is None
    assert schedules.moved(config, 1, step=2, asked=None, steps=100) is None
    assert schedules.moved(config, 1, step=100, asked=200, steps=100) is None


def test_a_refused_new_run_leaves_no_list_of_starts(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no")

    monkeypatch.setattr(train.loops, "train", refuse)
    with pytest.raises(ValueError, match="no"):
        go(tmp_path, 2)
    assert not (tmp_path / "run" / own_starts.FILE).exists()


def test_a_start_says_with_what(tmp_path):
    run, _ = go(tmp_path, 1, command="alignjax train --config=own.py")
    (row,) = own_starts.read(run)
    assert row["command"] == "alignjax train --config=own.py"
    assert row["data"]["table"] == "demonstrations"
    assert row["data"]["rows"] > 0
    assert row["versions"]["jax"]
    assert row["devices"].endswith("cpu")

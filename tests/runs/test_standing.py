"""A run that has not reached its last step is told apart by whatever starts from it."""

import json
import os
import platform

import pytest

from alignjax.data import corpus
from alignjax.runs import experiment, folder, ownership, records, sources, standing, train
from alignjax.training import loop
from tests.runs import starts


@pytest.fixture
def stopped(tmp_path):
    """The folder of a run of 60 steps whose newest checkpoint is of step 10, by names and meta."""
    return run_of(tmp_path / "stopped", steps=60, saved={5: 60, 10: 60})


def run_of(place, *, steps, saved, finished=()):
    """saved: {step: the steps that its meta asks for}."""
    place.mkdir()
    record = record_of(steps)
    (place / folder.FILE).write_text(json.dumps(record))
    for step, asked in saved.items():
        meta = place / "checkpoints" / str(step) / "meta"
        meta.mkdir(parents=True)
        told = {**record_of(asked), "finished": step in finished}
        (meta / "metadata").write_text(json.dumps(told))
    return place


def record_of(steps):
    config = experiment.Experiment(loop=loop.LoopConfig(steps=steps))
    values = folder.describe(config, corpus.outline(
        vocab_size=48, length=8, prompt_length=4, kinds=()), formula="", start={})  # fmt: skip
    return records.as_json(values)


def state_of(place):
    return standing.unfinished(str(place), folder.read(place))


def test_a_run_before_its_last_step_is_unfinished(stopped):
    state = state_of(stopped)
    assert (state.step, state.steps, state.trainer) == (10, 60, "")
    assert state.line("its newest checkpoint") == (
        f"{stopped} stands at step 10 of 60; its newest checkpoint is used."
    )


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"steps": 10, "saved": {10: 10}, "finished": (10,)}, None),
        ({"steps": 5, "saved": {10: 10}, "finished": (10,)}, None),  # asked for fewer since
        ({"steps": 100, "saved": {0: 100}, "finished": (0,)}, None),  # an import trains nothing
        ({"steps": 60, "saved": {10: 10}, "finished": (10,)}, 10),  # asked for more since
        ({"steps": 60, "saved": {}}, None),  # nothing to start from: another line
    ],
)
def test_finished_is_what_saved_the_last_step_of_its_record(tmp_path, options, step):
    state = state_of(run_of(tmp_path / "run", **options))
    assert (None if state is None else state.step) == step


def test_who_trains_it_now_is_named(stopped):
    there = {"host": platform.node(), "pid": os.getpid(), "count": 0}
    (stopped / ownership.FILE).write_text(json.dumps(there))
    assert state_of(stopped).trainer == f"process {os.getpid()} on {platform.node()}"
    (stopped / ownership.FILE).write_text(json.dumps({**there, "pid": 2**22 + 1}))  # killed
    assert state_of(stopped).trainer == ""
    (stopped / ownership.FILE).write_text(json.dumps({**there, "host": "elsewhere"}))
    assert "on elsewhere" in state_of(stopped).trainer
    (stopped / ownership.FILE).write_text(json.dumps({**there, "host": ""}))  # given back
    assert state_of(stopped).trainer == ""


@pytest.mark.parametrize("role", ["policy", "reward"])
def test_an_experiment_does_not_start_from_it(stopped, tmp_path, role):
    config = starts.make(starts.PullConfig(), **{role: str(stopped)})
    with pytest.raises(ValueError, match=r"stands at step 10\. Let its own.*--allow_unfinished"):
        train.train(config, tmp_path / "next", name="next", log=starts.quiet)
    assert not (tmp_path / "next" / folder.FILE).exists()


def test_whoever_may_use_it_is_told_once(stopped):
    lines = []
    source = sources.Stored(standing.telling(lines.append))
    for _ in range(2):
        assert source.origin(str(stopped)).is_run
    assert lines == [f"{stopped} stands at step 10 of 60; its newest checkpoint is used."]


def test_an_unread_meta_leaves_the_words_to_who_restores_it(stopped):
    (stopped / "checkpoints" / "10" / "meta" / "metadata").write_text("{")
    assert state_of(stopped).step == 10

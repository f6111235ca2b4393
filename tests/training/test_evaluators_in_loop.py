"""Judged as it trains: numbers in the log, the best state kept, rates and traces beside them."""

import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax.algorithms import sft
from alignjax.core import mean
from alignjax.data import pipeline
from alignjax.evals import estimate
from alignjax.models.config import TransformerConfig
from alignjax.runs import evaluation, experiment, train
from alignjax.training import algorithm, checkpoint, loop, optim, speed
from alignjax.training import evaluators as loop_evaluators
from alignjax.worlds import corpus as world_corpus
from tests.commands import cli
from tests.training import tiny

STEPS, ROWS = 8, 4
TABLE = {
    "x": np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32),
    "segments": np.tile([1, 1, 0], (20, 1)),
}
SCORES = {0: 9.0, 2: 3.0, 4: 5.0, 6: 1.0, 8: 4.0}  # by step; before the first it is only checked
BEST = {"score": (4, 5.0), "-score": (6, 1.0)}


class Stop(Exception):
    """A kill: nothing is saved."""


def least_squares(kill_at=None):
    def loss(params, frozen, batch, key):
        terms = {"square": mean.of((batch["x"] @ params["w"] - 1.0) ** 2)}
        return terms, terms

    def collect(state, frozen, batch, key):
        if int(state.step) == kill_at:
            raise Stop
        return batch, state.carry, {}

    return algorithm.Algorithm(
        init=lambda key, start: {"w": jnp.ones(3)}, loss=loss, collect=collect
    )


class Judge:
    """Scripted numbers by step, and the weights that they were asked for."""

    def __init__(self, scores=SCORES):
        self.scores, self.weights = scores, {}

    def run(self, state):
        step = int(state.step)
        self.weights[step] = np.asarray(state.params["w"])
        return {"score": estimate.Estimate(self.scores[step], 0.25, 10)}


def run(workdir, judge=None, *, kill_at=None, optimizer=None, profile=None, every=2, **changes):
    sizes = {"steps": STEPS, "batch_size": ROWS, "checkpoint_every": 3, "log_every": 2, **changes}
    judge = judge or Judge()
    lines = []
    loop.train(
        least_squares(kill_at),
        batch_at=pipeline.Batches(TABLE, batch_size=ROWS, seed=5).batch,
        start={},
        frozen={},
        optimizer=optimizer or tiny.optimizer(),
        config=loop.LoopConfig(evaluate_every=every, **sizes),
        seed=3,
        workdir=workdir,
        meta={},
        name="toy",
        log=lines.append,
        evaluators=(loop_evaluators.Evaluator("scripted", every, judge.run),),
        profile=profile,
    )
    return judge, lines


def rows_of(workdir, name="metrics.jsonl"):
    return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def kept(workdir):
    """(step, value, weights) of the best state."""
    shapes = {"w": jax.ShapeDtypeStruct((3,), jnp.float32)}
    params, meta = checkpoint.load(workdir / "best", lambda meta: shapes)
    return meta["step"], meta["best"]["value"], np.asarray(params["w"])


def check_best(workdir, judge, step, value):
    assert kept(workdir)[:2] == (step, value)
    np.testing.assert_array_equal(kept(workdir)[2], judge.weights[step])


# --- numbers and the best state -----------------------------------------------------------------


@pytest.mark.parametrize("metric", BEST)
def test_numbers_are_logged_and_the_best_state_is_kept(tmp_path, metric):
    judge, _ = run(tmp_path, keep_best=metric)
    rows = rows_of(tmp_path)
    logged = {row["step"] + 1: row["eval/score"] for row in rows if "eval/score" in row}
    assert logged == {step: value for step, value in SCORES.items() if step}
    assert all(row["eval/score se"] == 0.25 for row in rows if "eval/score" in row)
    check_best(tmp_path, judge, *BEST[metric])


def test_the_last_step_is_judged_too(tmp_path):
    judge, _ = run(tmp_path, Judge({3: 1.0, 6: 1.0, 8: 2.0}), every=3)
    assert [*judge.weights] == [3, 6, 8]


@pytest.mark.parametrize("metric", BEST)
@pytest.mark.parametrize(
    "kill_at", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4, 7))]
)
def test_a_killed_run_ends_with_the_same_best(tmp_path, metric, kill_at):
    """Killed before the first save, or past a best state that is newer than the checkpoint."""
    with pytest.raises(Stop):
        run(tmp_path, kill_at=kill_at, keep_best=metric)
    run(tmp_path, keep_best=metric)
    step, value = BEST[metric]
    assert kept(tmp_path)[:2] == (step, value)
    whole, _ = run(tmp_path / "whole", keep_best=metric)
    np.testing.assert_array_equal(kept(tmp_path)[2], whole.weights[step])
    assert rows_of(tmp_path) == rows_of(tmp_path / "whole")


def test_nan_is_never_the_best(tmp_path):
    scores = {**SCORES, 2: math.nan, 6: math.nan}
    judge, lines = run(tmp_path, Judge(scores), keep_best="score")
    check_best(tmp_path, judge, 4, 5.0)
    assert any("score is not a number at step 2" in line for line in lines)


def test_another_metric_on_resuming_begins_anew(tmp_path):
    """What was kept by one metric says nothing of another, nor of the same the other way round."""
    run(tmp_path, keep_best="score", steps=4, optimizer=optax.sgd(0.1))
    assert kept(tmp_path)[:2] == (4, 5.0)
    judge, _ = run(tmp_path, keep_best="-score", optimizer=optax.sgd(0.1))
    check_best(tmp_path, judge, 6, 1.0)


def test_a_better_state_of_an_earlier_step_replaces_a_later_one(tmp_path):
    """A run that goes on from before its best state may be judged more often than it was."""
    scores = {step: float(step) for step in range(9)} | {5: 100.0, 6: 50.0}
    options = {"keep_best": "score", "checkpoint_every": 4}
    with pytest.raises(Stop):
        run(tmp_path, Judge(scores), kill_at=7, every=3, **options)
    assert kept(tmp_path)[:2] == (6, 50.0)
    judge, _ = run(tmp_path, Judge(scores), every=1, **options)
    check_best(tmp_path, judge, 5, 100.0)


@pytest.mark.parametrize("metric", ["scores", "-square", "score se"])
def test_an_unknown_metric_is_refused_before_the_first_step(tmp_path, metric):
    with pytest.raises(ValueError, match=r"loop.keep_best must be a number that is eval") as caught:
        run(tmp_path, kill_at=0, keep_best=metric)
    assert "score; got" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not checkpoint.exists(tmp_path)


def test_the_best_of_no_evaluations_is_refused():
    with pytest.raises(ValueError, match=r"loop.keep_best must have evaluations to go by"):
        loop.LoopConfig(keep_best="score").validate()


@pytest.mark.slow
def test_a_real_run_keeps_and_evaluates_its_best_state(tmp_path):
    config = experiment.Experiment(
        algorithm=sft.SftConfig(),
        model=TransformerConfig(layers=1, width=16, heads=2, kv_heads=1, head_dim=8, ff=16),
        data=world_corpus.ReviewConfig(documents=8, demonstrations=32, prompts=8, eval_rows=8),
        loop=loop.LoopConfig(
            steps=6, batch_size=8, evaluate_every=2, evaluate_rows=8, keep_best="-nats a token"
        ),
        optim=optim.OptimConfig(learning_rate=0.3, schedule="constant", warmup_steps=0),
    )
    train.train(config, tmp_path, name="sft", log=print)
    values = {
        row["step"] + 1: row["eval/nats a token"]
        for row in rows_of(tmp_path)
        if "eval/nats a token" in row
    }
    assert [*values] == [2, 4, 6]
    best = min(values, key=values.get)
    numbers = evaluation.evaluate(tmp_path, rows=8, seed=0, best=True)
    last = evaluation.evaluate(tmp_path, rows=8, seed=0)
    np.testing.assert_allclose(numbers["nats a token"].value, values[best], rtol=1e-5)
    np.testing.assert_allclose(last["nats a token"].value, values[6], rtol=1e-5)
    config.loop = dataclasses.replace(config.loop, keep_best="accuracy")
    with pytest.raises(ValueError, match="less is better: nats a token; got 'accuracy'"):
        train.train(config, tmp_path / "other", name="sft", log=print)


# --- rates and traces ---------------------------------------------------------------------------


def test_the_learning_rate_of_each_step_is_logged(tmp_path):
    changes = {"learning_rate": 0.5, "schedule": "linear", "warmup_steps": 4}
    run(tmp_path, optimizer=optim.OptimConfig(**changes))
    rates = [row["learning_rate"] for row in rows_of(tmp_path)]
    # Up through 1/4, 2/4, ... of the peak in four updates, then down to 0 after the last of 8.
    wanted = [0.125, 0.25, 0.375, 0.5, 0.5, 0.375, 0.25, 0.125]
    np.testing.assert_allclose(rates, wanted, rtol=1e-5)
    run(tmp_path / "chain", optimizer=optax.sgd(0.1))
    assert all("learning_rate" not in row for row in rows_of(tmp_path / "chain"))


def test_step_time_and_tokens_a_second_are_logged(tmp_path):
    run(tmp_path)
    rows = rows_of(tmp_path, "speed.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 5, 7]
    for row in rows:
        assert row["step_seconds"] > 0
        assert 0.05 < row["host_gib"] < 1000
        # Two real tokens a row.
        tokens = row["tokens_per_second"] * row["step_seconds"]
        np.testing.assert_allclose(tokens, 2 * ROWS, rtol=1e-6)


def test_a_window_of_steps_is_traced(tmp_path):
    run(tmp_path, profile=speed.parse_window("2:3"))
    traces = [*(tmp_path / "profile").rglob("*.xplane.pb")]
    assert len(traces) == 1
    assert traces[0].stat().st_size > 0
    # A run that went past the window has a line instead.
    run(tmp_path / "later", steps=4)
    _, lines = run(tmp_path / "later", profile=speed.Window(2, 3))
    assert any("nothing is traced: the run goes on from step 4" in line for line in lines)
    assert not (tmp_path / "later" / "profile").exists()


@pytest.mark.parametrize("text", ["3", "a:2", "1:0", "-1:2", ":", "1:2:3", "1.5:2"])
def test_a_bad_window_is_refused(text):
    with pytest.raises(ValueError, match="--profile must be START:STEPS") as caught:
        speed.parse_window(text)
    assert text in str(caught.value)


def test_a_window_beyond_the_run_is_refused(tmp_path):
    assert speed.parse_window("") is None
    for window in (speed.Window(8, 1), speed.Window(6, 3)):
        with pytest.raises(ValueError, match=r"--profile must lie within the run's steps 0..7"):
            run(tmp_path / "run", profile=window)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_refuses_a_bad_window_in_one_line(tmp_path):
    workdir = pathlib.Path(tmp_path / "run")
    config = "--config=experiments/hh_sft.py:micro"
    process = cli.start("train", config, f"--workdir={workdir}", "--profile=x")
    _, err = process.communicate(timeout=300)
    assert (process.returncode, len(err.strip().splitlines())) == (2, 1), err
    assert "--profile must be START:STEPS" in err
    assert not workdir.exists()

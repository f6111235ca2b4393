"""The loop: order, portions, invariants of the first step, signals, resuming, compilations."""

import json
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import errors, mean, struct
from alignjax.data import pipeline
from alignjax.models import transformer
from alignjax.training import algorithm, checkpoint, loop, metrics, stepping
from tests.training import tiny

DATA = {
    "x": np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32),
    "row": np.arange(40, dtype=np.int32),
}


def toy(collect=algorithm.as_is, **changes):
    """Least squares with noise of the step's key, and a carry that counts."""

    def loss(params, frozen, batch, key):
        noise = 0.1 * jax.random.normal(key, ())
        error = batch["x"] @ params["w"] - 1.0 + noise
        terms = {"square": mean.of(error**2)}
        return terms, {**terms, "noise": mean.of(noise), "rows": mean.of(batch["row"])}

    def init(key, start):
        return {"w": jax.random.normal(key, (3,))}

    return algorithm.Algorithm(init=init, loss=loss, collect=collect, **changes)


def train(
    workdir,
    method=None,
    *,
    asked=None,
    data=DATA,
    start=(),
    frozen=(),
    schedule="constant",
    epochs_of=0,
    tracked=None,
    **changes,
):
    """The final state of a run; `asked` collects the steps whose batches were asked for."""
    sizes = {"steps": 8, "batch_size": 8, "checkpoint_every": 3, "log_every": 2, **changes}
    config = loop.LoopConfig(**sizes)
    batches = pipeline.Batches(data, batch_size=config.batch_size, seed=5)

    def batch_at(step):
        if asked is not None:
            asked.append(step)
        return batches.batch(step)

    return loop.train(
        method or toy(),
        batch_at=batch_at,
        start=dict(start),
        frozen=dict(frozen),
        optimizer=tiny.optimizer(learning_rate=0.1, schedule=schedule),
        config=config,
        seed=3,
        workdir=workdir,
        meta={"method": "toy", "config": {"loop": {"steps": config.steps}}},
        name="toy",
        log=print,
        rows_at=batches.whole,
        rows=epochs_of,
        tracked=tracked,
    )


def rows_of(workdir):
    return metrics.read(workdir / metrics.FILE)


def text_of(workdir):
    return (workdir / metrics.FILE).read_bytes()


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, final state) of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


def test_batches_in_order_one_row_a_step_and_the_loss_falls(tmp_path, whole):
    asked = []
    state = train(tmp_path, asked=asked)
    assert asked == list(range(8))
    assert int(state.step) == 8
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(8))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert len({row["noise"] for row in rows}) == 8
    batches = pipeline.Batches(DATA, batch_size=8, seed=5)
    for row in rows:
        assert row["rows"] == batches.batch(row["step"])["row"].mean()
    # R32: and equal to another run bit for bit.
    assert_same(state, whole[1])
    assert text_of(tmp_path) == text_of(whole[0])
    assert len(list((tmp_path / checkpoint.FOLDER).glob("[0-9]*"))) == 2


def test_a_longer_run_goes_on_from_the_last_step(tmp_path, whole):
    asked = []
    train(tmp_path, steps=4)
    state = train(tmp_path, asked=asked)
    assert asked == [4, 5, 6, 7]
    assert_same(state, whole[1])
    assert text_of(tmp_path) == text_of(whole[0])


@pytest.mark.parametrize(("schedule", "is_told"), [("linear", True), ("constant", False)])
def test_more_steps_that_move_the_schedule_are_told(tmp_path, capsys, schedule, is_told):
    train(tmp_path, steps=4, schedule=schedule)
    assert "moves" not in capsys.readouterr().out
    train(tmp_path, steps=8, schedule=schedule)
    told = (
        "toy: loop.steps was 4 and is 8, which moves the learning-rate schedule: the rate of step "
        "4 was to be 0 and is 0.05."
    )
    out = capsys.readouterr().out
    assert "toy: resumed from step 4 of 8." in out
    assert (told in out) == is_told
    rates = [row["learning_rate"] for row in rows_of(tmp_path)]
    ahead = [0.05, 0.0375, 0.025, 0.0125] if is_told else [0.1] * 4
    assert np.allclose(rates[4:], ahead)


def test_epochs_and_what_trackers_get(tmp_path, whole):
    """40 rows, 8 a step; what a tracker gets is what the file has, speed beside it."""

    class Tracked:
        def __init__(self):
            self.rows, self.rates = {}, []

        def write(self, step, values):
            if "loss" in values:
                self.rows[step] = dict(values)
            else:
                self.rates.append(values)

    tracked = Tracked()
    train(tmp_path, epochs_of=40, tracked=tracked)
    found = rows_of(tmp_path)
    assert [row["epoch"] for row in found] == pytest.approx([0.2 * n for n in range(1, 9)])
    assert {step: {"step": step, **row} for step, row in tracked.rows.items()} == {
        row["step"]: row for row in found
    }
    assert all("speed/step_seconds" in rates for rates in tracked.rates)
    assert tracked.rates
    assert all("epoch" not in row for row in rows_of(whole[0]))  # of no table that is known


def test_a_finished_run_does_nothing(whole):
    before = text_of(whole[0])
    asked = []
    assert_same(train(whole[0], asked=asked), whole[1])
    assert asked == []
    assert text_of(whole[0]) == before


def test_due():
    assert [step for step in range(1, 8) if loop.due(step, 3)] == [3, 6]
    assert all(loop.due(step, 1) for step in range(1, 4))


def test_minibatches_cover_each_row_once_an_epoch():
    batch = {"row": jnp.arange(24), "more": jnp.arange(48).reshape(24, 2)}
    plan = algorithm.Plan(epochs=3, minibatches=4)
    parts = list(stepping.minibatches(batch, plan, jax.random.key(0)))
    assert len(parts) == 12
    orders = []
    for epoch in range(3):
        order = np.concatenate([p["row"] for p in parts[4 * epoch : 4 * epoch + 4]])
        assert sorted(order) == list(range(24))
        orders.append(tuple(order))
    assert len(set(orders)) == 3
    for part in parts:
        np.testing.assert_array_equal(part["more"][:, 0], 2 * part["row"])
    again = list(stepping.minibatches(batch, plan, jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, parts, again)
    assert next(stepping.minibatches(batch, algorithm.Plan(), jax.random.key(0))) is batch


def test_sizes_must_divide(any_mesh):
    fine = loop.LoopConfig(batch_size=64, micro_batches=2)
    loop.check_sizes(fine, algorithm.Plan(minibatches=4))
    with pytest.raises(ValueError, match="got 60 for 4 x 2"):
        loop.check_sizes(
            loop.LoopConfig(batch_size=60, micro_batches=2), algorithm.Plan(minibatches=4)
        )
    small = loop.LoopConfig(batch_size=12, micro_batches=2)
    if any_mesh is None:
        loop.check_sizes(small, algorithm.Plan(minibatches=2))
    else:
        with pytest.raises(ValueError, match="multiple of the mesh's batch axes"):
            loop.check_sizes(small, algorithm.Plan(minibatches=2))


@pytest.mark.parametrize("field", ["steps", "micro_batches", "log_every"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_bad_numbers_are_refused_before_anything_is_written(tmp_path, field, value):
    with pytest.raises(ValueError, match=f"loop.{field} must be finite and >= 1"):
        train(tmp_path / "run", **{field: value})
    assert not (tmp_path / "run").exists()


def test_a_missed_invariant_of_the_first_update_stops_the_run(tmp_path):
    wrong = toy(first=lambda batch: {"square": algorithm.Expected(123.0, 1e-3)})
    with pytest.raises(errors.Failure, match=r"must find square = 123 within 0.001; got"):
        train(tmp_path, wrong)
    assert not checkpoint.exists(tmp_path)


def test_dpo_stops_where_policy_and_reference_differ(tmp_path):
    model = transformer.transformer(tiny.shape())
    method, _, frozen, _ = tiny.ready("dpo", model)
    policy = jax.tree.map(jnp.copy, frozen["reference"])
    moved = struct.replace(policy, norm=policy.norm * 1.05)
    table = tiny.batch("dpo", 0, 8)
    table |= jax.device_get(jax.jit(method.annotate)(frozen, table))
    with pytest.raises(errors.Failure, match=r"must find dpo = 0.693147"):
        train(tmp_path, method, data=table, start={"policy": moved}, frozen=frozen)


def test_a_reward_model_stops_where_its_head_is_not_zero(tmp_path):
    model = transformer.transformer(tiny.shape())
    method, _, frozen, _ = tiny.ready("reward", model)
    wrong = method._replace(init=lambda key, start: algorithm.copy(start["policy"]))
    start = {"policy": frozen["reward"]}
    with pytest.raises(errors.Failure, match=r"must find bradley_terry = 0.693147"):
        train(tmp_path, wrong, data=tiny.batch("reward", 0, 8), start=start)


def poison(steps):
    """A collect that makes the batches of these steps not finite."""

    def collect(state, frozen, batch, key):
        bad = jnp.isin(state.step, jnp.asarray(steps))
        return {**batch, "x": jnp.where(bad, jnp.nan, batch["x"])}, state.carry, {}

    return collect


def test_a_lone_non_finite_step_is_skipped_and_counted(tmp_path):
    state = train(tmp_path, toy(collect=poison([1, 2, 5])), max_skipped=3)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows if row["skipped"]] == [1, 2, 5]
    assert rows[1]["loss"] == "nan"
    assert np.all(np.isfinite(state.params["w"]))


def test_the_rows_of_skipped_steps_are_written_and_told(tmp_path, capsys):
    with pytest.raises(errors.NonFinite, match=r"these steps; skipped\.jsonl names their rows"):
        train(tmp_path, toy(collect=poison([1, 4, 5])), max_skipped=2)
    told = capsys.readouterr().out
    assert "in 1 steps: 1; skipped.jsonl names their rows" in told
    batches = pipeline.Batches(DATA, batch_size=8, seed=5)
    written = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == [
        {"step": step, "rows": batches.indices(step).tolist()} for step in (1, 4, 5)
    ]
    # What a killed run wrote past its checkpoint is not there twice.
    train(tmp_path, max_skipped=2)
    assert [json.loads(line)["step"] for line in (tmp_path / "skipped.jsonl").open()] == [1]


def test_without_skipped_steps_there_is_no_such_file(tmp_path):
    train(tmp_path)
    assert not (tmp_path / "skipped.jsonl").exists()


def test_too_many_in_a_row_stop_the_run_with_good_checkpoints(tmp_path):
    with pytest.raises(errors.NonFinite, match=r"3 steps in a row.*the last is step 5") as caught:
        train(tmp_path, toy(collect=poison([3, 4, 5, 6, 7])), max_skipped=3, log_every=1)
    assert caught.value.code == 3
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(6))
    params, _ = checkpoint.load(
        tmp_path, lambda meta: {"w": jax.ShapeDtypeStruct((3,), jnp.float32)}
    )
    assert np.all(np.isfinite(params["w"]))


def test_metrics_are_in_their_file_before_the_checkpoint_that_goes_on_from_them(
    tmp_path, whole, monkeypatch
):
    """However slowly they are written, and the loop does not wait for them at other flushes."""
    write, save = metrics.Writer.write, checkpoint.Checkpoints.save
    threads, found = set(), {}

    def slow(self, step, values):
        threads.add(threading.current_thread() is threading.main_thread())
        time.sleep(0.02)
        write(self, step, values)

    def noted(self, state, meta):
        found[int(state.step)] = [row["step"] for row in rows_of(tmp_path)]
        save(self, state, meta)

    monkeypatch.setattr(metrics.Writer, "write", slow)
    monkeypatch.setattr(checkpoint.Checkpoints, "save", noted)
    train(tmp_path)
    assert found == {step: list(range(step)) for step in (3, 6, 8)}
    assert threads == {False}
    assert text_of(tmp_path) == text_of(whole[0])


def test_metrics_that_cannot_be_written_stop_the_run(tmp_path, monkeypatch):
    def full(self, step, values):
        raise OSError("No space left on device")

    monkeypatch.setattr(metrics.Writer, "write", full)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path)
    assert not checkpoint.exists(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_the_run_goes_on_later(tmp_path, whole, number):
    def collect(state, frozen, batch, key):
        if int(state.step) == 4:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # a second one does not disturb the save
        return batch, state.carry, {}

    before = signal.getsignal(number)
    with pytest.raises(errors.Preempted, match="after step 5 of 8") as caught:
        train(tmp_path, toy(collect=collect))
    assert caught.value.code == 143
    assert signal.getsignal(number) is before
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(5))
    asked = []
    state = train(tmp_path, asked=asked)
    assert asked == [5, 6, 7]  # no step is done twice
    assert_same(state, whole[1])
    assert text_of(tmp_path) == text_of(whole[0])


def test_a_third_signal_leaves_at_once(monkeypatch):
    raised = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    with loop.Signals() as signals:
        for count in (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.count == count
        assert not raised
        os.kill(os.getpid(), signal.SIGTERM)
        assert raised == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class Compilations:
    """The step at which each program was compiled."""

    def __init__(self):
        self.step, self.steps = -1, []

    def __call__(self, event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            self.steps.append(self.step)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("sft", "ppo-shared") else [])
        for name in tiny.METHODS
    ],
)
def test_nothing_compiles_after_the_second_step(tmp_path, name):
    """R47, through checkpoints and the end of an epoch; and R32: twice gives the same bits."""
    count = Compilations()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        found = [compile_run(tmp_path / side, name, count) for side in ("a", "b")]
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert_same(*found)
    assert text_of(tmp_path / "a") == text_of(tmp_path / "b")
    meta = [json.loads((tmp_path / s / "checkpoints/7/meta/metadata").read_text()) for s in "ab"]
    assert meta[0]["checksums"] == meta[1]["checksums"]


def compile_run(workdir, name, count):
    model = transformer.transformer(tiny.shape())
    config = {"epochs": 2, "minibatches": 2, "target_kl": 0.1} if name.startswith("ppo") else {}
    method, _, frozen, _ = tiny.ready(name, model, **config)
    table = tiny.batch(name, 0, 20)
    if method.annotate:
        table |= jax.device_get(jax.jit(method.annotate)(frozen, table))
    collect = method.collect

    def counted(state, frozen, batch, key):
        count.step += 1
        return collect(state, frozen, batch, key)

    method, count.step, count.steps = method._replace(collect=counted), -1, []
    state = train(
        workdir,
        method,
        data=table,
        start={"policy": frozen["reference"], "reward": frozen["reward"]},
        frozen=frozen,
        steps=7,
        checkpoint_every=4,
    )
    assert count.steps, "the listener hears nothing"
    assert max(count.steps) <= 1, f"compiled at steps {sorted(count.steps)}"
    return state

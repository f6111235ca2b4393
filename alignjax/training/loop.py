"""The loop of a run in its folder: restore or begin, step, log, save, evaluate, stop by signals."""

import dataclasses
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Union

import jax
import numpy as np
import optax

from alignjax.core import errors, keys, shapes
from alignjax.models import model as models
from alignjax.parallel import hosts, processes
from alignjax.training import (
    algorithm,
    checkpoint,
    evaluators,
    optim,
    prefetch,
    run_log,
    schedules,
    speed,
    stepping,
    trackers,
)

# Fields that may change when a run goes on.
HARMLESS = (
    "steps",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "max_skipped",
    "save_patience",
    "evaluate_every",
    "evaluate_rows",
    "keep_best",
)


@dataclasses.dataclass(kw_only=True)
class LoopConfig:
    """How long and in what portions."""

    steps: int = 100  # batches collected
    batch_size: int = 64  # rows of a batch: documents, pairs or prompts
    micro_batches: int = 1  # parts of an update whose gradients are summed, to save memory
    checkpoint_every: int = 200  # steps; the last step is always saved
    keep_checkpoints: int = 2
    log_every: int = 20  # steps between flushes of metrics.jsonl
    max_skipped: int = 5  # non-finite updates in a row before the run stops with exit code 3
    save_patience: int = 600  # seconds in which a save must get on, or the run stops
    evaluate_every: int = 0  # steps between evaluations on the eval split; 0 is none in the loop
    evaluate_rows: int = 64  # rows scored at once in an evaluation
    keep_best: str = ""  # metric whose best state is kept in best/; -NAME where less is better

    def validate(self) -> None:
        for field in dataclasses.fields(self):
            if field.type is int:
                minimum = 0 if field.name == "evaluate_every" else 1
                shapes.check_number(
                    f"loop.{field.name}", getattr(self, field.name), minimum=minimum
                )
        if self.keep_best and not self.evaluate_every:
            raise ValueError(
                "loop.keep_best must have evaluations to go by; got evaluate_every=0 (loop). Set "
                "--config.loop.evaluate_every=STEPS."
            )


class Signals:
    """SIGTERM and SIGINT as a flag; a third signal leaves at once."""

    def __init__(self) -> None:
        self.count = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: Any) -> None:
        self.count += 1
        if self.count >= 3:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens after `step` of them."""
    return step % every == 0


def check_sizes(config: LoopConfig, plan: algorithm.Plan, *, coupled: bool = False) -> None:
    """Refuses portions that do not divide each other, or a coupled loss in micro-batches.

    Raises:
      ValueError: naming the sizes.
    """
    config.validate()
    stepping.check_coupled(coupled, config.micro_batches)
    parts = plan.minibatches * config.micro_batches
    rows, named = config.batch_size, "loop.batch_size"
    if plan.rows:
        rows, named = plan.rows, "the rows of a collected batch"
        hosts.check_rows("loop.batch_size", config.batch_size)
    if rows % parts:
        raise ValueError(
            f"{named} must be a multiple of minibatches x loop.micro_batches; got "
            f"{rows} for {plan.minibatches} x {config.micro_batches} (loop). "
            "Change one of them."
        )
    hosts.check_rows(f"{named} / minibatches / micro_batches", rows // parts)


Optimizer = Union[optim.OptimConfig, optax.GradientTransformation]  # noqa: UP007


def transformation(
    optimizer: Optimizer, updates: int
) -> Callable[[models.Params], optax.GradientTransformation]:
    """params -> the optax transformation of a run of so many updates in all."""
    if isinstance(optimizer, optim.OptimConfig):
        return lambda params: optim.make_optimizer(optimizer, params, updates)
    return lambda params: optimizer


def _rates(
    optimizer: Optimizer,
    config: LoopConfig,
    updates: int,
    step: int,
    saved: Mapping[str, Any] | None,
    log: Callable[[str], None],
) -> schedules.Rates | None:
    """The learning rates of a run's steps, where they are known.

    A line where a run goes on from `step`, and one where its schedule is not what it was.

    updates: of one step. saved: the meta of its checkpoint, with the configuration of the run as it
    was then; None for a run that begins.
    """
    if saved is not None:
        log(f"resumed from step {step} of {config.steps}.")
    if not isinstance(optimizer, optim.OptimConfig):
        return None
    if saved is not None:
        asked = saved.get("config", {}).get("loop", {}).get("steps", config.steps)
        change = schedules.moved(optimizer, updates, step=step, asked=asked, steps=config.steps)
        if change is not None:
            log(change.line())
    return schedules.learning_rate(optimizer, config.steps, updates)


def train(
    method: algorithm.Algorithm,
    *,
    batch_at: Callable[[int], Mapping[str, np.ndarray]],
    start: dict[str, models.Params],
    frozen: models.Frozen,
    optimizer: Optimizer,
    config: LoopConfig,
    seed: int,
    workdir: pathlib.Path,
    meta: Mapping[str, Any],
    name: str,
    log: Callable[[str], None],
    evaluators: Sequence[evaluators.Evaluator] = (),
    profile: speed.Window | None = None,
    rows_at: Callable[[int], np.ndarray] | None = None,
    rows: int = 0,
    tracked: trackers.Tracked | None = None,
) -> algorithm.TrainState:
    """Trains to the last step, resuming where the folder's newest good checkpoint stands.

    Args:
      method: the algorithm. batch_at, frozen: as in `stepping.steps`.
      start: named trees, see `algorithm.Init`. It is emptied: trees to which the caller has no
        other reference leave the devices before a restore or the first step.
      optimizer: a configuration, or any optax transformation.
      meta: saved beside each checkpoint. evaluators: run in the loop. profile: steps to trace.
      rows_at: step -> numbers of the rows of its batch, which are written down where it is skipped.
      rows: of the training table, of which epochs are told; 0 tells none. tracked: who gets the
        metrics besides the folder.

    Raises:
      ValueError: sizes do not divide, or the checkpoint holds another tree.
      errors.Failure, errors.NonFinite, errors.Preempted: see core/errors.py.
    """
    check_sizes(config, method.plan, coupled=method.coupled)
    speed.check_window(profile, config.steps)
    updates = method.plan.epochs * method.plan.minibatches
    tx_of = transformation(optimizer, config.steps * updates)

    def initial(start: dict[str, models.Params]) -> algorithm.TrainState:
        return stepping.make_state(method, tx_of, keys.stream(seed, "init"), start)

    abstract = jax.eval_shape(initial, start)
    checkpoints = checkpoint.Checkpoints(
        workdir, keep=config.keep_checkpoints, save_patience=config.save_patience
    )
    if checkpoints.steps():
        start.clear()
    restored = checkpoints.restore(abstract, log)
    state: algorithm.TrainState = jax.jit(initial)(start) if restored is None else restored
    start.clear()
    step, stopped = int(state.step), False
    if restored is None:
        checkpoints.prepare(state)
    saved = None if restored is None else checkpoints.meta(step)
    rates = _rates(optimizer, config, updates, step, saved, lambda text: log(f"{name}: {text}"))
    lines = run_log.RunLog(workdir, name, config, step, rates, rows_at, log, rows, tracked)
    clock = speed.Clock(method, abstract.params, profile, workdir)
    judging = _Judging(evaluators, config, workdir, log)
    if profile is not None and step > profile.start:
        log(f"{name}: nothing is traced: the run goes on from step {step}, after the window.")
    ahead = prefetch.Prefetch(batch_at, config.steps, config.batch_size)
    with Signals() as signals, checkpoints, judging, clock, ahead, lines:
        if step < config.steps:
            judging.check(state)
        loop = stepping.steps(
            method,
            clock.counting(ahead),
            tx_of(abstract.params),
            state=state,
            frozen=frozen,
            until=config.steps,
            seed=seed,
            micro_batches=config.micro_batches,
            place=ahead.placed,
        )
        for state, metrics in _first_told(loop, lines):
            step += 1
            last = step == config.steps
            lines.add(step - 1, metrics, judging.judge(step, last, state, meta))
            clock.step(step)
            checkpoints.check()
            stopped = processes.should_stop(signals.count > 0) and not last
            if last or stopped or due(step, config.checkpoint_every):
                lines.flush(clock, wait=True)
                checkpoints.save(state, {**meta, "finished": last})
            elif due(step, config.log_every):
                lines.flush(clock)
            if stopped:
                break
    processes.barrier()
    if stopped:
        raise _preempted(step, config.steps)
    lines.close(clock)
    return state


def _first_told(
    loop: Iterator[tuple[algorithm.TrainState, algorithm.Metrics]], lines: run_log.RunLog
) -> Iterator[tuple[algorithm.TrainState, algorithm.Metrics]]:
    """The steps of a loop; while the first one is compiled, it is said."""
    with lines.waiting("compiling the first step"):
        first = next(loop, None)
    if first is None:
        return
    yield first
    del first  # its buffers are the next step's
    yield from loop


def _preempted(step: int, steps: int) -> errors.Preempted:
    return errors.Preempted(
        f"stopped by a signal after step {step} of {steps}; the state is saved. The same command "
        "goes on from there."
    )


class _Judging:
    """The evaluators of a run, and the best state by one of their numbers."""

    def __init__(
        self,
        judges: Sequence[evaluators.Evaluator],
        config: LoopConfig,
        workdir: pathlib.Path,
        log: Callable[[str], None],
    ):
        self._judges = judges
        self._best = None
        if config.keep_best:
            self._best = evaluators.Best(workdir, config.keep_best, log)

    def check(self, state: algorithm.TrainState) -> None:
        """Refuses an unknown metric before the first step, by the numbers of the state there.

        Raises:
          ValueError: no evaluator gives it.
        """
        if self._best is not None and not self._best.is_begun:
            self._best.check(evaluators.judge(self._judges, state))

    def judge(
        self, step: int, last: bool, state: algorithm.TrainState, meta: Mapping[str, Any]
    ) -> dict[str, float]:
        """The numbers of those that run after this step."""
        judges = evaluators.due(self._judges, step, last=last)
        numbers = evaluators.judge(judges, state)
        if self._best is not None and judges:
            self._best.offer(numbers, state, meta)
        return numbers

    def __enter__(self) -> "_Judging":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if self._best is not None and error is None:
            self._best.close()

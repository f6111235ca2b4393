"""The one train loop: restore or init, then collect, update, log, checkpoint."""

import dataclasses
import pathlib
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alignjax.core import errors, keys, mean, shapes, struct
from alignjax.parallel import axes, hosts, processes
from alignjax.training import algorithm, checkpoint, metrics, optim, progress, update


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

    def validate(self) -> None:
        for field in dataclasses.fields(self):
            shapes.check_number(f"loop.{field.name}", getattr(self, field.name), minimum=1)


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


def make_state(
    method: algorithm.Algorithm, tx_of: Callable[[Any], Any], key: jax.Array, start: Any
) -> algorithm.TrainState:
    """The state before the first step."""
    params = method.init(key, start)
    return algorithm.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx_of(params).init(params),
        carry=algorithm.copy(method.carry),
    )


@jax.jit
def _take(batch: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda x: axes.take(x, rows, "batch" + " slot" * (x.ndim - 1)), batch)


def minibatches(batch: Any, plan: algorithm.Plan, key: jax.Array) -> Any:
    """The parts of a collected batch in the order of use: each epoch its own permutation."""
    if plan == algorithm.Plan():
        yield batch
        return
    rows = jax.tree.leaves(batch)[0].shape[0]
    for epoch in range(plan.epochs):
        order = jax.random.permutation(keys.at(key, epoch), rows)
        for part in jnp.split(order, plan.minibatches):
            yield _take(batch, part)


def check_sizes(config: LoopConfig, plan: algorithm.Plan) -> None:
    """Refuses portions that do not divide each other.

    Raises:
      ValueError: naming the sizes.
    """
    config.validate()
    parts = plan.minibatches * config.micro_batches
    if config.batch_size % parts:
        raise ValueError(
            "loop.batch_size must be a multiple of minibatches x loop.micro_batches; got "
            f"{config.batch_size} for {plan.minibatches} x {config.micro_batches} (loop). "
            "Change one of them."
        )
    hosts.check_rows("loop.batch_size / minibatches / micro_batches", config.batch_size // parts)


def _check_first(method: algorithm.Algorithm, found: Mapping[str, mean.Mean]) -> None:
    for name, expected in method.first.items():
        value = float(found[name].value)
        if not abs(value - expected.value) <= expected.tolerance:
            raise errors.Failure(
                f"the first update must find {name} = {expected.value:.6g} within "
                f"{expected.tolerance:g}; got {value:.6g}. Policy and reference differ, the head "
                "is not zero, or data and masks are wrong."
            )


def train(
    method: algorithm.Algorithm,
    *,
    batch_at: Callable[[int], Mapping[str, Any]],
    start: dict[str, Any],
    frozen: Mapping[str, Any],
    optimizer: optim.OptimConfig,
    config: LoopConfig,
    seed: int,
    workdir: pathlib.Path,
    meta: Mapping[str, Any],
    name: str,
    say: Callable[[str], None],
) -> algorithm.TrainState:
    """Trains to the last step, resuming where the folder's newest good checkpoint stands.

    Args:
      method: the algorithm. batch_at: step -> host batch, a pure function.
        With several processes it holds this process's rows of the batch, `hosts.own_rows`.
      start, frozen: named trees, see Algorithm. `start` is emptied: what the caller does not hold
        elsewhere leaves the devices before a checkpoint is restored or the first step is made.
      meta: saved beside each checkpoint.

    Raises:
      ValueError: sizes do not divide, or the checkpoint holds another tree.
      errors.Failure, errors.NonFinite, errors.Preempted: see core/errors.py.
    """
    check_sizes(config, method.plan)
    updates = config.steps * method.plan.epochs * method.plan.minibatches

    def tx_of(params: Any) -> optax.GradientTransformation:
        return optim.make_optimizer(optimizer, params, updates)

    def initial(start: Any) -> algorithm.TrainState:
        return make_state(method, tx_of, keys.stream(seed, "init"), start)

    abstract = jax.eval_shape(initial, start)
    checkpoints = checkpoint.Checkpoints(
        workdir, keep=config.keep_checkpoints, save_patience=config.save_patience
    )
    if checkpoints.steps():
        start.clear()
    restored = checkpoints.restore(abstract, say)
    fresh = restored is None
    state: algorithm.TrainState = jax.jit(initial)(start) if restored is None else restored
    start.clear()
    if fresh:
        checkpoints.prepare(state)
    begin = int(state.step)
    run_update = update.make_update(
        method.loss, tx_of(abstract.params), micro_batches=config.micro_batches
    )
    collect_key, order_key, loss_key = (
        keys.stream(seed, purpose) for purpose in ("collect", "order", "loss")
    )
    log = _Log(workdir, name, config, begin)
    stopped = False
    with Signals() as signals, checkpoints:
        for step in range(begin, config.steps):
            given = hosts.to_global(batch_at(step), config.batch_size)
            batch, carry, found = method.collect(state, frozen, given, keys.at(collect_key, step))
            state = struct.replace(state, carry=carry)  # before the update donates the old one
            parts: list[Any] = []
            for number, part in enumerate(
                minibatches(batch, method.plan, keys.at(order_key, step))
            ):
                part_key = keys.at(keys.at(loss_key, step), number)
                state, new = run_update(state, frozen, part, part_key)
                if fresh and step == 0 and number == 0:
                    _check_first(method, new)
                parts.append(new)
            state = struct.replace(state, step=state.step + 1)
            log.add(step, {**found, **_total(parts)})
            checkpoints.check()
            last = step + 1 == config.steps
            stopped = processes.should_stop(signals.count > 0) and not last
            if last or stopped or due(step + 1, config.checkpoint_every):
                log.flush()
                checkpoints.save(state, {**meta, "finished": last})
            elif due(step + 1, config.log_every):
                log.flush()
            if stopped:
                break
    processes.barrier()
    if stopped:
        raise errors.Preempted(
            f"stopped by a signal after step {step + 1} of {config.steps}; the state is saved. The "
            "same command goes on from there."
        )
    log.close()
    return state


_add = jax.jit(mean.add)


def _total(parts: list[Mapping[str, mean.Mean]]) -> Mapping[str, mean.Mean]:
    total = parts[0]
    for more in parts[1:]:
        total = _add(total, more)
    return total


class _Log:
    """Metrics on their way to the files. Values stay on the device until a flush.

    Every process reads them, for each must stop where they are not finite; the first one writes.
    """

    def __init__(self, workdir: pathlib.Path, name: str, config: LoopConfig, begin: int):
        self._config, self._writer, self._bar = config, None, None
        if processes.is_first():
            self._writer = metrics.Writer(workdir, start=begin)
            self._bar = progress.Progress(name, config.steps, start=begin)
        self._waiting: list[tuple[int, Mapping[str, mean.Mean]]] = []
        self._skipped = 0
        self._note = ""

    def add(self, step: int, found: Mapping[str, mean.Mean]) -> None:
        self._waiting.append((step, found))

    def flush(self) -> None:
        """Writes what waits.

        Raises:
          errors.NonFinite: too many updates in a row were skipped.
        """
        for step, found in self._waiting:
            values = mean.floats(found)
            if self._writer:
                self._writer.write(step, values)
            self._skipped = self._skipped + 1 if values["skipped"] else 0
            self._note = f"loss {values['loss']:.4f}"
            if self._skipped >= self._config.max_skipped:
                if self._writer:
                    self._writer.flush()
                raise errors.NonFinite(
                    f"{self._skipped} steps in a row had a non-finite loss or gradient, the last "
                    f"is step {step}. Parameters are those of the last good update; lower the "
                    "learning rate or look at the data of these steps."
                )
        if self._waiting and self._bar:
            self._bar.update(self._waiting[-1][0] + 1, self._note)
        self._waiting.clear()
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        self.flush()
        if self._writer and self._bar:
            self._writer.close()
            self._bar.close(self._note)

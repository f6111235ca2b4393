"""The loop that one can call: steps of an algorithm in memory, without folder or signals.

from alignjax import training

state = training.initial_state(algorithm, tx, seed=0)
for state, metrics in training.steps(algorithm, batches, tx, state=state, frozen=frozen):
    print(mean.floats(metrics)["loss"])
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alignjax.core import errors, keys, mean, shapes, struct
from alignjax.models import model as models
from alignjax.parallel import axes, hosts
from alignjax.training import algorithm, update

HostBatch = Mapping[str, np.ndarray]


def initial_state(
    method: algorithm.Algorithm,
    tx: optax.GradientTransformation,
    *,
    seed: int = 0,
    start: Mapping[str, models.Params] | None = None,
) -> algorithm.TrainState:
    """The state before the first step.

    start: trees of earlier runs by role, see `algorithm.Init`; none to begin anew.
    """
    key = keys.stream(seed, "init")
    return jax.jit(lambda start: make_state(method, lambda params: tx, key, start))(start or {})


def make_state(
    method: algorithm.Algorithm,
    tx_of: Callable[[models.Params], optax.GradientTransformation],
    key: jax.Array,
    start: Mapping[str, models.Params],
) -> algorithm.TrainState:
    """The same, for tracing; tx_of: params -> the optax transformation."""
    params = method.init(key, start)
    return algorithm.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx_of(params).init(params),
        carry=algorithm.copy(method.carry(params) if callable(method.carry) else method.carry),
    )


def steps(
    method: algorithm.Algorithm,
    batches: Callable[[int], HostBatch] | Iterable[HostBatch],
    tx: optax.GradientTransformation,
    *,
    state: algorithm.TrainState,
    frozen: models.Frozen | None = None,
    until: int | None = None,
    seed: int = 0,
    micro_batches: int = 1,
    rows: int | None = None,
    place: Callable[[HostBatch], dict[str, jax.Array]] | None = None,
) -> Iterator[tuple[algorithm.TrainState, algorithm.Metrics]]:
    """(state, metrics) after every step: collect, then the updates of the algorithm's plan.

    The state that was yielded is donated to the next step: copy what you want to keep. Metrics are
    on the device; `core.mean.floats` reads them.

    Args:
      batches: step -> host batch, a pure function, or host batches one after the other. With
        several processes each holds this process's rows of the batch, `hosts.own_rows`.
      tx: any optax transformation over the algorithm's params.
      state: where to begin, from `initial_state` or a checkpoint; its step counts on.
      frozen: trees by role that are never updated.
      until: the step to stop before; None ends with the batches.
      seed: of everything random; draws are functions of (seed, step).
      micro_batches: parts of an update whose gradients are summed, to save memory.
      rows: of a whole batch, where processes hold parts of it.
      place: puts a host batch on the devices; by default `hosts.to_global`.

    Raises:
      ValueError: sizes do not divide, micro-batches would change a coupled loss, tx is not the one
        that the state was made with, or a column or tree that the algorithm reads is missing.
      errors.Failure: the first update of a fresh state misses what the algorithm promises.
    """
    shapes.check_number("micro_batches", micro_batches, minimum=1)
    check_coupled(method.coupled, micro_batches)
    check_optimizer(tx, state)
    frozen = {} if frozen is None else frozen
    place = place or (lambda batch: hosts.to_global(batch, rows))
    return _steps(method, batches, tx, state, frozen, until, seed, micro_batches, place)


def _steps(
    method: algorithm.Algorithm,
    batches: Callable[[int], HostBatch] | Iterable[HostBatch],
    tx: optax.GradientTransformation,
    state: algorithm.TrainState,
    frozen: models.Frozen,
    until: int | None,
    seed: int,
    micro_batches: int,
    place: Callable[[HostBatch], dict[str, jax.Array]],
) -> Iterator[tuple[algorithm.TrainState, algorithm.Metrics]]:
    run_update = update.make_update(method.loss, tx, micro_batches=micro_batches)
    keys_of = keys.Steps(seed, method.plan.epochs * method.plan.minibatches)
    begin = int(state.step)
    for step, host_batch in _numbered(batches, begin, until):
        columns, own = place(host_batch), keys_of(step)
        with _names_told(columns, frozen):
            batch, carry, collected = method.collect(state, frozen, columns, own.collect)
        state = struct.replace(state, carry=carry)  # before the update donates the old one
        metrics: list[algorithm.Metrics] = []
        for number, part in enumerate(minibatches(batch, method.plan, own.order)):
            check_rows(part, micro_batches)
            with _names_told(part, frozen):
                expected = method.first(part) if step == 0 and number == 0 else {}
                state, new = run_update(state, frozen, part, own.losses[number])
            check_first(expected, {**collected, **new})
            method.verify(new)
            metrics.append(new)
        state = struct.replace(state, step=_next(state.step))
        yield state, {**collected, **_total(metrics)}


@contextlib.contextmanager
def _names_told(columns: algorithm.Batch, frozen: models.Frozen) -> Iterator[None]:
    """A column or frozen tree that is read and not there becomes a ValueError that names it."""
    try:
        yield
    except KeyError as error:
        name = error.args[0] if error.args else ""
        if not isinstance(name, str) or name in columns or name in frozen:
            raise
        raise ValueError(
            f"batches or frozen trees must hold {name}, which the algorithm reads; got columns "
            f"{', '.join(columns)} and frozen trees {', '.join(frozen) or 'none'}. Columns that an "
            "algorithm computes once for all rows come from `training.annotated`."
        ) from error


def check_optimizer(tx: optax.GradientTransformation, state: algorithm.TrainState) -> None:
    """Refuses a transformation that the state was not made for.

    Raises:
      ValueError: its own state is of another structure or has other shapes.
    """
    if not hasattr(tx, "init") or not hasattr(tx, "update"):
        raise ValueError(
            f"tx must be an optax transformation; got {type(tx).__name__} (steps). Use optax.adam "
            "or alike, or optim.make_optimizer of a configuration."
        )
    both = jax.eval_shape(lambda s: (s.opt_state, tx.init(s.params)), state)
    kept, fresh = (
        [(path, x.shape) for path, x in jax.tree_util.tree_leaves_with_path(tree)] for tree in both
    )
    if kept != fresh:
        raise ValueError(
            "tx must be the transformation that the state was made with; got one whose own state "
            "differs (steps). Use the same for `initial_state`."
        )


def _numbered(
    batches: Callable[[int], HostBatch] | Iterable[HostBatch], begin: int, until: int | None
) -> Iterator[tuple[int, HostBatch]]:
    if not callable(batches):
        for step, batch in enumerate(batches, begin):
            if until is not None and step >= until:
                return
            yield step, batch
        return
    step = begin
    while until is None or step < until:
        yield step, batches(step)
        step += 1


def check_coupled(coupled: bool, micro_batches: int) -> None:
    """Refuses micro-batches of a loss that compares the rows of a batch with one another.

    Raises:
      ValueError: there are any.
    """
    if coupled and micro_batches > 1:
        raise ValueError(
            "loop.micro_batches must be 1 for a loss that is coupled over the batch (it sorts or "
            f"joins rows); got {micro_batches} (loop). Set it to 1, or use more devices."
        )


def check_rows(batch: algorithm.Batch, micro_batches: int) -> None:
    """Refuses rows that micro-batches do not divide.

    Raises:
      ValueError: naming both.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % micro_batches:
        raise ValueError(
            f"loop.micro_batches must divide the rows of an update; got {micro_batches} for {rows} "
            "rows."
        )


def check_first(
    expected: Mapping[str, algorithm.Expected], metrics: Mapping[str, mean.Mean]
) -> None:
    """Refuses a first update that misses what is known of it.

    Raises:
      errors.Failure: naming the metric and both values.
      ValueError: there is no such metric.
    """
    for name, known in expected.items():
        if name not in metrics:
            raise ValueError(
                f"first must name metrics of the loss; got {name!r} and the metrics "
                f"{', '.join(metrics)}."
            )
        value = float(metrics[name].value)
        if not abs(value - known.value) <= known.tolerance:
            raise errors.Failure(
                f"the first update must find {name} = {known.value:.6g} within "
                f"{known.tolerance:.3g}; got {value:.6g}. Policy and reference differ, the head "
                "is not zero, or data and masks are wrong."
            )


@jax.jit
def _take(batch: algorithm.Batch, rows: jax.Array) -> algorithm.Batch:
    return jax.tree.map(lambda x: axes.take(x, rows, "batch" + " slot" * (x.ndim - 1)), batch)


def minibatches(
    batch: algorithm.Batch, plan: algorithm.Plan, key: jax.Array
) -> Iterator[algorithm.Batch]:
    """The minibatches of a collected batch in order of use; each epoch has its own permutation.

    Raises:
      ValueError: the plan's minibatches do not divide the rows.
    """
    if plan.is_single:
        yield batch
        return
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % plan.minibatches:
        raise ValueError(
            f"minibatches must divide the rows of a batch; got {plan.minibatches} for {rows} rows."
        )
    for epoch in range(plan.epochs):
        order = jax.random.permutation(keys.at(key, epoch), rows)
        for part in jnp.split(order, plan.minibatches):
            yield _take(batch, part)


_add = jax.jit(mean.add)
_next = jax.jit(lambda step: step + 1)


def _total(parts: list[algorithm.Metrics]) -> algorithm.Metrics:
    total = parts[0]
    for more in parts[1:]:
        total = _add(total, more)
    return total

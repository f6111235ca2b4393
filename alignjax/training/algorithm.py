"""What an algorithm is: pure functions and a small plan. The loop asks for nothing else."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import mean, struct
from alignjax.models import model as models
from alignjax.training import program

Batch = Mapping[str, jax.Array]  # columns by name, see data/tables.py
Carry = Any  # a pytree of arrays, the algorithm's own
Terms = dict[str, mean.Mean]
Metrics = dict[str, mean.Mean]


@struct.pytree
class TrainState:
    """Everything that a step changes and a checkpoint holds."""

    step: jax.Array  # collected batches so far
    params: models.Params
    opt_state: Any
    carry: Carry  # the algorithm's own state: an adaptive coefficient, running moments


class Plan(NamedTuple):
    """How a collected batch is used: passes over it, and equal parts of each pass.

    rows: of the collected batch; 0 is as many as the data's batch has.
    """

    epochs: int = 1
    minibatches: int = 1
    rows: int = 0

    @property
    def is_single(self) -> bool:
        """Whether a batch is used once and whole."""
        return self.epochs == self.minibatches == 1


class Expected(NamedTuple):
    """A metric's value in the very first update, known in advance."""

    value: float
    tolerance: float


def no_kl(rounding: float, tokens: int) -> Expected:
    """The KL per row, in nats, of a policy to a reference that it starts as.

    rounding: of a log-probability, `Model.rounding`. tokens: of a row; their roundings add up.
    """
    return Expected(0.0, 4.0 * rounding * math.sqrt(tokens))


class Init(Protocol):
    """(key, start) -> params, only what is trained.

    start: trees of other runs or of open weights by role ("policy", "value"), as far as there are
    any; a method that may begin from nothing makes its own.
    """

    def __call__(self, key: jax.Array, start: Mapping[str, models.Params]) -> models.Params: ...


class Loss(Protocol):
    """(params, frozen, batch, key) -> ({term: Mean}, Metrics). Pure and differentiated.

    The objective is the sum over terms of total / weight, with each weight summed over the whole
    batch before any gradient is taken; so weights may depend on masks alone, never on params.
    """

    def __call__(
        self, params: models.Params, frozen: models.Frozen, batch: Batch, key: jax.Array
    ) -> tuple[Terms, Metrics]: ...


class Collect(Protocol):
    """(state, frozen, batch, key) -> (batch, carry, Metrics). A host function, no gradient."""

    def __call__(
        self, state: TrainState, frozen: models.Frozen, batch: Batch, key: jax.Array
    ) -> tuple[Batch, Carry, Metrics]: ...


class Annotate(Protocol):
    """(frozen, batch) -> columns that never change during the run, one entry a row."""

    def __call__(self, frozen: models.Frozen, batch: Batch) -> dict[str, jax.Array]: ...


class First(Protocol):
    """batch of the first update -> what metrics of it, or of its collection, must be."""

    def __call__(self, batch: Batch) -> Mapping[str, Expected]: ...


Table = Mapping[str, np.ndarray]  # all training rows, columns [N, ...] by name


class TableColumns(Protocol):
    """table -> further columns of all its rows; None drops a column. On the host."""

    def __call__(self, table: Table) -> Mapping[str, np.ndarray | None]: ...


def with_columns(table: Table, make: TableColumns | None) -> dict[str, np.ndarray]:
    """A table with the columns that `make` computes of it, without those it names with None."""
    if make is None:
        return dict(table)
    joined = {**table, **make(table)}
    return {name: column for name, column in joined.items() if column is not None}


def as_is(
    state: TrainState, frozen: models.Frozen, batch: Batch, key: jax.Array
) -> tuple[Batch, Carry, Metrics]:
    """The `collect` of supervised methods: the batch is used as the data gives it."""
    return batch, state.carry, {}


class Algorithm(NamedTuple):
    """A training method over models.

    init, loss, collect, annotate: see the protocols. annotate (reference log-probabilities) is run
      once for all rows before the first step; None: there is nothing to compute.
    only_annotate: roles in `frozen` that `annotate` alone reads; they are let go of after it.
    columns: names of optional columns of its kind of table that the method cannot do without.
    prepare: further columns of the table, computed before `annotate`: answers joined to the prompts
      of other rows, for example.
    over_table: the same after `annotate`: what depends on the data as a whole, such as counts of
      classes. Columns that it names with None are dropped.
    plan: how often a collected batch is used, and how many rows it has.
    carry: the method's own state at the start, or params -> that state.
    first: what is known of the very first update; a fresh run stops if a metric misses it.
    verify: takes the metrics of every update, and raises `errors.Failure` to stop the run.
    coupled: whether the loss of a row depends on the other rows of the update, so that
      micro-batches would change it.
    programs: what `collect` runs, for plans, see program.py; None where `collect` itself can be
      traced, or is `as_is`.
    passes: whole-row passes over models in one update of a batch, for FLOPs formulas; empty is not
      known. annotate_passes, collect_passes: the same of `annotate` and of `collect`.
    """

    init: Init
    loss: Loss
    collect: Collect = as_is
    annotate: Annotate | None = None
    only_annotate: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    prepare: TableColumns | None = None
    over_table: TableColumns | None = None
    plan: Plan = Plan()
    carry: Carry = ()
    first: First = lambda batch: {}
    verify: Callable[[Metrics], None] = lambda metrics: None
    coupled: bool = False
    programs: Callable[[program.Shapes], program.Collected] | None = None
    passes: tuple[program.Pass, ...] = ()
    annotate_passes: tuple[program.Pass, ...] = ()
    collect_passes: tuple[program.Pass, ...] = ()


def from_policy(
    model: models.Model, *, head: bool = False, heads: int = 0, role: str = "policy"
) -> Init:
    """The `init` of methods that go on from a policy, or begin with a new one.

    head: with a scalar head, zero at the start. heads: its outputs, as of `method.Role`. role: the
    name of the trained role.
    """

    def init(key: jax.Array, start: Mapping[str, models.Params]) -> models.Params:
        if start and role not in start:
            raise ValueError(
                f"what is trained must begin as the tree of its own role; got {role!r}, and trees "
                f"of {', '.join(start)} (from_policy). Name the role: from_policy(model, role=...)."
            )
        params = copy(start[role]) if role in start else model.init(key)
        return model.with_scalar(params, heads) if head else params

    return init


def copy(params: models.Params) -> models.Params:
    """The tree in buffers of its own: each update donates what is trained, not what is frozen."""
    return jax.tree.map(jnp.copy, params)

"""What an algorithm is: pure functions and a small plan. The loop asks for nothing else."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.core import mean, struct
from alignjax.models import model as models

Batch = Mapping[str, Any]


@struct.pytree
class TrainState:
    """Everything that a step changes and a checkpoint holds."""

    step: Any  # collected batches so far
    params: Any
    opt_state: Any
    carry: Any  # the algorithm's own state: an adaptive coefficient, running moments


class Plan(NamedTuple):
    """How a collected batch is used: passes over it, and equal parts of each pass."""

    epochs: int = 1
    minibatches: int = 1


class Expected(NamedTuple):
    """A metric's value in the very first update, known in advance."""

    value: float
    tolerance: float


def as_is(state: TrainState, frozen: models.Frozen, batch: Batch, key: jax.Array) -> Any:
    """The `collect` of supervised methods: the batch is used as the data gives it."""
    return batch, state.carry, {}


class Algorithm(NamedTuple):
    """A training method.

    init: (key, start) -> params, only what is trained. `start` holds the trees of earlier runs by
      name ("policy", "reward"); a method that may begin from nothing makes its own.
    loss: (params, frozen, batch, key) -> ({term: Mean}, Metrics). Pure and differentiated. The
      objective is the sum over terms of total / weight, with each weight summed over the whole
      batch before any gradient is taken; so weights may depend on masks alone, never on params.
    collect: (state, frozen, batch, key) -> (batch, carry, Metrics). A host function, no gradient.
    annotate: (frozen, batch) -> columns that never change during the run (reference
      log-probabilities), computed once for all rows before the first step. None: there are none.
    only_annotate: names in `frozen` that `annotate` alone reads; they are let go of after it.
    plan: how often a collected batch is used.
    carry: the method's own state at the start.
    first: metrics of the first update of a fresh run whose values are known; the run stops if one
      is missed.
    """

    init: Callable[[jax.Array, Mapping[str, models.Params]], models.Params]
    loss: Callable[..., tuple[dict[str, mean.Mean], dict[str, mean.Mean]]]
    collect: Callable[..., tuple[Batch, Any, dict[str, mean.Mean]]] = as_is
    annotate: Callable[[models.Frozen, Batch], dict[str, jax.Array]] | None = None
    only_annotate: tuple[str, ...] = ()
    plan: Plan = Plan()
    carry: Any = ()
    first: Mapping[str, Expected] = {}


def from_policy(model: models.Model) -> Callable[..., models.Params]:
    """The `init` of methods that go on from a policy, or begin with a new one."""

    def init(key: jax.Array, start: Mapping[str, models.Params]) -> models.Params:
        return copy(start["policy"]) if "policy" in start else model.init(key)

    return init


def copy(params: Any) -> Any:
    """Fresh buffers: what is trained is donated to each update, what is frozen must outlive it."""
    return jax.tree.map(jnp.copy, params)

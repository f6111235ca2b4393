"""The programs that a run executes, as jitted functions and the shapes of their arguments.

A run is put together by the same assembly as in training (runs/assembly.py), of shapes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax.models import config as model_config
from alignjax.models import model as models
from alignjax.parallel import axes, hosts
from alignjax.planning import analytic, work
from alignjax.runs import assembly, experiment, judging, sources
from alignjax.training import algorithm as algorithms
from alignjax.training import loop, program, stepping, update
from alignjax.training import method as methods

ROWS = 64  # that an evaluation scores at once; more where the mesh has more shards of a batch


class Call(NamedTuple):
    """One program.

    run: a jitted function. arguments: what it is called with. parts: those arguments by what they
    are, (category, tree), see memory.CATEGORIES. per_step: how often a step runs it; 0 is once
    before the first step. tokens: of all rows that one run reads. work: by the formulas; None where
    they do not hold. rounds: of loops that the data ends, at most. cache: the KV cache's shapes.
    beside: what else is on the devices meanwhile, besides what is held all along. mesh: where it is
    not the run's. stage: run; evaluation, which another command does, when nothing of the run is
    held; loop evaluation, in between its steps.
    """

    name: str
    run: Any
    arguments: tuple[Any, ...]
    parts: tuple[tuple[str, Any], ...]
    per_step: int
    tokens: int
    work: analytic.Work | None
    rounds: int = 1
    cache: Any = None
    beside: tuple[tuple[str, Any], ...] = ()
    mesh: Any = None
    stage: str = "run"


class Run(NamedTuple):
    """A run in shapes. held: trees that stay on the devices all along, (category, tree)."""

    shape: model_config.ModelConfig
    state: algorithms.TrainState
    frozen: Mapping[str, Any]
    held: tuple[tuple[str, Any], ...]
    calls: tuple[Call, ...]


NO_WORK = analytic.Work(0.0, 0.0)  # it moves data


class _Plan(NamedTuple):
    """What the parts of `build` share. shapes: see work.py."""

    parts: assembly.Assembly
    method: algorithms.Algorithm
    state: algorithms.TrainState
    frozen: dict[str, Any]
    key: Any
    dense: bool
    shapes: work.Shapes

    @property
    def judged(self) -> bool:
        """Whether the loop evaluates."""
        return bool(self.config.loop.evaluate_every)

    @property
    def config(self) -> experiment.Experiment:
        return self.parts.config

    @property
    def shards(self) -> tuple[int, int]:
        return axes.axis_size("batch"), axes.axis_size("vocab")


def without_data(config: experiment.Experiment) -> experiment.Experiment:
    """A copy whose missing folders have names: a plan reads none of them."""
    for role in config.algorithm.METHOD.roles(config.algorithm).values():
        if role.required and not config.source(role):
            config = config.with_source(role.source, role.source)
    return dataclasses.replace(config)


def build(config: experiment.Experiment, *, dense: bool = True, evaluation: bool = False) -> Run:
    """The run's programs on the mesh that is set; with `evaluation` those that judge it too.

    A loop that evaluates runs these itself, beside all that it holds: they are planned in any case.

    dense: whether the compiler has no kernel for a mixture of experts, so that each of them
    multiplies all rows.

    Raises:
      ValueError: the configuration's sizes do not fit each other or the mesh, or the method does
        not say what its `collect` runs.
    """
    config.validate()
    corpus = config.data.outline()
    if config.weights or config.model.vocab_size:
        corpus = corpus._replace(vocab_size=0)
    experiment.check_table(config, corpus)
    parts = assembly.Assembly(config, corpus, sources.Shapes())
    method = parts.algorithm()
    loop.check_sizes(config.loop, method.plan, coupled=method.coupled)
    key = jax.eval_shape(lambda: jax.random.key(0))
    start, frozen = parts.start(), parts.frozen()
    updates = config.loop.steps * method.plan.epochs * method.plan.minibatches
    tx_of = loop.transformation(config.optim, updates)

    def initial(start: Any, key: Any) -> Any:
        return stepping.make_state(method, tx_of, key, start)

    state = jax.eval_shape(initial, start, key)
    plan = _Plan(parts, method, state, frozen, key, dense, {})
    named = {name: (name, tree) for name, tree in _roles(plan).items()}
    plan = plan._replace(shapes=work.shapes(parts, named, dense))
    init = Call(
        "init", jax.jit(initial), (start, key), (("frozen", start), ("other", key)), 0, 0, None
    )
    held = (
        ("parameters", state.params),
        ("optimizer", state.opt_state),
        ("frozen", plan.frozen if plan.judged else _kept(plan)),
        ("other", (state.step, state.carry)),
    )
    after = _evaluation(plan) if evaluation or plan.judged else ()
    return Run(parts.shape, state, frozen, held, (init, *_training(plan, tx_of), *after))


def _kept(plan: _Plan) -> dict[str, Any]:
    """What is frozen and still read in the loop."""
    return {n: tree for n, tree in plan.frozen.items() if n not in plan.method.only_annotate}


def _call(plan: _Plan, own: program.Program, per_step: int, **options: Any) -> Call:
    return Call(
        own.name,
        own.run,
        own.arguments,
        own.parts,
        per_step,
        own.rows * own.length,
        work.of(own, plan.shapes, plan.shards),
        rounds=own.rounds,
        cache=own.cache,
        mesh=own.mesh,
        **options,
    )


def _training(plan: _Plan, tx_of: Any) -> tuple[Call, ...]:
    """annotate, what `collect` runs, and the update."""
    config, method, corpus = plan.config, plan.method, plan.parts.corpus
    kind = plan.parts.record.table(config.algorithm)
    count = config.loop.batch_size
    batch: dict[str, Any] = program.batch(kind, count, corpus, method.columns)
    calls = []
    with program.columns_told(batch):
        batch = _with_columns(batch, method.prepare)
        if method.annotate is not None:
            parts = config.loop.micro_batches
            rows = {name: _cut(x, parts) for name, x in batch.items()}
            calls.append(_call(plan, _annotation(plan, rows), 0))
            batch = {**batch, **jax.eval_shape(method.annotate, plan.frozen, batch)}
        batch = _with_columns(batch, method.over_table)
    collected = _collected(plan, batch)
    calls += [_call(plan, own, 1) for own in collected.programs]
    rows = dict(collected.rows)
    if method.plan.is_single:
        return (*calls, _update(plan, tx_of, rows))
    calls.append(_take(plan, rows))
    part = {name: _cut(x, method.plan.minibatches) for name, x in rows.items()}
    last = _update(plan, tx_of, part)  # the part is a copy of some of these rows
    return (*calls, last._replace(beside=(("batch", rows),)))


def _sizes(batch: Mapping[str, Any]) -> tuple[int, int]:
    """(rows, tokens of a row) of a batch as the models read it."""
    shape = batch["tokens"].shape if "tokens" in batch else (len(next(iter(batch.values()))), 0)
    return int(np.prod(shape[:-1])), int(shape[-1])


def _annotation(plan: _Plan, batch: Mapping[str, Any]) -> program.Program:
    count, length = _sizes(batch)
    return program.Program(
        "annotate",
        jax.jit(plan.method.annotate),  # type: ignore[arg-type]
        (plan.frozen, batch),
        (("frozen", plan.frozen), ("batch", batch)),
        count,
        length,
        plan.method.annotate_passes or None,
    )


def _with_columns(batch: dict[str, Any], make: algorithms.TableColumns | None) -> dict[str, Any]:
    """The batch with the columns that the method makes of the whole table, as it makes them of a
    small table of zeros."""
    if make is None:
        return batch
    rows = {name: np.zeros((2, *x.shape[1:]), x.dtype) for name, x in batch.items()}
    count = next(iter(batch.values())).shape[0]
    table = algorithms.with_columns(rows, make)
    more = {n: ((count, *x.shape[1:]), x.dtype) for n, x in table.items() if n not in batch}
    return {**{n: x for n, x in batch.items() if n in table}, **program.rows(more)}


def _collected(plan: _Plan, batch: dict[str, Any]) -> program.Collected:
    """What `collect` runs and gives."""
    method, parts = plan.method, plan.parts
    if method.collect is algorithms.as_is:
        return program.Collected((), batch)
    arguments = (plan.state, _kept(plan), batch, plan.key)
    if method.programs is not None:
        shapes = program.Shapes(
            networks=parts.networks(),
            params=plan.state.params,
            bound=_bound_roles(plan),
            frozen=plan.frozen,
            carry=plan.state.carry,
            batch=batch,
            key=plan.key,
        )
        return method.programs(shapes)
    try:
        with program.columns_told(batch):
            rows, _, _ = program.shapes_of(method.collect, *arguments)
    except ValueError:  # of sizes, in words of its own
        raise
    except Exception as error:  # arrays without values raise whatever the host code meets
        raise ValueError(
            f"the collect of {parts.record.name} must be traceable, or list what it runs in "
            f"Algorithm.programs; got {type(error).__name__} (plan). See training/program.py."
        ) from error
    own = program.Program(
        "collect",
        jax.jit(method.collect),
        arguments,
        (
            ("parameters", plan.state.params),
            ("optimizer", plan.state.opt_state),
            ("frozen", _kept(plan)),
            ("batch", batch),
            ("other", (plan.state.step, plan.state.carry, plan.key)),
        ),
        *_sizes(batch),
        method.collect_passes or None,
    )
    return program.Collected((own,), rows)


def _roles(plan: _Plan) -> dict[str, Any]:
    """The trees of the roles that train, with adapters apart from their base."""
    roles, params = plan.parts.roles, plan.state.params
    trained = methods.trained_roles(roles)
    by_role = methods.is_by_role(params, trained)
    own = {name: params[name] if by_role else params for name in trained}
    return {name: own[name] if name in own else plan.frozen[name] for name in plan.parts.networks()}


def _bound_roles(plan: _Plan) -> dict[str, Any]:
    """role -> the tree that its model reads."""
    networks = plan.parts.networks()
    return {n: bind(networks[n], tree, plan.frozen) for n, tree in _roles(plan).items()}


def bind(model: models.Model, tree: Any, frozen: Mapping[str, Any]) -> Any:
    """A tree in shapes as its model reads it; what it shares with others stays the same object."""
    return program.shapes_of(model.bind, tree, frozen) if "base" in frozen else tree


def _cut(x: Any, parts: int) -> Any:
    shape = (x.shape[0] // parts, *x.shape[1:])
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=getattr(x, "sharding", None))


def _update(plan: _Plan, tx_of: Any, batch: Mapping[str, Any]) -> Call:
    state, steps = plan.state, plan.method.plan
    own = program.Program(
        "update",
        update.make_update(
            plan.method.loss,
            tx_of(state.params),
            micro_batches=plan.config.loop.micro_batches,
        ),
        (state, _kept(plan), batch, plan.key),
        (
            ("parameters", state.params),
            ("optimizer", state.opt_state),
            ("frozen", _kept(plan)),
            ("batch", batch),
            ("other", (state.step, state.carry, plan.key)),
        ),
        *_sizes(batch),
        plan.method.passes or None,
    )
    return _call(plan, own, steps.epochs * steps.minibatches)


def _take(plan: _Plan, rows: Mapping[str, Any]) -> Call:
    """Rows of a collected batch, in the order of one of its permutations (stepping.minibatches)."""
    steps, mesh = plan.method.plan, None
    if axes.has_mesh():
        mesh = jax.sharding.NamedSharding(jax.sharding.get_mesh(), jax.sharding.PartitionSpec())
    count = next(iter(rows.values())).shape[0] // steps.minibatches
    order = jax.ShapeDtypeStruct((count,), np.int32, sharding=mesh)

    def take(batch: Any, order: Any) -> Any:
        return {
            name: axes.take(x, order, "batch" + " slot" * (x.ndim - 1)) for name, x in batch.items()
        }

    parts = (("batch", rows), ("other", order))
    often = steps.epochs * steps.minibatches
    return Call("take", jax.jit(take), (rows, order), parts, often, 0, NO_WORK)


def _evaluation(plan: _Plan) -> tuple[Call, ...]:
    """What judges the run: in the loop, or `alignjax evaluate` at the rows that it takes by
    default."""
    parts, product = plan.parts, plan.parts.record.product(plan.config.algorithm)
    rows = -(-ROWS // plan.shards[0]) * plan.shards[0]
    if plan.judged:
        rows = plan.config.loop.evaluate_rows
        hosts.check_rows("loop.evaluate_rows", rows)
    named = judging.parts_of(parts, plan.state.params, plan.frozen, bind=bind)
    for name, model in parts.networks(evaluated=not plan.judged).items():
        if plan.judged and not parts.roles[name].trained:
            named[name] = (model, bind(model, plan.frozen[name], plan.frozen))
        elif not parts.roles[name].trained:
            named[name] = (parts.judged_model(name), parts.judged(name))
    networks = {name: model for name, (model, _) in named.items()}
    trees = {name: tree for name, (_, tree) in named.items()}
    roles = {n: (product[n].role if n in product else n, tree) for n, tree in trees.items()}
    plan = plan._replace(shapes=work.shapes(parts, roles, plan.dense))
    subject = judging.subject(parts, networks, trees, rows=rows, seed=0)
    stage = "loop evaluation" if plan.judged else "evaluation"
    makers = [judge.programs for judge in judging.judges(parts, named)]
    calls = [own for make in makers if make is not None for own in make(subject)]
    return tuple(_call(plan, own, 0, stage=stage) for own in calls)

"""The programs that a run executes, as jitted functions and the shapes of their arguments."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import experiment
from alignjax.algorithms import dpo, ppo
from alignjax.data import corpus as corpora
from alignjax.models import config as model_config
from alignjax.models import model as models
from alignjax.models import transformer
from alignjax.models.adapters import adapt
from alignjax.parallel import axes
from alignjax.parallel import mesh as meshes
from alignjax.planning import abstract, analytic, evaluating
from alignjax.rewards import learned
from alignjax.sampling import generate, placement, transforms
from alignjax.training import algorithm as algorithms
from alignjax.training import loop, optim, update


class Call(NamedTuple):
    """One program.

    run: a jitted function. arguments: what it is called with. parts: those arguments by what they
    are, (category, tree), see memory.CATEGORIES. per_step: how often a step runs it; 0 is once
    before the first step. tokens: of all rows that one run reads. work: by the formulas; None where
    they do not hold. rounds: of loops that the data ends, at most. cache: the KV cache's shapes.
    beside: what else is on the devices meanwhile, besides what is held all along. alone: whether
    nothing of the run is held meanwhile, for another command runs it. mesh: where it is not the
    run's.
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
    alone: bool = False
    mesh: Any = None

    @property
    def stage(self) -> str:
        """run, or the evaluation after it."""
        return "evaluation" if self.alone else "run"


class Run(NamedTuple):
    """A run in shapes. held: trees that stay on the devices all along, (category, tree)."""

    shape: model_config.TransformerConfig
    state: algorithms.TrainState
    frozen: Mapping[str, Any]
    held: tuple[tuple[str, Any], ...]
    calls: tuple[Call, ...]


NO_WORK = analytic.Work(0.0, 0.0)  # it moves data
COLLECTED = ("old_logprobs", "old_values", "advantages", "returns")


class _Build(NamedTuple):
    """What the parts of `build` share."""

    config: experiment.Experiment
    corpus: corpora.Corpus
    shape: model_config.TransformerConfig
    model: models.Model
    method: algorithms.Algorithm
    start: dict[str, Any]
    frozen: dict[str, Any]
    state: Any
    key: Any
    tx_of: Callable[[Any], Any]
    counts: analytic.Shape | None  # None where the formulas do not hold

    @property
    def shards(self) -> tuple[int, int]:
        return axes.axis_size("batch"), axes.axis_size("vocab")

    def passes(
        self,
        count: int,
        length: int,
        *,
        trained: bool = False,
        head: bool = True,
        plain: bool = False,
    ) -> tuple[analytic.Work, ...] | None:
        """One model over whole rows; plain: without adapters."""
        if self.counts is None:
            return None
        shape = self.counts.plain if plain else self.counts
        body = analytic.body(shape, count, length, trained=trained)
        if not head:
            return (body,)
        return body, analytic.head(shape, count, length, self.shards, trained=trained)


def joined(*passes: tuple[analytic.Work, ...] | None) -> analytic.Work | None:
    """The work of several passes; None where one is not known."""
    known = [each for each in passes if each is not None]
    return analytic.together(*sum(known, ())) if len(known) == len(passes) else None


def build(config: experiment.Experiment, *, dense: bool = True, evaluation: bool = False) -> Run:
    """The run's programs on the mesh that is set; with `evaluation` those that judge it too.

    dense: whether the compiler has no kernel for a mixture of experts, so that each of them
    multiplies all rows.

    Raises:
      ValueError: the configuration's sizes do not fit each other or the mesh.
    """
    config.validate()
    corpus = abstract.corpus(config)
    shape = experiment.resolve_model(config.model, corpus, config.weights)
    plain = transformer.transformer(shape)
    model = adapt.adapt(plain, config.adapter)
    method = experiment.make_method(config.algorithm, model, corpus)
    loop.check_sizes(config.loop, method.plan)
    key = jax.eval_shape(lambda: jax.random.key(0))
    start, frozen = abstract.starts(config, plain, model, key)
    updates = config.loop.steps * method.plan.epochs * method.plan.minibatches

    def tx_of(params: Any) -> Any:
        return optim.make_optimizer(config.optim, params, updates)

    def initial(start: Any, key: Any) -> Any:
        return loop.make_state(method, tx_of, key, start)

    state = jax.eval_shape(initial, start, key)
    counts = None
    if not config.optim.freeze:
        counts = analytic.shape_of(shape, config.adapter, dense)
    made = _Build(config, corpus, shape, model, method, start, frozen, state, key, tx_of, counts)
    init = Call(
        "init", jax.jit(initial), (start, key), (("frozen", start), ("other", key)), 0, 0, None
    )
    stages = _online(made) if isinstance(config.algorithm, ppo.PpoConfig) else _offline(made)
    held = (
        ("parameters", state.params),
        ("optimizer", state.opt_state),
        ("frozen", _kept(made)),
        ("other", (state.step, state.carry)),
    )
    after = _evaluation(made) if evaluation else ()
    return Run(shape, state, frozen, held, (init, *stages, *after))


def _kept(made: _Build) -> dict[str, Any]:
    """What is frozen and still read in the loop."""
    return {n: tree for n, tree in made.frozen.items() if n not in made.method.only_annotate}


def _update(made: _Build, batch: Any, tokens: int, work: analytic.Work | None) -> Call:
    state, plan = made.state, made.method.plan
    return Call(
        "update",
        update.make_update(
            made.method.loss,
            made.tx_of(state.params),
            micro_batches=made.config.loop.micro_batches,
        ),
        (state, _kept(made), batch, made.key),
        (
            ("parameters", state.params),
            ("optimizer", state.opt_state),
            ("frozen", _kept(made)),
            ("batch", batch),
            ("other", (state.step, state.carry, made.key)),
        ),
        plan.epochs * plan.minibatches,
        tokens,
        work,
    )


def _offline(made: _Build) -> tuple[Call, ...]:
    """The programs of methods that train on rows as the data gives them."""
    config, length = made.config, made.corpus.length
    pairs = experiment.table_kind(config.algorithm) == "pairs"
    sizes = (config.loop.batch_size, 2, length) if pairs else (config.loop.batch_size, length)
    count = math.prod(sizes[:-1])
    given = abstract.rows(abstract.READ, *sizes)
    calls: tuple[Call, ...] = ()
    if made.method.annotate is not None:
        work = joined(made.passes(count, length, plain=True))
        parts = (("frozen", made.frozen), ("batch", given))
        run = jax.jit(made.method.annotate)
        calls = (Call("annotate", run, (made.frozen, given), parts, 0, count * length, work),)
    batch = dict(given)
    if isinstance(config.algorithm, dpo.DpoConfig):
        batch |= abstract.rows({"reference_logprobs": np.float32}, *sizes)
    has_head = experiment.method_name(config.algorithm) != "reward"
    work = joined(made.passes(count, length, trained=True, head=has_head))
    return (*calls, _update(made, batch, count * length, work))


def _policy(made: _Build) -> Any:
    """The language model that is trained."""
    params, chosen = made.state.params, made.config.algorithm
    return ppo.critic_of(params, chosen)[0] if isinstance(chosen, ppo.PpoConfig) else params


def _bound(made: _Build, params: Any) -> Any:
    """A tree as the model reads it."""
    adapted = not isinstance(made.config.adapter, adapt.FullConfig)
    return jax.eval_shape(made.model.bind, params, made.frozen) if adapted else params


def _generate(made: _Build, sampling: transforms.SamplingConfig, count: int) -> Call:
    corpus, model, frozen = made.corpus, made.model, made.frozen
    prompt, new = corpus.prompt_length, sampling.max_new_tokens
    prompts, lengths = (
        abstract.rows({"prompts": np.int32}, count, prompt),
        abstract.rows({"n": np.int32}, count),
    )
    policy, adapted = _policy(made), "base" in frozen
    bound, given = _bound(made, policy), (prompts["prompts"], lengths["n"])
    parts = [("parameters", policy), ("frozen", {"base": frozen["base"]} if adapted else {})]
    if (mesh := placement.mesh_of(model, sampling.model_axis)) is not None:
        bound = jax.eval_shape(model.narrow, model.without_scalar(bound))
        bound = abstract.laid_out(bound, placement.layouts(model, bound, mesh))
        given = abstract.laid_out(given, placement.rows(mesh, given))
        parts = [("parameters", bound)]
    plain = dataclasses.replace(sampling, model_axis=0)
    counts = made.counts
    with contextlib.nullcontext() if mesh is None else meshes.use(mesh):
        if counts is not None:
            counts = counts._replace(model=axes.axis_size("ff"), seq=axes.axis_size("time"))
        cache = jax.eval_shape(lambda: model.cache(count, prompt + new))
    return Call(
        "generate",
        generate.make_generate(model, plain, eos=corpus.eos, pad=corpus.pad),
        (bound, *given, made.key),
        (*parts, ("batch", given), ("other", made.key)),
        1,
        count * (prompt + new),
        None if counts is None else analytic.generation(counts, count, prompt, new),
        rounds=new,
        cache=cache,
        mesh=mesh,
    )


def _score(made: _Build, samples: generate.Samples) -> Call:
    count, length = samples.tokens.shape
    score = learned.learned(made.model)
    trees = {name: made.frozen[name] for name in ("reward", "base") if name in made.frozen}
    return Call(
        "score",
        jax.jit(score),
        (trees, samples),
        (("frozen", trees), ("batch", samples)),
        1,
        count * length,
        joined(made.passes(count, length, head=False, plain=True)),
    )


def _experience(made: _Build, chosen: ppo.PpoConfig, samples: generate.Samples) -> Call:
    count, length = samples.tokens.shape
    params, frozen = made.state.params, made.frozen
    scores = abstract.rows({"scores": np.float32}, count)["scores"]
    coefficient = jax.ShapeDtypeStruct((), jnp.float32)
    bodies = [made.passes(count, length), made.passes(count, length, plain=True)]
    if not chosen.shared_critic:
        bodies.append(made.passes(count, length, head=False))
    return Call(
        "experience",
        ppo.make_experience(made.model, chosen),
        (params, frozen, samples, scores, coefficient),
        (
            ("parameters", params),
            ("frozen", frozen),
            ("batch", (samples, scores)),
            ("other", coefficient),
        ),
        1,
        count * length,
        joined(*bodies),
    )


def _take(made: _Build, chosen: ppo.PpoConfig, collected: Any, length: int) -> Call:
    """Rows of a collected batch, in the order of one of its permutations (training/loop.py)."""
    count = made.config.loop.batch_size
    whole, mesh = abstract.rows(collected, count, length), None
    if axes.has_mesh():
        mesh = jax.sharding.NamedSharding(jax.sharding.get_mesh(), jax.sharding.PartitionSpec())
    order = jax.ShapeDtypeStruct((count // chosen.minibatches,), np.int32, sharding=mesh)

    def take(batch: Any, order: Any) -> Any:
        return {name: axes.take(x, order, "batch slot") for name, x in batch.items()}

    parts = (("batch", whole), ("other", order))
    often = chosen.epochs * chosen.minibatches
    return Call("take", jax.jit(take), (whole, order), parts, often, 0, NO_WORK)


def _evaluation(made: _Build) -> tuple[Call, ...]:
    """What `alignjax evaluate` runs, at the number of rows that it takes by default."""
    config, corpus, model = made.config, made.corpus, made.model
    method, count = (
        experiment.method_name(config.algorithm),
        evaluating.rows_at_once(made.shards[0]),
    )
    policy, length = _bound(made, _policy(made)), corpus.length
    found: list[tuple[evaluating.Program, int]] = []
    if method in ("pretrain", "sft"):
        made_of = evaluating.likelihood(model, policy, abstract.rows(abstract.READ, count, length))
        return (_judging(made, made_of, count, length),)
    pairs = abstract.rows(abstract.READ, count, 2, length)
    if method == "reward":
        return (
            _judging(made, evaluating.reward_accuracy(model, policy, pairs), 2 * count, length),
        )
    reference = _bound(made, made.frozen["reference"])
    if method == "dpo":
        judge = evaluating.implicit_accuracy(model, policy, reference, pairs)
        found.append((judge, 2 * count))
    sampling = getattr(config.algorithm, "sampling", None) or transforms.SamplingConfig(
        max_new_tokens=length - corpus.prompt_length
    )
    whole = corpus.prompt_length + sampling.max_new_tokens
    samples = abstract.samples(count, whole)
    temperature = sampling.temperature or 1.0
    judge = evaluating.divergence(model, policy, reference, samples, temperature)
    drawn = _generate(made, sampling, count)._replace(name="evaluate generate", per_step=0)
    calls = [_judging(made, each, n, length) for each, n in found]
    return (*calls, drawn._replace(alone=True), _judging(made, judge, count, whole))


def _judging(made: _Build, judge: evaluating.Program, count: int, length: int) -> Call:
    work = evaluating.work(made.counts, judge, count, length, made.shards)
    given = tuple(tree for _, tree in judge.parts)
    return Call(judge.name, judge.run, given, judge.parts, 0, count * length, work, alone=True)


def _online(made: _Build) -> tuple[Call, ...]:
    """The programs of PPO: generate, score, experience, update."""
    chosen, count = made.config.algorithm, made.config.loop.batch_size
    assert isinstance(chosen, ppo.PpoConfig)
    length = made.corpus.prompt_length + chosen.sampling.max_new_tokens
    samples = abstract.samples(count, length)
    calls = [_generate(made, chosen.sampling, count)]
    if chosen.reward == "model":
        calls.append(_score(made, samples))
    calls.append(_experience(made, chosen, samples))
    collected = {**abstract.READ, **dict.fromkeys(COLLECTED, np.float32)}
    part = count // chosen.minibatches
    trained = [made.passes(part, length, trained=True)]
    if not chosen.shared_critic:
        trained.append(made.passes(part, length, trained=True, head=False))
    batch = abstract.rows(collected, part, length)
    calls += (
        [_take(made, chosen, collected, length)] if made.method.plan != algorithms.Plan() else []
    )
    last = _update(made, batch, part * length, joined(*trained))
    whole = abstract.rows(collected, count, length)  # the part is a copy of some of these rows
    return (*calls, last._replace(beside=(("batch", whole),)))

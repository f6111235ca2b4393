"""The programs that a run executes, as jitted functions and the shapes of their arguments."""

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
from alignjax.planning import analytic
from alignjax.rewards import learned
from alignjax.sampling import generate
from alignjax.training import algorithm as algorithms
from alignjax.training import loop, optim, update
from alignjax.worlds import corpus as world_corpus


class Call(NamedTuple):
    """One program.

    run: a jitted function. arguments: what it is called with. parts: those arguments by what they
    are, (category, tree), see memory.CATEGORIES. per_step: how often a step runs it; 0 is once
    before the first step. tokens: of all rows that one run reads. work: by the formulas; None where
    they do not hold. rounds: of loops that the data ends, at most. cache: the KV cache's shapes.
    beside: what else is on the devices meanwhile, besides what is held all along.
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


class Run(NamedTuple):
    """A run in shapes. held: trees that stay on the devices all along, (category, tree)."""

    shape: model_config.TransformerConfig
    state: algorithms.TrainState
    frozen: Mapping[str, Any]
    held: tuple[tuple[str, Any], ...]
    calls: tuple[Call, ...]


def abstract_corpus(config: experiment.Experiment) -> corpora.Corpus:
    """The sizes of the data, without reading any where they do not depend on it."""
    data = config.data
    if isinstance(data, world_corpus.ReviewConfig):
        return experiment.make_corpus(data, lambda line: None)
    vocab = 0 if config.weights else config.model.vocab_size or getattr(data, "vocab_size", 0)
    return corpora.Corpus(
        vocab_size=vocab,
        pad=0,
        eos=1,
        length=data.length,
        prompt_length=data.prompt_length,
        table=lambda kind, split: {},
        text=str,
        fingerprints={},
    )


def rows(columns: Mapping[str, Any], *sizes: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Global arrays [*sizes] with the layout of a batch; columns: dtype by name."""
    names = " ".join(["batch", *["time"] * (len(sizes) - 1)])
    mesh = jax.sharding.get_mesh() if axes.has_mesh() else None
    where = None if mesh is None else jax.sharding.NamedSharding(mesh, axes.spec(names))
    return {n: jax.ShapeDtypeStruct(sizes, t, sharding=where) for n, t in columns.items()}


READ = {"tokens": np.int32, "loss_mask": np.bool_, "segments": np.int32, "positions": np.int32}
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


def _starts(
    config: experiment.Experiment, plain: models.Model, model: models.Model, key: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(start, frozen) of the run as experiment.load_start gives them, in shapes."""
    base = jax.eval_shape(plain.init, key)
    start: dict[str, Any] = {}
    frozen: dict[str, Any] = {}
    refers = isinstance(config.algorithm, experiment.REFERRING)
    adapted = not isinstance(config.adapter, adapt.FullConfig)
    if config.policy or config.weights:
        start["policy"] = jax.eval_shape(model.init, key) if adapted else base
    if adapted:
        frozen["base"] = base
    if refers:
        frozen["reference"] = adapt.empty(start["policy"]) if adapted else start["policy"]
    if config.reward:
        frozen["reward"] = jax.eval_shape(plain.with_scalar, base)
        if not adapted:
            start["reward"] = frozen["reward"]
    return start, frozen


def build(config: experiment.Experiment, *, dense: bool = True) -> Run:
    """The run's programs on the mesh that is set.

    dense: whether the compiler has no kernel for a mixture of experts, so that each of them
    multiplies all rows.

    Raises:
      ValueError: the configuration's sizes do not fit each other or the mesh.
    """
    config.validate()
    corpus = abstract_corpus(config)
    shape = experiment.resolve_model(config.model, corpus, config.weights)
    plain = transformer.transformer(shape)
    model = adapt.adapt(plain, config.adapter)
    method = experiment.make_method(config.algorithm, model, corpus)
    loop.check_sizes(config.loop, method.plan)
    key = jax.eval_shape(lambda: jax.random.key(0))
    start, frozen = _starts(config, plain, model, key)
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
    # The loop keeps the trees that it started from; those of DPO and PPO are the frozen ones.
    own = {} if isinstance(config.algorithm, experiment.REFERRING) else start
    held = (
        ("parameters", state.params),
        ("optimizer", state.opt_state),
        ("frozen", {**own, **frozen}),
        ("other", (state.step, state.carry)),
    )
    return Run(shape, state, frozen, held, (init, *stages))


def _update(made: _Build, batch: Any, tokens: int, work: analytic.Work | None) -> Call:
    state, plan = made.state, made.method.plan
    return Call(
        "update",
        update.make_update(
            made.method.loss,
            made.tx_of(state.params),
            micro_batches=made.config.loop.micro_batches,
        ),
        (state, made.frozen, batch, made.key),
        (
            ("parameters", state.params),
            ("optimizer", state.opt_state),
            ("frozen", made.frozen),
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
    given = rows(READ, *sizes)
    calls: tuple[Call, ...] = ()
    if made.method.annotate is not None:
        work = joined(made.passes(count, length, plain=True))
        parts = (("frozen", made.frozen), ("batch", given))
        run = jax.jit(made.method.annotate)
        calls = (Call("annotate", run, (made.frozen, given), parts, 0, count * length, work),)
    batch = dict(given)
    if isinstance(config.algorithm, dpo.DpoConfig):
        batch |= rows({"reference_logprobs": np.float32}, *sizes)
    has_head = experiment.method_name(config.algorithm) != "reward"
    work = joined(made.passes(count, length, trained=True, head=has_head))
    return (*calls, _update(made, batch, count * length, work))


def _samples(count: int, length: int) -> generate.Samples:
    """Samples of `count` rows, in shapes."""
    wide = {"tokens": np.int32, "mask": np.bool_, "logprobs": np.float32}
    narrow = {"lengths": np.int32, "prompt_lengths": np.int32, "ended": np.bool_}
    return generate.Samples(**rows(wide, count, length), **rows(narrow, count))


def _generate(made: _Build, chosen: ppo.PpoConfig) -> Call:
    corpus, model, frozen = made.corpus, made.model, made.frozen
    count, prompt = made.config.loop.batch_size, corpus.prompt_length
    new = chosen.sampling.max_new_tokens
    prompts, lengths = rows({"prompts": np.int32}, count, prompt), rows({"n": np.int32}, count)
    policy, _ = ppo.critic_of(made.state.params, chosen)
    adapted = not isinstance(made.config.adapter, adapt.FullConfig)
    bound = jax.eval_shape(model.bind, policy, frozen) if adapted else policy
    return Call(
        "generate",
        generate.make_generate(model, chosen.sampling, eos=corpus.eos, pad=corpus.pad),
        (bound, prompts["prompts"], lengths["n"], made.key),
        (
            ("parameters", policy),
            ("frozen", {"base": frozen["base"]} if adapted else {}),
            ("batch", (prompts, lengths)),
            ("other", made.key),
        ),
        1,
        count * (prompt + new),
        None if made.counts is None else analytic.generation(made.counts, count, prompt, new),
        rounds=new,
        cache=jax.eval_shape(lambda: model.cache(count, prompt + new)),
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
    scores = rows({"scores": np.float32}, count)["scores"]
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


def _online(made: _Build) -> tuple[Call, ...]:
    """The programs of PPO: generate, score, experience, update."""
    chosen, count = made.config.algorithm, made.config.loop.batch_size
    assert isinstance(chosen, ppo.PpoConfig)
    length = made.corpus.prompt_length + chosen.sampling.max_new_tokens
    samples = _samples(count, length)
    calls = [_generate(made, chosen)]
    if chosen.reward == "model":
        calls.append(_score(made, samples))
    calls.append(_experience(made, chosen, samples))
    collected = {**READ, **dict.fromkeys(COLLECTED, np.float32)}
    part = count // chosen.minibatches
    trained = [made.passes(part, length, trained=True)]
    if not chosen.shared_critic:
        trained.append(made.passes(part, length, trained=True, head=False))
    batch = rows(collected, part, length)
    last = _update(made, batch, part * length, joined(*trained))
    whole = rows(collected, count, length)  # the part is a copy of some of these rows
    return (*calls, last._replace(beside=(("batch", whole),)))


def without_data(config: experiment.Experiment) -> experiment.Experiment:
    """A copy whose missing folders have names: a plan reads none of them."""
    needs = isinstance(config.algorithm, experiment.REFERRING)
    policy = config.policy or ("policy" if needs and not config.weights else "")
    scored = isinstance(config.algorithm, ppo.PpoConfig) and config.algorithm.reward == "model"
    return dataclasses.replace(
        config, policy=policy, reward=config.reward or ("reward" if scored else "")
    )

"""One experiment: a typed configuration, and how it becomes a model, data and a method."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import runs
from alignjax.algorithms import dpo, ppo, pretrain, sft
from alignjax.algorithms import reward as rewards
from alignjax.core import keys, shapes
from alignjax.data import corpus as corpora
from alignjax.data import hh, instructions, pipeline
from alignjax.models import config as model_config
from alignjax.models import model as models
from alignjax.models import transformer
from alignjax.models.adapters import adapt, merge
from alignjax.models.checkpoints import folder as stored
from alignjax.parallel import hosts
from alignjax.parallel import mesh as meshes
from alignjax.rewards import hosted, learned
from alignjax.training import algorithm as algorithms
from alignjax.training import checkpoint
from alignjax.training import loop as loops
from alignjax.training import optim as optims
from alignjax.worlds import corpus as world_corpus

AlgorithmConfig = (
    pretrain.PretrainConfig | sft.SftConfig | rewards.RewardConfig | dpo.DpoConfig | ppo.PpoConfig
)
DataConfig = world_corpus.ReviewConfig | hh.HhConfig | instructions.InstructConfig


@dataclasses.dataclass(kw_only=True)
class Training:
    """How one stage trains."""

    algorithm: AlgorithmConfig = dataclasses.field(default_factory=pretrain.PretrainConfig)
    optim: optims.OptimConfig = dataclasses.field(default_factory=optims.OptimConfig)
    loop: loops.LoopConfig = dataclasses.field(default_factory=loops.LoopConfig)

    def validate(self) -> None:
        self.algorithm.validate()
        self.optim.validate()
        self.loop.validate()


def training(algorithm: Callable[[], AlgorithmConfig]) -> Any:
    """A field whose default trains with an algorithm's defaults."""
    return dataclasses.field(default_factory=lambda: Training(algorithm=algorithm()))


@dataclasses.dataclass(kw_only=True)
class Experiment(Training):
    """A complete run: what `alignjax train` takes."""

    seed: int = 0
    model: model_config.TransformerConfig = dataclasses.field(
        default_factory=model_config.TransformerConfig
    )
    data: DataConfig = dataclasses.field(default_factory=world_corpus.ReviewConfig)
    mesh: meshes.MeshConfig = dataclasses.field(default_factory=meshes.MeshConfig)
    weights: str = ""  # open weights (folder or .gguf): the model's shape, and where runs begin
    adapter: adapt.AdapterConfig = dataclasses.field(default_factory=adapt.FullConfig)
    weights_layers: int = 0  # only their first layers; 0 is all
    policy: str = ""  # folder of the run whose policy this one starts from (and refers to)
    reward: str = ""  # folder of the reward model's run, for PPO

    def validate(self) -> None:
        super().validate()
        shapes.check_number("seed", self.seed, minimum=0)
        shapes.check_number("weights_layers", self.weights_layers, minimum=0)
        self.data.validate()
        self.mesh.validate()
        self._validate_adapter()
        if isinstance(self.algorithm, REFERRING) and not (self.policy or self.weights):
            raise ValueError(
                f"policy must name the folder of the run to start from for "
                f"{method_name(self.algorithm)}; got ''. Set --config.policy=RUN_FOLDER, or "
                f"--config.weights=MODEL to start from open weights."
            )
        if (
            isinstance(self.algorithm, ppo.PpoConfig)
            and self.algorithm.reward == "model"
            and not self.reward
        ):
            raise ValueError(
                "reward must name the folder of a reward model's run for PPO; got ''. "
                "Set --config.reward=RUN_FOLDER."
            )

    def _validate_adapter(self) -> None:
        self.adapter.validate()
        name = method_name(self.algorithm)
        if not isinstance(self.adapter, adapt.FullConfig) and not (self.policy or self.weights):
            raise ValueError(
                f"policy or weights must name what {name}'s adapters stand on; got neither. Set "
                "--config.policy=RUN_FOLDER or --config.weights=MODEL."
            )


def method_name(config: AlgorithmConfig) -> str:
    """The method that a config class belongs to: "pretrain", "sft", "reward", "dpo" or "ppo"."""
    return type(config).__name__.removesuffix("Config").lower()


def make_corpus(config: DataConfig, say: Callable[[str], None]) -> corpora.Corpus:
    """The corpus that a data config describes; `say` gets what was kept, cut and dropped."""
    if isinstance(config, hh.HhConfig):
        return hh.make_corpus(config, say)
    if isinstance(config, instructions.InstructConfig):
        return instructions.make_corpus(config, say)
    return world_corpus.make_corpus(config)


# Fields of a model's configuration that say how it runs, not what it computes.
RUNNING = ("compute_dtype", "param_dtype", "remat", "attention_kernel", "unroll", "logit_tile")


def resolve_model(
    shape: model_config.TransformerConfig,
    corpus: corpora.Corpus,
    weights: str = "",
    layers: int = 0,
) -> model_config.TransformerConfig:
    """The model's shape: that of open weights, or the given one with the data's vocabulary.

    Raises:
      ValueError: the vocabulary is too small for the data, or a shape is given beside weights.
    """
    if weights:
        running = {name: getattr(shape, name) for name in RUNNING}
        if shape != dataclasses.replace(model_config.TransformerConfig(), **running):
            raise ValueError(
                "model must be left as it is beside weights, but for "
                f"{', '.join(RUNNING)}: the weights give the shape (model). Remove the others."
            )
        found = stored.open_model(weights).config
        if layers > found.layers:
            raise ValueError(
                f"weights_layers must be at most the model's {found.layers}; got {layers}."
            )
        running["layers"] = layers or found.layers
        shape = dataclasses.replace(found, **running)
    size = shape.vocab_size or corpus.vocab_size
    if size < corpus.vocab_size:
        raise ValueError(
            f"model.vocab_size must cover the data's {corpus.vocab_size} tokens; got {size} "
            "(model). Leave it 0 to take the data's, or use the tokenizer of the weights."
        )
    return dataclasses.replace(shape, vocab_size=size)


def gold_reward(corpus: corpora.Corpus) -> learned.RewardFn:
    """The data's own reward as a reward function.

    Raises:
      ValueError: this data has none.
    """
    gold = corpus.gold
    if gold is None:
        raise ValueError(
            "algorithm.reward='gold' needs data with a known reward; this data has none (data). "
            "Use algorithm.reward='model'."
        )
    return hosted.hosted(gold)


# Each method's factory and the kind of table that it trains on.
METHODS: dict[type, tuple[Callable[..., algorithms.Algorithm], str]] = {
    pretrain.PretrainConfig: (pretrain.pretrain, "documents"),
    sft.SftConfig: (sft.sft, "demonstrations"),
    rewards.RewardConfig: (rewards.reward, "pairs"),
    dpo.DpoConfig: (dpo.dpo, "pairs"),
    ppo.PpoConfig: (ppo.ppo, "prompts"),
}
# Methods that compare with the policy they start from.
REFERRING = (dpo.DpoConfig, ppo.PpoConfig)


def make_method(
    config: AlgorithmConfig, model: models.Model, corpus: corpora.Corpus
) -> algorithms.Algorithm:
    """The method of a config."""
    factory, _ = METHODS[type(config)]
    if not isinstance(config, ppo.PpoConfig):
        return factory(model, config)
    score = gold_reward(corpus) if config.reward == "gold" else learned.learned(model)
    return factory(model, config, reward=score, eos=corpus.eos, pad=corpus.pad)


def table_kind(config: AlgorithmConfig) -> str:
    """The kind of table that a method trains on."""
    return METHODS[type(config)][1]


def formula(config: AlgorithmConfig) -> str:
    """One line that says what a method minimises or maximises, with its numbers."""
    if isinstance(config, dpo.DpoConfig | ppo.PpoConfig):
        return config.formula()
    factory, _ = METHODS[type(config)]
    numbers = ", ".join(f"{name}={value}" for name, value in runs.flat(config).items())
    return f"{(factory.__doc__ or '').splitlines()[0]} {numbers}"


def annotated(
    method: algorithms.Algorithm, frozen: Any, table: corpora.Table, rows: int
) -> corpora.Table:
    """The table with the columns that the method computes once for all rows.

    They are recomputed at every start from the frozen trees themselves, by one program in one
    order: the same bits each time, and no cache whose identity could go wrong.
    """
    if method.annotate is None:
        return table
    run = jax.jit(method.annotate)
    found: dict[str, list[np.ndarray]] = {}
    for batch, real in pipeline.in_order(table, rows):
        for name, column in hosts.to_host(run(frozen, hosts.to_global(batch))).items():
            found.setdefault(name, []).append(column[:real])
    return {**table, **{name: np.concatenate(parts) for name, parts in found.items()}}


def load_policy(
    config: Experiment,
    model: models.Model,
    shape: model_config.TransformerConfig,
    corpus: corpora.Corpus,
) -> Any:
    """The language model that a run starts from and refers to; None where it begins anew."""
    if config.policy:
        return runs.load_policy(config.policy, model, shape, corpus.fingerprints)
    if config.weights:
        return stored.open_model(config.weights).load(shape)
    return None


class Start(NamedTuple):
    """What a run begins with: see Algorithm for `start` and `frozen`.

    base: kind, folder and identity of the weights under adapters; None without adapters.
    """

    start: dict[str, Any]
    frozen: dict[str, Any]
    base: dict[str, str] | None


def load_start(
    config: Experiment,
    model: models.Model,
    shape: model_config.TransformerConfig,
    corpus: corpora.Corpus,
) -> Start:
    """The trees that a run starts from and refers to, as far as there are any."""
    if not isinstance(config.adapter, adapt.FullConfig):
        return _load_adapted(config, model, shape, corpus)
    start = {}
    if (policy := load_policy(config, model, shape, corpus)) is not None:
        start["policy"] = policy
    if config.reward:
        start["reward"] = runs.load_reward(config.reward, model, shape, corpus.fingerprints)
    # What is trained whole is merged: adapters of an earlier run become part of it.
    start = {role: merge.whole(tree) for role, tree in start.items()}
    frozen = {}
    if isinstance(config.algorithm, REFERRING):
        frozen = {"reference": start["policy"], **start}
        del frozen["policy"]
    return Start(start, frozen, None)


def _load_adapted(
    config: Experiment,
    model: models.Model,
    shape: model_config.TransformerConfig,
    corpus: corpora.Corpus,
) -> Start:
    """The same under adapters: new ones over whole weights, or those of a run that has some.

    Raises:
      ValueError: the run to go on from has adapters of another configuration.
    """
    given = (model, shape, corpus.fingerprints)
    meta: dict[str, Any] = {}
    if config.policy:
        policy, meta = runs.load_own_policy(config.policy, *given)
    else:
        policy = load_policy(config, *given[:2], corpus)
    if adapt.has_adapters(policy):
        if runs.adapter_of(meta) != config.adapter:
            raise ValueError(
                f"adapter must be that of the run to go on from; got {config.adapter}, and "
                f"{runs.adapter_of(meta)} in {config.policy}. Use the same, or name its base."
            )
        base, about, reference = runs.load_base(meta, *given), meta["base"], policy
    else:
        base, kind = policy, "policy" if config.policy else "weights"
        about = {"kind": kind, "folder": getattr(config, kind)}
        about["identity"] = checkpoint.identity(base)
        init = adapt.adapt(model, config.adapter).init
        policy = jax.jit(init)(keys.stream(config.seed, "adapter"))
        reference = adapt.empty(policy)  # the base itself: no second copy, nothing to compute
    start, frozen = {"policy": policy}, {"base": base}
    if isinstance(config.algorithm, REFERRING):
        frozen["reference"] = reference
    if config.reward:
        reward, meta = runs.load_own_reward(config.reward, *given)
        shares = adapt.has_adapters(reward) and meta["base"]["identity"] == about["identity"]
        frozen["reward"] = reward if shares else runs.load_reward(config.reward, *given)
        if shares and runs.adapter_of(meta) == config.adapter:
            start["reward"] = reward  # where the critic starts; otherwise it does from the policy
    return Start(start, frozen, about)


def train(
    config: Experiment, workdir: pathlib.Path, *, name: str, say: Callable[[str], None] = print
) -> None:
    """Runs one experiment in its folder, or goes on with it.

    Raises:
      ValueError: bad configuration or data; nothing was written.
      errors.Failure and its kin: the run stopped.
    """
    config.validate()
    corpus = make_corpus(config.data, lambda line: say(f"{name}: {line}"))
    shape = resolve_model(config.model, corpus, config.weights, config.weights_layers)
    with meshes.use(meshes.make_mesh(config.mesh)):
        plain = transformer.transformer(shape)
        model = adapt.adapt(plain, config.adapter)
        method = make_method(config.algorithm, model, corpus)
        loops.check_sizes(config.loop, method.plan)
        start, frozen, base = load_start(config, plain, shape, corpus)
        record = {
            "method": method_name(config.algorithm),
            "formula": formula(config.algorithm),
            "config": dataclasses.asdict(dataclasses.replace(config, model=shape)),
            "fingerprints": dict(corpus.fingerprints),
            # A run that went on with another reference or reward model would not be the same run.
            "start": {role: checkpoint.identity(tree) for role, tree in start.items()},
            **({"base": base} if base else {}),
        }
        table = corpus.table(table_kind(config.algorithm), "train")
        runs.claim(workdir, record)
        for line in (*corpus.summary, record["formula"]):
            say(f"{name}: {line}")
        table = annotated(method, frozen, table, config.loop.batch_size)
        for role in method.only_annotate:
            frozen.pop(role)
        rows = config.loop.batch_size
        own = hosts.own_rows(rows)
        batches = pipeline.Batches(table, batch_size=rows, seed=config.seed, own=own)
        loops.train(
            method,
            batch_at=batches.batch,
            start=start,
            frozen=frozen,
            optimizer=config.optim,
            config=config.loop,
            seed=config.seed,
            workdir=workdir,
            meta=record,
            name=name,
            say=say,
        )

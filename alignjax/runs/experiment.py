"""One experiment: a typed configuration of a complete run."""

import dataclasses
from typing import Any

from alignjax import algorithms
from alignjax.core import shapes
from alignjax.data import corpus as corpora
from alignjax.data import prepare, tables
from alignjax.models import config as model_config
from alignjax.models.adapters import adapt, quantised
from alignjax.models.checkpoints.families import composite
from alignjax.parallel import mesh as meshes
from alignjax.runs import kinds
from alignjax.training import loop as loops
from alignjax.training import method as methods
from alignjax.training import optim as optims
from alignjax.worlds import corpus as world_corpus


@dataclasses.dataclass(kw_only=True)
class Training:
    """The training of one stage: method, optimizer, loop."""

    algorithm: methods.MethodConfig = dataclasses.field(default_factory=algorithms.default)
    optim: optims.OptimConfig = dataclasses.field(default_factory=optims.OptimConfig)
    loop: loops.LoopConfig = dataclasses.field(default_factory=loops.LoopConfig)

    def validate(self) -> None:
        methods.check(self.algorithm)
        self.algorithm.validate()
        self.optim.validate()
        self.loop.validate()


@dataclasses.dataclass(kw_only=True)
class Experiment(Training):
    """A complete run, the configuration of `alignjax train`.

    Networks come from the folder of a run, or from open weights (a model folder or .gguf file).
    """

    seed: int = 0
    model: model_config.ModelConfig = dataclasses.field(
        default_factory=model_config.TransformerConfig
    )
    data: corpora.DataConfig = dataclasses.field(default_factory=world_corpus.default)
    mesh: meshes.MeshConfig = dataclasses.field(default_factory=meshes.MeshConfig)
    weights: str = ""  # open weights (folder or .gguf): the model's shape, and where runs begin
    adapter: adapt.AdapterConfig = dataclasses.field(default_factory=adapt.FullConfig)
    # Storage of the frozen weights under adapters.
    base: quantised.BaseConfig = dataclasses.field(default_factory=quantised.BaseConfig)
    weights_layers: int = 0  # only their first layers; 0 is all
    # vision: only the text part of open weights that see images too; mtp: without a layer that
    # predicts a further token; vision+mtp: both
    weights_skip: str = ""
    policy: str = ""  # folder of the run whose policy this one starts from (and refers to)
    reward: str = ""  # folder of the reward model's run
    reference: str = ""  # folder of the reference policy's run; empty is the start of the policy
    critic: str = ""  # folder of the run a critic starts from; empty: reward model or policy
    teacher: str = ""  # folder of the run of a student's teacher

    def validate(self) -> None:
        super().validate()
        shapes.check_number("seed", self.seed, minimum=0)
        shapes.check_number("weights_layers", self.weights_layers, minimum=0)
        shapes.check_choice("weights_skip", self.weights_skip, composite.SKIPS)
        self.data.validate()
        self.mesh.validate()
        self.adapter.validate()
        self.base.validate()
        self._check_sources()

    def _check_sources(self) -> None:
        """Refuses networks that nothing gives, and folders that no network reads."""
        name = self.algorithm.METHOD.name
        if self.base.bits and isinstance(self.adapter, adapt.FullConfig):
            raise ValueError(
                f"base.bits must be 0 without adapters, since weights of {self.base.bits} bits are "
                f"frozen; got {self.base.bits} for {name} (base). Set --config.adapter, or leave "
                "--config.base.bits out."
            )
        if not isinstance(self.adapter, adapt.FullConfig) and not (self.policy or self.weights):
            raise ValueError(
                f"policy or weights must name what {name}'s adapters stand on; got neither. Set "
                "--config.policy=RUN_FOLDER or --config.weights=MODEL."
            )
        roles = self.algorithm.METHOD.roles(self.algorithm)
        for role_name, role in roles.items():
            if role.required and not self.source(role):
                also = ", or --config.weights=MODEL to start from open weights"
                is_policy = role.source == "policy"
                flag = role.source if role.source in methods.SOURCES else f"algorithm.{role.source}"
                raise ValueError(
                    f"{role.source} must name the folder of "
                    f"{'the run to start from' if is_policy else 'the network'} for the "
                    f"{role_name} of {name}; got ''. Set --config.{flag}=RUN_FOLDER"
                    f"{also if is_policy else ''}."
                )
        read = {role.source for role in roles.values()} | {"reward"}
        for field in methods.SOURCES:
            if getattr(self, field) and field not in read:
                raise ValueError(
                    f"{field} must be empty for {name}, which has no such network; got "
                    f"{getattr(self, field)!r}. Leave --config.{field} out."
                )

    def with_source(self, field: str, path: str) -> "Experiment":
        """A copy that reads a network from there; field: the source of a role, its own or ours."""
        if field in methods.SOURCES:
            return dataclasses.replace(self, **{field: path})  # type: ignore[arg-type]
        algorithm: Any = self.algorithm
        return dataclasses.replace(self, algorithm=dataclasses.replace(algorithm, **{field: path}))

    def source(self, role: methods.Role) -> str:
        """The folder or file in a role's source field; "" if that is empty."""
        if not role.source:
            return ""
        owner = self if role.source in methods.SOURCES else self.algorithm
        path = getattr(owner, role.source)
        return path or (self.weights if role.source == "policy" else "")


def make_corpus(
    config: corpora.DataConfig, log: corpora.Log, cache: prepare.Cache | None = None
) -> corpora.Corpus:
    """The corpus of a data configuration; `log` takes lines on what was kept, cut and dropped.

    cache: where its tables are kept on disk, if they are; None makes them in memory.
    """
    config.validate()
    return config.make(log) if cache is None else config.prepared(log, cache)


def check_table(config: Experiment, corpus: corpora.Corpus) -> None:
    """Refuses a method whose table the data do not have.

    Raises:
      ValueError: naming the tables of the data, and the methods that read them.
    """
    kind = config.algorithm.METHOD.table(config.algorithm)
    if kind in corpus.kinds:
        return
    shapes.check_choice(f"the table of {config.algorithm.METHOD.name}", kind, tables.KINDS)
    reading = []
    for config_type in kinds.methods():
        try:
            fits = config_type.METHOD.table(config_type()) in corpus.kinds
        except (TypeError, ValueError):
            continue
        if fits and config_type.METHOD.name not in reading:
            reading.append(config_type.METHOD.name)
    raise ValueError(
        f"data must hold {kind} for {config.algorithm.METHOD.name}; got data with "
        f"{', '.join(corpus.kinds)} (data). Methods that read these: {', '.join(reading)}."
    )

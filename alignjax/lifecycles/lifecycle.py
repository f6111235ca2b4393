"""A lifecycle: stages that start from one another's checkpoints, and the loop that runs them.

An experiment file writes a lifecycle as a subclass of `Lifecycle`, or lists its stages
(`listed.ListedLifecycle`). A finished stage is skipped when the same command is run again.
"""

import dataclasses
import json
import operator
import pathlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

import alignjax
from alignjax.core import shapes, untrusted
from alignjax.data import corpus as corpora
from alignjax.evals import policy as policies
from alignjax.lifecycles import shared
from alignjax.models import config as model_config
from alignjax.models.adapters import adapt
from alignjax.parallel import hosts, processes
from alignjax.parallel import mesh as meshes
from alignjax.runs import caches, continuing, experiment, model_shape, records, sources, train
from alignjax.sampling import transforms
from alignjax.training import checkpoint, trackers
from alignjax.training import method as methods
from alignjax.worlds import corpus as world_corpus

RULES = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


class Stage(NamedTuple):
    """One experiment of a lifecycle.

    name: of its folder. policy, reward, reference, critic, teacher: names of earlier stages from
    which its networks start; sources: the same by fields of its own method that name a network.
    data: None is the lifecycle's; a function is called when the stage begins. model: None is the
    lifecycle's.
    """

    name: str
    training: experiment.Training
    policy: str = ""
    reward: str = ""
    reference: str = ""
    critic: str = ""
    teacher: str = ""
    data: corpora.DataConfig | Callable[[], corpora.DataConfig] | None = None
    adapter: adapt.AdapterConfig | None = None
    model: model_config.ModelConfig | None = None
    sources: Mapping[str, str] = {}

    @property
    def starts(self) -> dict[str, str]:
        """{field that names a network: the earlier stage that it comes from}."""
        named = {field: getattr(self, field) for field in methods.SOURCES}
        return {field: stage for field, stage in (named | dict(self.sources)).items() if stage}


class Course(Protocol):
    """A lifecycle in its folder: its stages, and their report."""

    @property
    def stages(self) -> Sequence[Stage]: ...

    def report(self) -> "tuple[dict[str, Any], list[Gate]]":
        """(the contents of results.json, the gates)."""
        ...


@dataclasses.dataclass(kw_only=True)
class Lifecycle:
    """Base class of lifecycles' configurations; a subclass adds its own options and a course."""

    seed: int = 0  # of initial weights, data order and samples
    model: model_config.ModelConfig = dataclasses.field(
        default_factory=model_config.TransformerConfig
    )
    data: corpora.DataConfig = dataclasses.field(default_factory=world_corpus.default)
    mesh: meshes.MeshConfig = dataclasses.field(default_factory=meshes.MeshConfig)
    eval_batch: int = 64  # rows scored or sampled at once

    def validate(self) -> None:
        """Checks every field that can check itself."""
        shapes.check_number("seed", self.seed, minimum=0)
        shapes.check_number("eval_batch", self.eval_batch, minimum=1)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # A model's shape is complete once its data's vocabulary is known.
            if hasattr(value, "validate") and field.name != "model":
                value.validate()

    def measured(self) -> tuple[tuple[str, str], ...]:
        """(row of results.json, by its label or stage; number of it) that sweeps compare where the
        experiment file names no measures."""
        return ()

    def course(self, space: "Workspace") -> Course:
        """The stages and the report; called before anything is written."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Gate:
    """A number that must satisfy a rule, such as `name` <= 0.04."""

    name: str
    value: float
    rule: str
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the rule holds; nan never passes."""
        return bool(RULES[self.rule](self.value, self.bound))

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        rule = f"{self.rule} {self.bound:g}"
        return {"name": self.name, "value": self.value, "rule": rule, "passed": self.passed}


def run(
    config: Lifecycle,
    workdir: pathlib.Path,
    log: corpora.Log,
    store: pathlib.Path | None = None,
    *,
    command: str = "",
    tracking: trackers.Tracking = trackers.NONE,
) -> list[Gate]:
    """Runs every stage that is not finished, writes results.json, returns the gates.

    store: a folder of stages that several lifecycles share; None keeps them in the workdir.
    command: as it was typed, for what folders say of themselves. tracking: as of `train.train`.
    """
    config.validate()
    with meshes.use(meshes.make_mesh(config.mesh)):
        # The tables of the stages, whose folders are in this one.
        cache = dataclasses.replace(caches.default_cache(workdir / "stage"), log=log)
        corpus = experiment.make_corpus(config.data, log, cache)
        told = {"command": command, "tracking": tracking}
        space = Workspace(workdir, config, corpus, log, store, told)
        course = config.course(space)
        record = {
            "format": records.FORMAT,
            "config": records.encode(config),
            "fingerprints": dict(corpus.fingerprints),
        }
        for line in continuing.claim(workdir, record, may_differ=harmless(config)):
            log(line)
        for stage in course.stages:
            space.train(stage)
        results, gates = course.report()
        write_json(workdir / "results.json", results)
    return gates


def harmless(config: Lifecycle) -> frozenset[str]:
    """Names of the fields that may differ when a lifecycle is continued."""
    return frozenset(
        (
            "format",
            *(f"config.mesh.{field.name}" for field in dataclasses.fields(meshes.MeshConfig)),
            *(f"config.data.{name}" for name in config.data.where()),
        )
    )


class Workspace:
    """A lifecycle's folder, one subfolder a stage, and the model that all stages share.

    `config` is the lifecycle's configuration; its seed, model, data and mesh go to every stage.
    With a store, the stages lie there by their content, and the subfolders lead to them.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        config: Any,
        corpus: corpora.Corpus,
        log: corpora.Log,
        store: pathlib.Path | None = None,
        told: Mapping[str, Any] | None = None,
    ):
        """told: further arguments of `train.train`."""
        self.told = dict(told or {})
        self.folder, self.config, self.corpus, self.log = folder, config, corpus, log
        self._store = store
        self._shared: dict[str, tuple[pathlib.Path, str]] = {}  # (place in the store, content)
        self.shape = model_shape.resolve(config.model, corpus)
        self.model = self.shape.make()
        self.seconds: dict[str, float] = {}
        hosts.check_rows("eval_batch", config.eval_batch)
        self._source = sources.Stored()

    def path(self, stage: str) -> pathlib.Path:
        """The folder of a stage."""
        return self.folder / stage

    def _place(self, stage: str) -> pathlib.Path:
        """Where a stage lies: in the store, or in its own folder."""
        return self._shared[stage][0] if stage in self._shared else self.path(stage)

    def train(self, stage: Stage) -> None:
        """Trains a stage, once."""
        self._source.release()  # the devices are the stage's alone
        if self._store is not None:
            self._train_shared(stage, self._store)
            return
        if checkpoint.is_finished(self.path(stage.name), stage.training.loop.steps):
            self.log(f"{stage.name}: finished before, skipped")
            return
        begin = time.monotonic()
        train.train(
            self.experiment(stage), self.path(stage.name), name=stage.name, log=self.log,
            **self.told,
        )  # fmt: skip
        self.seconds[stage.name] = time.monotonic() - begin

    def _train_shared(self, stage: Stage, store: pathlib.Path) -> None:
        """Trains a stage in the store, if no lifecycle has done so."""
        config, name = self.experiment(stage), stage.name
        upstream = {field: self._shared[other][1] for field, other in stage.starts.items()}
        cache = dataclasses.replace(caches.default_cache(store / "stage"), log=self.log)
        known = (
            self.corpus
            if stage.data is None
            else experiment.make_corpus(config.data, lambda line: None, cache)
        )
        digest = shared.content(config, upstream, known.fingerprints)
        target = shared.place(store, self.path(name), name, digest)
        self._shared[name] = target, digest
        with shared.alone(target, lambda: self.log(f"{name}: waits for who trains the same")):
            if checkpoint.is_finished(target, stage.training.loop.steps):
                self.log(f"{name}: finished before, skipped")
                return
            begin = time.monotonic()
            train.train(config, target, name=name, log=self.log, **self.told)
            self.seconds[name] = time.monotonic() - begin

    def experiment(self, stage: Stage) -> experiment.Experiment:
        """A stage as an experiment of its own."""
        parts = {
            field.name: getattr(stage.training, field.name)
            for field in dataclasses.fields(experiment.Training)
        }
        data = stage.data() if callable(stage.data) else stage.data
        config = experiment.Experiment(
            **parts,
            seed=self.config.seed,
            model=stage.model or self.config.model,
            data=self.config.data if data is None else data,
            mesh=self.config.mesh,
            adapter=stage.adapter or adapt.FullConfig(),
        )
        for field, other in stage.starts.items():
            config = config.with_source(field, str(self._place(other)))
        return config

    def sampler(self) -> Callable[..., policies.Completions]:
        """Samples of the shared model to the data's full length, `eval_batch` rows at once."""
        return policies.make_sampler(
            self.model,
            transforms.SamplingConfig(
                max_new_tokens=self.corpus.length - self.corpus.prompt_length
            ),
            eos=self.corpus.ends,
            pad=self.corpus.pad,
            rows=self.config.eval_batch,
        )

    def policy(self, stage: str) -> Any:
        """The language model that a stage trained."""
        return self.part(stage, methods.POLICY)

    def scorer(self, stage: str) -> Any:
        """The reward model that a stage trained."""
        return self.part(stage, methods.SCORER)

    def part(self, stage: str, part: str) -> Any:
        """The bound parameters of a part of a finished stage's product."""
        origin = sources.open_origin(str(self.path(stage)))
        origin.part_of((part,), part)
        config, _ = origin.network(part)
        model = self.model if config == self.shape else config.make()
        return self._source.joined(origin, part, model, config)

    def remember(self, stage: str, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The JSON object that `make` returns, cached as NAME.json in the stage's folder.

        What is measured of a shared stage may hang on others that are not: it is the lifecycle's.
        """
        file = self.path(stage) / f"{name}.json"
        if self._store is not None:
            file = self.folder / "measured" / f"{stage}-{name}.json"
        if not processes.from_first(file.exists):
            begin = time.monotonic()
            write_json(file, make())
            self.seconds[f"{stage} {name}"] = time.monotonic() - begin
        return processes.from_first(lambda: untrusted.read_object(file, untrusted.RECORD))


def write_json(file: pathlib.Path, content: Any) -> None:
    """Writes JSON whole or not at all; process 0 does."""
    if processes.is_first():
        _write_json(file, content)


def _write_json(file: pathlib.Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(file)


def add_expected(file: pathlib.Path, expected: dict[str, dict[str, float]]) -> None:
    """Adds the expected numbers of an experiment, {row label: {column: value}}, to the results.

    Called in process 0 alone.
    """
    results = untrusted.read_object(file, untrusted.RECORD)
    for row in results["rows"]:
        for name, value in expected.get(row["label"], {}).items():
            if name in row["metrics"]:
                mean = value[0] if isinstance(value, tuple) else value  # (mean, sd, seeds)
                row["metrics"][name]["expected"] = mean
    write_json(file, results)


def changed(training: experiment.Training, **changes: Any) -> experiment.Training:
    """The training with fields of its algorithm replaced."""
    return dataclasses.replace(
        training,
        algorithm=dataclasses.replace(training.algorithm, **changes),  # type: ignore[type-var]
    )


def environment() -> dict[str, str]:
    """Versions and devices, for the report."""
    kinds = {device.device_kind for device in jax.devices()}
    return {
        "alignjax": alignjax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "devices": f"{jax.device_count()} x {', '.join(sorted(kinds))}",
    }

"""What lifecycles share: training a stage, loading it, remembering an evaluation, judging."""

import dataclasses
import json
import operator
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax

import alignjax
from alignjax import experiment, runs
from alignjax.algorithms import dpo, ppo, pretrain, sft
from alignjax.algorithms import reward as rewards
from alignjax.core import shapes
from alignjax.data import corpus as corpora
from alignjax.models import config as model_config
from alignjax.models import transformer
from alignjax.parallel import hosts, processes
from alignjax.parallel import mesh as meshes
from alignjax.training import checkpoint

RULES = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
# What may differ when a lifecycle is continued.
HARMLESS = ("mesh.", "data.path")


@dataclasses.dataclass(kw_only=True)
class Lifecycle:
    """What every lifecycle's configuration holds; a subclass adds `data` and its own options."""

    seed: int = 0  # of initial weights, data order and samples
    model: model_config.TransformerConfig = dataclasses.field(
        default_factory=model_config.TransformerConfig
    )
    mesh: meshes.MeshConfig = dataclasses.field(default_factory=meshes.MeshConfig)
    pretrain: experiment.Training = experiment.training(pretrain.PretrainConfig)
    sft: experiment.Training = experiment.training(sft.SftConfig)
    reward: experiment.Training = experiment.training(rewards.RewardConfig)
    dpo: experiment.Training = experiment.training(dpo.DpoConfig)
    ppo: experiment.Training = experiment.training(ppo.PpoConfig)
    eval_batch: int = 64  # rows scored or sampled at once

    def validate(self) -> None:
        shapes.check_number("seed", self.seed, minimum=0)
        shapes.check_number("eval_batch", self.eval_batch, minimum=1)
        for name in ("data", "mesh", "pretrain", "sft", "reward", "dpo", "ppo"):
            getattr(self, name).validate()


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


class Workspace:
    """A lifecycle's folder, one subfolder a stage, and the model that all stages share.

    `config` is the lifecycle's configuration; its seed, model, data and mesh go to every stage.
    """

    def __init__(
        self, folder: pathlib.Path, config: Any, corpus: corpora.Corpus, say: Callable[[str], None]
    ):
        self.folder, self.config, self.corpus, self.say = folder, config, corpus, say
        self.shape = experiment.resolve_model(config.model, corpus)
        self.model = transformer.transformer(self.shape)
        self.seconds: dict[str, float] = {}
        hosts.check_rows("eval_batch", config.eval_batch)
        self._loaded: dict[str, Any] = {}

    def path(self, stage: str) -> pathlib.Path:
        """The folder of a stage."""
        return self.folder / stage

    def train(
        self,
        stage: str,
        training: experiment.Training,
        *,
        policy: str = "",
        reward: str = "",
        data: Any = None,
    ) -> None:
        """Trains a stage from the policy and reward model of earlier ones, once."""
        self._loaded.clear()  # the devices are the stage's alone
        if checkpoint.is_finished(self.path(stage), training.loop.steps):
            self.say(f"{stage}: finished before, skipped")
            return
        begin = time.monotonic()
        parts = {f.name: getattr(training, f.name) for f in dataclasses.fields(training)}
        config = experiment.Experiment(
            **parts,
            seed=self.config.seed,
            model=self.config.model,
            data=self.config.data if data is None else data,
            mesh=self.config.mesh,
            policy=str(self.path(policy)) if policy else "",
            reward=str(self.path(reward)) if reward else "",
        )
        experiment.train(config, self.path(stage), name=stage, say=self.say)
        self.seconds[stage] = time.monotonic() - begin

    def policy(self, stage: str) -> Any:
        """The language model that a stage trained."""
        return self._load(stage, runs.load_policy)

    def reward(self, stage: str = "reward") -> Any:
        """The reward model that a stage trained."""
        return self._load(stage, runs.load_reward)

    def _load(self, stage: str, load: Callable[..., Any]) -> Any:
        if stage not in self._loaded:
            self._loaded[stage] = load(
                self.path(stage), self.model, self.shape, self.corpus.fingerprints
            )
        return self._loaded[stage]

    def remember(self, stage: str, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The JSON that `make` returns, made once and read from the stage's folder afterwards."""
        file = self.path(stage) / f"{name}.json"
        if not processes.from_first(file.exists):
            begin = time.monotonic()
            write_json(file, make())
            self.seconds[f"{stage} {name}"] = time.monotonic() - begin
        return processes.from_first(lambda: json.loads(file.read_text()))


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
    """Puts the numbers that an experiment states, {row label: {column: value}}, beside ours.

    Called in process 0 alone.
    """
    results = json.loads(file.read_text())
    for row in results["rows"]:
        for name, value in expected.get(row["label"], {}).items():
            if name in row["metrics"]:
                row["metrics"][name]["expected"] = value
    write_json(file, results)


def changed(training: experiment.Training, **changes: Any) -> experiment.Training:
    """The training with fields of its algorithm exchanged."""
    return dataclasses.replace(
        training, algorithm=dataclasses.replace(training.algorithm, **changes)
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

"""An experiment file of GRPO on a small ChainWorld, a run that its policy starts from, rules."""

import pathlib
import textwrap

import pytest

from tests.commands import cli

FILE = '''
import dataclasses

import numpy as np

from alignjax.algorithms import grpo, ppo, pretrain, reinforce
from alignjax.core import shapes
from alignjax.models.config import TransformerConfig
from alignjax.rewards import code, rules
from alignjax.runs.experiment import Experiment
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.chain import ChainConfig


@dataclasses.dataclass(kw_only=True)
class Low(rules.RuleConfig):
    """The share of a text's words that are 0 or 1."""

    def score(self, texts, tasks):
        return rules.per_text(
            lambda text, task: np.mean([w in "01" for w in text.split()] or [0.0]), texts, tasks
        )


{rules}


def get_config(variant=""):
    common = {
        "model": TransformerConfig(
            layers=1, width=16, heads=2, kv_heads=1, head_dim=8, ff=16, unroll=1
        ),
        "data": ChainConfig(
            modulus=3, shortest=1, longest=2, documents=64, demonstrations=64, prompts=48,
            eval_rows=16,
        ),
        "optim": OptimConfig(schedule="constant", warmup_steps=0, learning_rate=1e-2),
    }
    if variant == "start":
        loop = LoopConfig(steps=2, batch_size=8)
        return Experiment(algorithm=pretrain.PretrainConfig(), loop=loop, **common)
    sampling = SamplingConfig(max_new_tokens=4)
    options = {"group": 4, "sampling": sampling, "rules": {"low": Low()}}
    config = Experiment(
        algorithm=grpo.GrpoConfig(**options),
        loop=LoopConfig(steps=2, batch_size=8, log_every=1),
        policy="{start}",
        **common,
    )
    {changes}
    return config
'''


def write(
    folder: pathlib.Path, start: pathlib.Path, changes: str = "", rules: str = ""
) -> pathlib.Path:
    """The file. changes: statements on `config`, where `options` are the algorithm's. rules: code
    before `get_config`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = FILE.replace("{start}", str(start)).replace("{rules}", textwrap.dedent(rules))
    body = textwrap.indent(textwrap.dedent(changes or "pass"), "    ").strip()
    file = folder / "chain.py"
    file.write_text(text.replace("{changes}", body))
    return file


@pytest.fixture(scope="session")
def chain_start(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a language model of the world, hardly trained."""
    folder = tmp_path_factory.mktemp("chain")
    file = write(folder, folder)
    cli.run("train", f"--config={file}:start", f"--workdir={folder / 'start'}")
    return folder / "start"

"""An environment in the experiment's own file: trained, killed, resumed with the same bits."""

import json

import pytest

from tests.commands import cli

FILE = '''
import dataclasses

import numpy as np

from alignjax.algorithms import grpo, pretrain
from alignjax.envs import env
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Experiment
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.guess import GuessConfig


@dataclasses.dataclass(kw_only=True)
class Mine(env.EnvConfig):
    """Says a number by key and turn; pays low ids, once it has heard two answers."""

    limit: int = 2
    opening: int = 1
    low: int = 7

    def start(self, tasks, keys):
        first = [[int(np.random.default_rng(key).integers(5, 12))] for key in keys]
        return first, [(0, *map(int, key)) for key in keys]

    def step(self, states, answers):
        said = [[int(np.random.default_rng(state).integers(5, 12))] for state in states]
        paid = np.asarray([sum(i < self.low for i in ids) for ids in answers], np.float32)
        done = np.asarray([turn == 1 for turn, *_ in states])
        return env.Step(said, paid, done, [(turn + 1, *key) for turn, *key in states])


def get_config(variant=""):
    common = {
        "model": TransformerConfig(layers=1, width=16, heads=2, kv_heads=1, head_dim=8, ff=16),
        "data": GuessConfig(documents=64, prompts=64, eval_rows=8),
        "optim": OptimConfig(schedule="constant", warmup_steps=0),
    }
    if variant == "start":
        loop = LoopConfig(steps=1, batch_size=8)
        return Experiment(algorithm=pretrain.PretrainConfig(), loop=loop, **common)
    sampling = SamplingConfig(max_new_tokens=2)
    play = grpo.GrpoConfig(reward="env", env=Mine(), group=4, sampling=sampling)
    return Experiment(algorithm=play, loop=LoopConfig(steps=4, batch_size=4), **common)
'''


@pytest.mark.slow
def test_a_run_in_an_own_environment_goes_on_with_the_same_bits(tmp_path):
    file, first = tmp_path / "mine.py", tmp_path / "start"
    file.write_text(FILE)
    cli.run("train", f"--config={file}:start", f"--workdir={first}")
    given = (f"--config={file}", f"--config.policy={first}")
    run, whole = tmp_path / "run", tmp_path / "whole"
    cli.run("train", *given, f"--workdir={run}", "--config.loop.steps=2")
    cli.run("train", *given, f"--workdir={run}")
    cli.run("train", *given, f"--workdir={whole}")
    assert cli.stored_checksums(run) == cli.stored_checksums(whole)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["turns"] for row in rows] == [2.0] * 4
    env = json.loads((run / "config.json").read_text())["config"]["algorithm"]["env"]
    assert env["class"].endswith(".Mine")
    assert env["from"] == str(file)
    found = json.loads(cli.run("evaluate", f"--workdir={run}", "--json", "--rows=8"))
    assert {"return", "turns", "length, tokens", "ended"} <= found.keys()

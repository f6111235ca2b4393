"""A method and a corpus that an experiment file defines go through every command."""

import json

import pytest

from tests.commands import cli

FILE = '''
import dataclasses

import numpy as np

from alignjax.core import mean, shapes
from alignjax.data import corpus
from alignjax.evals import likelihood, policy
from alignjax.lifecycles.lifecycle import Stage
from alignjax.lifecycles.listed import ListedLifecycle
from alignjax.models import scoring
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Experiment, Training
from alignjax.training import algorithm, method
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig


@dataclasses.dataclass(kw_only=True)
class CountingConfig(method.MethodConfig):
    """Likelihood of answers, times a strength."""

    strength: float = 1.0  # of the pull

    def validate(self):
        shapes.check_number("algorithm.strength", self.strength, above=0)


def counting(model, config):
    def loss(params, frozen, batch, key):
        bound, mask = model.bind(params, frozen, key), scoring.counted(batch)
        nll = -scoring.token_stats(model, bound, batch).logprob
        terms = {"pull": mean.masked(config.strength * nll, mask)}
        return terms, terms

    def collect(state, frozen, batch, key):
        return batch, {"rows": state.carry["rows"] + 1.0}, {}

    return algorithm.Algorithm(
        init=algorithm.from_policy(model), loss=loss, collect=collect,
        carry={"rows": np.float32(0)},
    )


CountingConfig.METHOD = method.Method(
    name="counting",
    make=lambda networks, config, task: counting(networks["policy"], config),
    table=lambda config: "demonstrations",
    roles=lambda config: {"policy": method.Role(trained=True, source="policy")},
    evaluators=lambda config: (likelihood.of("demonstrations"), policy.SAMPLES),
    curves=("pull",),
)


@dataclasses.dataclass(kw_only=True)
class StairsConfig(corpus.DataConfig):
    """Numbers that count upwards."""

    rows: int = 32
    kinds: tuple[str, ...] = ("demonstrations", "prompts")

    def make(self, log):
        def table(kind, split):
            rng = np.random.default_rng([split == "eval", self.rows])
            tokens = (rng.integers(2, 8, (self.rows, 1)) + np.arange(8)).astype(np.int32)
            if kind == "prompts":
                return {"prompts": tokens[:, :3], "lengths": np.full(self.rows, 3, np.int32)}
            slot = np.broadcast_to(np.arange(8, dtype=np.int32), tokens.shape)
            return {
                "tokens": tokens, "loss_mask": slot >= 3,
                "segments": np.ones_like(tokens), "positions": slot.copy(),
            }

        return corpus.Corpus(
            vocab_size=16, pad=0, eos=1, length=8, prompt_length=3, kinds=self.kinds, table=table,
            text=lambda ids: " ".join(map(str, ids)), fingerprints={"rows": str(self.rows)},
        )


def get_config(variant=""):
    model = TransformerConfig(layers=1, width=16, heads=2, kv_heads=1, head_dim=8, ff=16)
    loop = LoopConfig(steps=4, batch_size=8, checkpoint_every=2)
    if variant == "stages":
        training = Training(algorithm=CountingConfig(), loop=loop)
        return ListedLifecycle(
            title="Stairs", data=StairsConfig(), model=model, eval_batch=8,
            stages=(Stage("first", training), Stage("second", training, policy="first")),
        )
    kinds = ("documents",) if variant == "wrong" else ("demonstrations", "prompts")
    return Experiment(
        algorithm=CountingConfig(), data=StairsConfig(kinds=kinds), model=model, loop=loop,
        optim=OptimConfig(schedule="constant", warmup_steps=0),
    )
'''


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_an_own_method_and_corpus_go_through_every_command(tmp_path):
    file, run, whole = tmp_path / "mine.py", tmp_path / "run", tmp_path / "whole"
    file.write_text(FILE)
    cli.run("train", f"--config={file}", f"--workdir={run}", "--config.loop.steps=2")
    cli.run("train", f"--config={file}", f"--workdir={run}")
    cli.run("train", f"--config={file}", f"--workdir={whole}")
    assert cli.stored_checksums(run)["params/embed"] == cli.stored_checksums(whole)["params/embed"]
    assert [row["step"] for row in rows(run)] == [0, 1, 2, 3]
    record = json.loads((run / "config.json").read_text())
    assert record["config"]["algorithm"]["from"] == str(file)
    numbers = json.loads(cli.run("evaluate", f"--workdir={run}", "--json", "--rows=8"))
    assert {"nats a token", "length, tokens"} <= numbers.keys()
    shown = cli.run("sample", f"--workdir={run}", "--count=2", "--max_new_tokens=3")
    assert shown.count("> ") == 2
    cli.run("export", f"--workdir={run}", f"--to={tmp_path / 'hf'}")
    assert (tmp_path / "hf" / "config.json").exists()
    plan = json.loads(cli.run("plan", f"--config={file}", "--topology=cpu:1", "--json"))
    assert {"init", "collect", "update"} <= {each["name"] for each in plan["programs"]}
    # The file may move, if one says where it is.
    moved = tmp_path / "elsewhere.py"
    file.rename(moved)
    cli.run("evaluate", f"--workdir={run}", code=2)
    cli.run("evaluate", f"--workdir={run}", f"--definitions={moved}", "--rows=8")


@pytest.mark.slow
def test_a_list_of_stages_has_a_report(tmp_path):
    file, work = tmp_path / "mine.py", tmp_path / "life"
    file.write_text(FILE)
    table = cli.run("run", f"--config={file}:stages", f"--workdir={work}")
    assert "second" in table
    assert "nats a token" in table
    assert "Stairs" in (work / "report.html").read_text()


def test_a_table_that_the_data_do_not_have_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(FILE)
    process = cli.start("train", f"--config={file}:wrong", f"--workdir={tmp_path / 'run'}")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "data must hold demonstrations for counting; got data with documents" in err
    assert "Methods that read these: import, pretrain" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()

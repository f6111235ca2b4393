"""A run of GRPO on ChainWorld goes through every command; PPO learns from rules of real texts."""

import json

import numpy as np
import pytest

from tests.commands import cli, open_model
from tests.rollouts import chain_runs


@pytest.fixture(scope="module")
def trained(chain_start, tmp_path_factory):
    """(config file, folder) of two steps; two rules, one of the data's own reward."""
    folder = tmp_path_factory.mktemp("grpo")
    changes = """
    config.algorithm.reward, config.algorithm.reward_weight = "gold", 2.0
    config.loop.evaluate_every = 1
    """
    file = chain_runs.write(folder, chain_start, changes)
    run = folder / "run"
    cli.run("train", f"--config={file}", f"--workdir={run}")
    return file, run


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_leaves_its_numbers_and_samples(trained):
    _, run = trained
    formula = json.loads((run / "config.json").read_text())["formula"]
    assert formula.startswith("paper dapo: ")
    assert "reward 2 gold+1 low" in formula
    rows = rows_of(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    for row in rows:
        both = 2 * row["reward_gold"] + row["reward_low"]
        assert row["reward"] == pytest.approx(both, rel=1e-5)
        assert row["drift"] < 1e-3
        assert row["failed"] == row["unscored"] == row["skipped"] == 0
        assert 0 <= row["dead"] <= 1
        assert row["trained"] == pytest.approx(1 - row["dead"])
    shown = rows_of(run / "samples.jsonl")
    assert [row["step"] for row in shown] == [0] * 4 + [1] * 4
    for row in shown:
        parts = row["parts"]
        assert row["reward"] == pytest.approx(2 * parts["gold"] + parts["low"], rel=1e-5)
        words = [word for word in row["text"].split() if word != "<eos>"]
        low = np.mean([word in "01" for word in words] or [0.0])
        assert parts["low"] == pytest.approx(low)
        assert row["prompt"].endswith("=")


@pytest.mark.slow
def test_a_run_is_evaluated_sampled_exported_and_verified(trained, tmp_path):
    _, run = trained
    numbers = json.loads(cli.run("evaluate", f"--workdir={run}", "--json", "--rows=16"))
    assert {"gold reward", "length, tokens", "ended"} <= numbers.keys()
    assert all(np.isfinite(value["value"]) for value in numbers.values())
    shown = cli.run("sample", f"--workdir={run}", "--count=2", "--max_new_tokens=3")
    assert shown.count("> ") == 2
    cli.run("export", f"--workdir={run}", f"--to={tmp_path / 'hf'}")
    assert (tmp_path / "hf" / "config.json").exists()
    assert "good" in cli.run("verify", f"--workdir={run}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        "",
        "config.algorithm = grpo.GrpoConfig(**options, method='grpo', kl_weight=0.1, pack=True)",
        "config.algorithm = grpo.GrpoConfig(**options, lag=1, correction='mask', candidates=2.0)",
        "config.algorithm = reinforce.ReinforceConfig(**options, advantages='remax')",
    ],
    ids=["plain", "reference", "behind", "greedy"],
)
def test_a_run_is_planned(chain_start, tmp_path, changes):
    file = chain_runs.write(tmp_path, chain_start, changes)
    plan = json.loads(cli.run("plan", f"--config={file}", "--topology=cpu:4", "--json"))
    assert plan["fits"]
    names = [program["name"] for program in plan["programs"]]
    assert {"generate", "experience", "update"} <= set(names), names


# --- rules of texts -----------------------------------------------------------------------------

TEXTS = """
import dataclasses

import numpy as np

from alignjax.algorithms import grpo, ppo
from alignjax.data.instructions import InstructConfig
from alignjax.rewards import rules
from alignjax.runs.experiment import Experiment
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig


@dataclasses.dataclass(kw_only=True)
class Letters(rules.RuleConfig):
    def needs(self):
        return ("answer", "question")

    def score(self, texts, tasks):
        return np.asarray(
            [len(set(text) & set(task["question"])) / 99 for text, task in zip(texts, tasks)],
            np.float32,
        )


def get_config(variant=""):
    given = dict(reward="rules", rules={{"right": rules.LastNumber(), "letters": Letters()}},
                 sampling=SamplingConfig(max_new_tokens=6))
    methods = {{"ppo": ppo.PpoConfig, "grpo": grpo.GrpoConfig}}
    config = Experiment(
        weights={model!r},
        algorithm=methods[variant](**given),
        data=InstructConfig(path={data!r}, tokenizer={model!r}, template="chatml", length=64,
                            prompt_length=48, pack=False),
        loop=LoopConfig(steps=2, batch_size=4, log_every=1),
    )
    return config
"""


@pytest.mark.parametrize("name", ["ppo", pytest.param("grpo", marks=pytest.mark.slow)])
def test_rules_of_real_texts_reach_the_methods(tmp_path, name):
    pytest.importorskip("tokenizers", reason="open weights need alignjax[hf]")
    model = open_model.write(tmp_path / "model")
    data = tmp_path / "sums"
    data.mkdir()
    for split in ("train", "eval"):
        rows = [{"question": f"what is {n} and {n}?", "answer": str(2 * n)} for n in range(12)]
        (data / f"sums.{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / "texts.py"
    file.write_text(TEXTS.format(model=str(model), data=str(data)))
    cli.run("train", f"--config={file}:{name}", f"--workdir={tmp_path / 'run'}")
    rows = rows_of(tmp_path / "run" / "metrics.jsonl")
    assert len(rows) == 2
    score = "score" if name == "ppo" else "reward"
    for row in rows:
        assert row["skipped"] == 0
        assert 0 <= row[score] <= 2
        assert row["length"] > 0
        assert row["drift"] < 1e-3

"""alignjax search and label-steps, on runs of ChainWorld and of texts; and what they refuse."""

import json

import numpy as np
import pytest

from alignjax import main
from alignjax.data import containers, reading
from tests.commands import cli

FILE = """
from alignjax.algorithms import grpo, process_reward, scored_reward, sft
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Experiment
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.chain import ChainConfig

METHODS = {
    "sft": sft.SftConfig(),
    "prm": process_reward.ProcessRewardConfig(),
    "orm": scored_reward.ScoredRewardConfig(method="outcome_reward"),
    "grpo": grpo.GrpoConfig(
        reward="model", group=4, sampling=SamplingConfig(max_new_tokens=3), patience=50
    ),
}


def get_config(variant=""):
    return Experiment(
        algorithm=METHODS[variant],
        model=TransformerConfig(
            layers=1, width=16, heads=2, kv_heads=1, head_dim=8, ff=16, unroll=1
        ),
        data=ChainConfig(
            modulus=3, shortest=1, longest=2, documents=64, demonstrations=64, prompts=48,
            eval_rows=16, document_error=0.3,
        ),
        optim=OptimConfig(schedule="constant", warmup_steps=0, learning_rate=1e-2),
        loop=LoopConfig(steps=30 if variant == "sft" else 3, batch_size=16),
    )
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a policy, a process and an outcome reward model of one small ChainWorld."""
    folder = tmp_path_factory.mktemp("search")
    file = folder / "chains.py"
    file.write_text(FILE)
    for name in ("sft", "prm", "orm"):
        cli.run("train", f"--config={file}:{name}", f"--workdir={folder / name}")
    return folder


def refused(capsys, *argv):
    """The one line that a command line is refused with."""
    code = main.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    lines = [line for line in err.splitlines() if line.startswith("alignjax")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.slow
def test_a_run_is_searched(runs, tmp_path):
    command = ("search", f"--workdir={runs / 'sft'}", "--rows=32", "--max_new_tokens=3")
    told = []
    for name, words in (
        ("prm", ("--method=coverage,best_of_n,weighted,majority,beam", "--branches=2")),
        ("orm", ()),
    ):
        out = tmp_path / name
        printed = cli.run(*command, f"--scorer={runs / name}", "--n=1,2,4", f"--out={out}", *words)
        found = json.loads((out / "search.json").read_text())
        told.append(found["accuracy"])
        assert (out / "search.png").read_bytes().startswith(b"\x89PNG")
        for curve in found["accuracy"].values():
            assert list(curve) == ["1", "2", "4"]
            assert all(0 <= cell["value"] <= 1 and cell["n"] == 16 for cell in curve.values())
        assert f"{found['accuracy']['majority']['4']['value']:.3f}" in printed
    prm, orm = told
    assert "beam" in prm
    assert "beam" not in orm
    # The same draws: what needs no scorer is the same.
    assert prm["coverage"] == orm["coverage"]
    assert prm["majority"] == orm["majority"]
    assert prm["coverage"]["4"]["value"] >= prm["best_of_n"]["4"]["value"]


@pytest.mark.slow
def test_a_process_reward_model_rewards_grpo(runs, tmp_path):
    """The reward is a probability; the outcome model's is a logit; both runs are evaluated."""
    options = ("train", f"--config={runs / 'chains.py'}:grpo", f"--config.policy={runs / 'sft'}")
    for how, low in (("product", 0.0), ("last", 0.0)):
        run = tmp_path / how
        cli.run(
            *options, f"--config.reward={runs / 'prm'}", f"--config.algorithm.steps={how}",
            "--config.loop.log_every=1", f"--workdir={run}",
        )  # fmt: skip
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert len(rows) == 3
        assert all(low < row["reward"] < 1 and row["failed"] == 0 for row in rows)
    numbers = json.loads(cli.run("evaluate", f"--workdir={run}", "--json", "--rows=16"))
    assert 0 < numbers["reward model score"]["value"] < 1
    process = cli.start(
        *options, f"--config.reward={runs / 'prm'}", "--config.algorithm.steps=sum",
        f"--workdir={tmp_path / 'no'}",
    )  # fmt: skip
    _, error = process.communicate(timeout=240)
    assert process.returncode == 2
    assert "algorithm.steps must be one of" in error
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_what_cannot_be_searched_is_refused(runs, tmp_path, capsys):
    good = ("search", f"--workdir={runs / 'sft'}", "--max_new_tokens=3", f"--out={tmp_path / 'o'}")
    prm, orm = (f"--scorer={runs / name}" for name in ("prm", "orm"))
    cases = (
        ((*good, "--n=0,4"), "--n must be whole numbers from 1 on"),
        ((*good, "--n=1"), "of one answer nothing is chosen"),
        ((*good, "--method=best"), "--method must be one of"),
        ((*good, "--method=best_of_n"), "--method=best_of_n must come with --scorer"),
        ((*good, "--method=beam", orm), "--method=beam must have a scorer of steps"),
        ((*good, "--method=beam", prm, "--n=6"), "must be a multiple of its branches"),
        ((*good, f"--scorer={runs / 'sft'}"), "must be the run of a reward model"),
        ((*good, f"--scorer={tmp_path / 'none'}"), "--scorer must be the folder of a run"),
        ((*good, "--extract=boxed"), "must find an answer in some completion"),
        ((*good, "--answer=gold"), "--answer must be a column of every question"),
        ((*good, "--steps=sum"), "--steps must be one of product, min, last"),
        ((*good, "--prompts=x.jsonl"), "x.jsonl"),
        (("search", "--n=4"), "--out must name a folder"),
        (("search", "--n=4", f"--out={tmp_path / 'o'}"), "--workdir or --model must be given"),
        (
            ("label-steps", f"--workdir={runs / 'sft'}", f"--to={tmp_path / 'x.jsonl'}"),
            "must have data with a tokenizer",
        ),
        (("label-steps", f"--workdir={runs / 'sft'}", "--to=x.txt"), "must be a file that ends in"),
    )
    for words, says in cases:
        assert says in refused(capsys, *words), words
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_labels_that_teach_nothing_end_a_run_before_it_begins(tmp_path, runs):
    """Labels of one class: one line, exit code 2, and no folder."""
    for name in ("prm", "orm"):
        process = cli.start(
            "train", f"--config={runs / 'chains.py'}:{name}", f"--workdir={tmp_path / name}",
            "--config.data.document_error=0",
        )  # fmt: skip
        _, error = process.communicate(timeout=300)
        assert process.returncode == 2, error
        assert "must differ" in error
        assert not (tmp_path / name / "checkpoints").exists()


TEXTS = [
    {"prompt": f"what is {a} and {b}?", "completion": f"{a} and {b}\nis {a + b}", "answer": a + b}
    for a in range(4)
    for b in range(4)
]


@pytest.mark.slow
def test_solutions_of_texts_are_labelled_killed_and_read_back(tmp_path):
    """A killed command goes on, and its file is that of one that was not; our loader reads it."""
    rows, asked = tmp_path / "rows.jsonl", tmp_path / "asked.jsonl"
    for file, most in ((rows, None), (asked, 4)):
        file.write_text("\n".join(json.dumps(row) for row in TEXTS[:most]) + "\n")
    run = tmp_path / "sft"
    cli.run(
        "train", "--config=experiments/own_data.py:sft-micro", f"--config.data.path={rows}",
        "--config.data.vocab_size=290", "--config.loop.steps=60", f"--workdir={run}",
    )  # fmt: skip
    command = (
        "label-steps", f"--workdir={run}", f"--prompts={asked}", "--solutions=2", "--rollouts=2",
        "--rows=8", "--max_new_tokens=16",
    )  # fmt: skip
    whole = tmp_path / "whole.jsonl"
    told = json.loads(cli.run(*command, f"--to={whole}").splitlines()[0])
    given = [json.loads(line) for line in whole.read_text().splitlines()]
    assert told["rows"] == len(given) > 0
    assert told["steps"] == sum(len(row["labels"]) for row in given)
    parts = containers.parts(str(whole))
    layout, _ = reading.detected(parts, "", {}, str(whole))
    assert layout.name == "stepwise"
    for row in given:
        assert len(row["completions"]) == len(row["labels"])
        assert set(row["labels"]) <= {0.0, 0.5, 1.0}
    # Cut off in the middle of the third question, as by a kill.
    part = tmp_path / "part.jsonl"
    cli.run(*command, f"--to={part}")
    state = json.loads((tmp_path / "part.state.json").read_text())
    assert state["done"] == 4
    lines = part.read_bytes()
    own = [row for row in given if row["prompt"] in {r["prompt"] for r in TEXTS[:2]}]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in own).encode()
    labels = [n for row in own for n in row["labels"]]
    state |= {
        "done": 2, "bytes": len(text),
        "told": {"rows": len(own), "steps": len(labels), "right": float(np.sum(labels))},
    }  # fmt: skip
    (tmp_path / "part.state.json").write_text(json.dumps(state))
    part.rename(tmp_path / "part.jsonl.partial")
    cli.run(*command, f"--to={part}")
    assert part.read_bytes() == lines == whole.read_bytes()
    other = [word.replace("--rollouts=2", "--rollouts=3") for word in command]
    process = cli.start(*other, f"--to={part}")
    _, error = process.communicate(timeout=240)
    assert (process.returncode, error.count("\n")) == (2, 1), error
    assert "must have been begun with the same settings; got rollouts 3, and 2" in error
    told = cli.run(*command, "--kind=outcomes", f"--to={tmp_path / 'outcomes.jsonl'}")
    assert json.loads(told.splitlines()[0])["rows"] > 0

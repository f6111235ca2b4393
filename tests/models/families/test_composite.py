"""The text part of models of text and images: asked for by name, under both spellings."""

import json

import jax
import numpy as np
import pytest

from alignjax.models import transformer
from alignjax.models.checkpoints import folder, safetensors_io
from alignjax.models.config import TransformerConfig
from tests.commands import cli, open_model
from tests.models.families import golden

CASES = ("gemma3", "llama4", "mistral3")
every = pytest.mark.parametrize("kind", CASES)


def place(kind):
    return golden.HERE / "goldens" / f"{kind}-images"


def copied(kind, path, rename=lambda name: name, more=(), **changes):
    """A golden with other names, more tensors or other fields; `...` takes a field out."""
    held = safetensors_io.open_folder(place(kind))
    found = {rename(name): held.read(name) for name in held.tensors}
    found |= {name: np.zeros(2, np.float32) for name in more}
    fields = {**json.loads((place(kind) / "config.json").read_text()), **changes}
    fields = {name: value for name, value in fields.items() if value is not ...}
    golden.write(path, found, json.dumps(fields).encode())
    return path


def newer(name):
    """As models in memory name them since transformers 4.52."""
    if name.startswith("language_model.lm_head"):
        return name.removeprefix("language_model.")
    return "model." + name.replace("language_model.model.", "language_model.")


@every
def test_what_sees_is_listed_and_left_out_on_request(kind):
    listed = r"multi_modal_projector \(\d tensors.*vision_.*weights_skip"
    with pytest.raises(ValueError, match=listed) as one:
        folder.open_model(place(kind))
    assert "\n" not in str(one.value)
    stored = folder.open_model(place(kind), skip="vision")
    assert all(name.startswith(("model.", "lm_head.")) for name in stored.tensors.tensors)
    with pytest.raises(ValueError, match="weights_skip"):
        folder.open_model(place(kind), skip="audio")


@every
def test_newer_names_are_the_same_model(kind, tmp_path):
    golden.assert_same_tensors(copied(kind, tmp_path / "new", newer), place(kind))


@every
def test_tensors_and_fields_of_other_parts_are_refused(kind, tmp_path):
    path = copied(kind, tmp_path / "heard", more=("audio_tower.weight",))
    with pytest.raises(ValueError, match=r"audio_tower\.weight"):
        folder.open_model(path, skip="vision").load()
    path = copied(kind, tmp_path / "field", audio_config={"layers": 2})
    with pytest.raises(ValueError, match="knows; got audio_config"):
        folder.open_model(path, skip="vision")
    path = copied(kind, tmp_path / "text", text_config={"model_type": "gemma9"})
    with pytest.raises(ValueError, match=r"text_config\.model_type must be"):
        folder.open_model(path, skip="vision")


def test_whose_word_ties_the_unembedding(tmp_path):
    """Of Mistral 3 and Gemma 3 that of the whole; of Llama 4 that of its text part."""

    def tied(kind, name, **changes):
        return folder.open_model(
            copied(kind, tmp_path / name, **changes), skip="vision"
        ).config.tied

    assert not tied("mistral3", "untied")
    assert not tied("mistral3", "silent", tie_word_embeddings=...)  # it is stored
    assert tied("gemma3", "tied")
    assert tied("gemma3", "silent-too", tie_word_embeddings=...)
    assert not tied("llama4", "llama", tie_word_embeddings=True)


def test_fields_that_published_gemmas_leave_out(tmp_path):
    fields = json.loads((place("gemma3") / "config.json").read_text())["text_config"]
    short = {name: fields[name] for name in fields if name not in ("vocab_size", "head_dim")}
    path = copied("gemma3", tmp_path / "short", text_config=short, eos_token_id=[1, 106])
    stored = folder.open_model(path, skip="vision")
    assert (stored.config.vocab_size, stored.config.head_dim) == (262208, 256)
    whole = copied("gemma3", tmp_path / "ends", eos_token_id=[1, 106])
    assert folder.open_model(whole, skip="vision").fields["eos_token_id"] == fields["eos_token_id"]


CONFIG = """
from alignjax.algorithms import sft
from alignjax.data.instructions import InstructConfig
from alignjax.runs.experiment import Experiment
from alignjax.models.adapters import lora
from alignjax.training.loop import LoopConfig


def get_config(variant=""):
    return Experiment(
        weights={model!r},
        algorithm=sft.SftConfig(),
        adapter=lora.LoraConfig(rank=2),
        data=InstructConfig(path={data!r}, tokenizer={model!r}, template="chatml", length=64,
                            prompt_length=48, pack=False),
        loop=LoopConfig(steps=1, batch_size=4, checkpoint_every=1),
    )
"""


@pytest.mark.slow
def test_commands_take_the_text_part_on_request(tmp_path):
    """Training with adapters, which read their base again; import, export and sampling."""
    pytest.importorskip("tokenizers", reason="open weights need alignjax[hf]")
    shape = TransformerConfig(
        vocab_size=300, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, ff=48, tied=False
    )
    params = transformer.transformer(shape).init(jax.random.key(0))
    fields = {**folder.hf_fields(shape), "model_type": "mistral", "sliding_window": None}
    fields.pop("attention_bias"), fields.pop("mlp_bias")
    folder.save_model(tmp_path / "text", shape, params, fields)
    held = safetensors_io.open_folder(tmp_path / "text")
    found = {f"language_model.{name}": held.read(name) for name in held.tensors}
    found["vision_tower.ln_pre.weight"] = np.ones(3, np.float32)
    whole = {"model_type": "mistral3", "text_config": fields, "vision_config": {}}
    model = tmp_path / "model"
    golden.write(model, found, json.dumps(whole).encode())
    open_model.write_tokenizer(model)
    data = open_model.write_questions(tmp_path / "sums")
    text = CONFIG.format(model=str(model), data=str(data))
    (tmp_path / "lora.py").write_text(text)
    asked = [f"--config={tmp_path / 'lora.py'}", "--config.weights_skip=vision"]
    process = cli.start("train", asked[0], f"--workdir={tmp_path / 'no'}")
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "vision_tower (1 tensors)" in printed
    cli.run("train", *asked, f"--workdir={tmp_path / 'run'}")
    cli.run("export", f"--workdir={tmp_path / 'run'}", f"--to={tmp_path / 'out'}")
    written = folder.open_model(tmp_path / "out")
    assert written.fields["architectures"] == ["MistralForCausalLM"]
    assert written.tensors.tensors.keys() == held.tensors.keys()
    (tmp_path / "whole.py").write_text(text.replace("adapter=lora.LoraConfig(rank=2),", ""))
    asked[0] = f"--config={tmp_path / 'whole.py'}"
    cli.run("import", *asked, f"--workdir={tmp_path / 'policy'}")
    asking = ("--template=chatml", "--prompt=what", "--count=1")
    assert "> " in cli.run("sample", f"--model={model}", "--skip=vision", *asking)

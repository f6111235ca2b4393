"""Folders written as they were read, and a `config.json` for models that were made here."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import trees
from alignjax.models import transformer
from alignjax.models.checkpoints import folder, safetensors_io
from alignjax.models.config import MoeConfig, RopeScaling, TransformerConfig
from alignjax.parallel import mesh
from tests.models.families import golden

ALL = [*golden.marked(golden.DENSE), *golden.SPARSE]
every = pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)


@every
def test_written_as_it_was_read(path, tmp_path):
    stored = folder.open_model(path, skip="vision")
    folder.save_model(tmp_path / "out", stored.config, stored.load(), stored.fields)
    golden.assert_same_tensors(tmp_path / "out", path)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == stored.fields


@every
def test_described_anew(path, tmp_path):
    """Without its config.json a model gets one that means the same."""
    stored = folder.open_model(path, skip="vision")
    fields = folder.hf_fields(stored.config)
    assert folder.differences(stored.config, folder.parse_config(fields, "described")) == []
    folder.save_model(tmp_path / "out", stored.config, stored.load(), fields)
    again = folder.open_model(tmp_path / "out")
    assert folder.differences(stored.config, again.config) == []
    golden.assert_same_tensors(tmp_path / "out", path)


def test_half_precision_keeps_its_bits(tmp_path):
    """bf16 weights loaded as float32 masters are written as the same bf16 tensors."""
    path = golden.HERE / "goldens" / "gemma2"
    held = safetensors_io.open_folder(path)
    half = {name: held.read(name).astype(jnp.bfloat16) for name in held.tensors}
    golden.write(tmp_path / "half", half, (path / "config.json").read_bytes())
    stored = folder.open_model(tmp_path / "half")
    params = stored.load()
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    folder.save_model(tmp_path / "out", stored.config, params, stored.fields, dtype="bfloat16")
    golden.assert_same_tensors(tmp_path / "out", tmp_path / "half")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    lean = dataclasses.replace(stored.config, param_dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(stored.load(lean))} == {jnp.dtype("bfloat16")}


def test_from_a_mesh(tmp_path):
    path = golden.HERE / "goldens" / "qwen2"
    with mesh.use(mesh.make_mesh(mesh.MeshConfig(data=4, model=2), jax.devices())):
        stored = folder.open_model(path)
        folder.save_model(tmp_path / "out", stored.config, stored.load(), stored.fields)
    golden.assert_same_tensors(tmp_path / "out", path)


def test_what_was_changed_is_refused(tmp_path):
    stored = folder.open_model(golden.HERE / "goldens" / "gemma2")
    params = stored.load()
    other = dataclasses.replace(stored.config, attention_softcap=1.0, window=3)
    with pytest.raises(ValueError, match="differ in window, attention_softcap") as caught:
        folder.save_model(tmp_path / "out", other, params, stored.fields)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="dtype must be a floating one"):
        folder.save_model(tmp_path / "out", stored.config, params, stored.fields, dtype="int32")
    assert not list(tmp_path.iterdir())
    how = dataclasses.replace(stored.config, remat="full", logit_tile=4, unroll=3)
    folder.save_model(tmp_path / "out", how, params, stored.fields)


def test_a_folder_in_use_is_kept(tmp_path):
    path = golden.HERE / "goldens" / "llama"
    shutil.copytree(path, tmp_path / "out")
    stored = folder.open_model(path)
    with pytest.raises(ValueError, match="must be new or empty"):
        folder.save_model(tmp_path / "out", stored.config, stored.load(), stored.fields)
    golden.assert_same_tensors(tmp_path / "out", path)


MADE_HERE = {
    "llama": {},
    "llama with llama3": {
        "rope": RopeScaling(kind="llama3", factor=8.0, original_length=128),
        "tied": False,
    },
    "llama with yarn": {"rope": RopeScaling(kind="yarn", factor=4.0, original_length=64)},
    "llama with its own yarn": {
        "rope": RopeScaling(
            kind="yarn", factor=4.0, original_length=64, attention_factor=1.1, truncate=False
        )
    },
    "llama with biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "llama with a window for no layer": {"window": 7, "attention": ("full", "full")},
    "smollm3": {"attention": ("full", "nope")},
    "mistral": {"attention": ("sliding",), "window": 9},
    "qwen2": {"qkv_bias": True},
    "qwen2 ": {"qkv_bias": True, "attention": ("full", "sliding"), "window": 9},
    "qwen3": {"qk_norm": "scaled"},
}
GEMMA = {
    "activation": "gelu",
    "norm_plus_one": True,
    "post_norms": True,
    "embed_scale": 8.0,
    "attention": ("sliding", "full"),
    "window": 5,
}
MADE_HERE |= {
    "gemma2": {**GEMMA, "attention_softcap": 50.0},
    "gemma3_text": {
        **GEMMA,
        "qk_norm": "scaled",
        "local_rope_theta": 50.0,
        "rope": RopeScaling(kind="linear", factor=8.0),
        "query_scale": 10**-0.5,
    },
    "phi3": {"rope_dim": 8, "tied": False},
    "phi3 with longrope": {
        "rope": RopeScaling(
            kind="longrope",
            factor=3.0,
            original_length=8,
            attention_factor=1.1,
            short=(1.0,) * 8,
            long=(1.0, 2.0) * 4,
        ),
    },
    "llama by length": {"rope": RopeScaling(kind="dynamic", factor=2.0, original_length=8)},
    "glm4": {"rope_dim": 10, "rope_interleaved": True, "post_norms": True, "qkv_bias": True},
    "glm4_moe": {
        "rope_dim": 6,
        "moe": MoeConfig(
            experts=4, active=2, ff=8, shared_ff=8, scores="sigmoid", bias_correction=True
        ),
    },
    "gpt_oss": {
        "sinks": True,
        "moe": MoeConfig(experts=5, active=2, ff=176, bias=True, clamp=7.0),
    },
    "mixtral": {"moe": MoeConfig(experts=4, active=2, ff=176, balance_loss=0.1)},
}


@pytest.mark.parametrize("name", MADE_HERE)
def test_a_model_made_here(name, tmp_path):
    config = TransformerConfig(vocab_size=20, layers=4, **MADE_HERE[name])
    fields = folder.hf_fields(config)
    assert fields["model_type"] == name.split()[0]
    params = transformer.transformer(config).init(jax.random.key(0))
    folder.save_model(tmp_path / "out", config, params, fields)
    stored = folder.open_model(tmp_path / "out")
    again = stored.load()
    for leaf, value in trees.named_leaves(params).items():
        np.testing.assert_array_equal(trees.named_leaves(again)[leaf], value)
    tokens = np.arange(24).reshape(2, 12) % 20
    given = {"positions": np.arange(12) + 0 * tokens, "segments": np.ones_like(tokens)}
    ours, theirs = (
        transformer.transformer(c).hidden(params, tokens, **given)[0]
        for c in (config, stored.config)
    )
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "nearest"),
    [
        ({"activation": "gelu"}, "Nearest is llama, which differs in activation"),
        ({"mlp_bias": True, "qk_norm": "scaled"}, "qk_norm"),
        ({"qk_norm": "plain"}, "qk_norm"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({**GEMMA, "embed_scale": 3.0}, "embed_scale"),
        ({**GEMMA, "query_scale": 0.3}, "query_scale"),
        ({"attention": ("nope", "sliding"), "window": 4}, "attention"),
        ({"logit_softcap": 5.0}, "logit_softcap"),
    ],
    ids=str,
)
def test_what_no_family_is(changes, nearest):
    config = TransformerConfig(vocab_size=20, layers=4, **changes)
    with pytest.raises(ValueError, match="must be one of a family") as caught:
        folder.hf_fields(config)
    assert nearest in str(caught.value)
    assert "\n" not in str(caught.value)

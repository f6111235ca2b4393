"""Reward models from and to transformers' sequence classification."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import struct
from alignjax.models import scoring, transformer
from alignjax.models.checkpoints import folder, heads, safetensors_io
from alignjax.parallel import mesh
from tests.models import tiny
from tests.models.families import golden

SCORED = [path for path in golden.DENSE if (path / "scores.npz").exists()]
every = pytest.mark.parametrize("path", SCORED, ids=lambda path: path.name)
stored = pytest.mark.parametrize("name", ["llama", "gemma3"])


def recorded(path):
    with np.load(path / "scores.npz", allow_pickle=False) as data:
        return data["weight"], data["scores"]


def scores(config, params, path, *, left):
    model = transformer.transformer(config)
    rows = golden.sequences(golden.dense(path))[1:]
    batch = tiny.batch(*tiny.rows(rows, golden.LENGTH, left=left, pad=3))
    return np.asarray(jax.jit(lambda p: scoring.sequence_scores(model, p, batch))(params))


@every
def test_scores_at_the_last_token(path):
    found = golden.dense(path)
    weight, wanted = recorded(path)
    assert np.ptp(wanted) > 0.1
    params = struct.replace(found.params, scalar=jnp.asarray(weight[0]), unembed=None)
    for left in (False, True):
        given = scores(found.stored.config, params, path, left=left)
        np.testing.assert_allclose(given, wanted, atol=1e-4)


@stored
def test_a_folder_of_transformers(name):
    path = golden.HERE / "goldens" / name
    opened = heads.open_reward(f"{path}-reward")
    params = opened.load()
    assert params.unembed is None
    assert params.scalar.dtype == jnp.float32
    given = scores(opened.config, params, path, left=False)
    np.testing.assert_allclose(given, recorded(path)[1], atol=1e-4)


@stored
def test_written_as_it_was_read(name, tmp_path):
    path = golden.HERE / "goldens" / f"{name}-reward"
    opened = heads.open_reward(path)
    heads.save_reward(tmp_path / "out", opened.config, opened.load(), opened.fields)
    golden.assert_same_tensors(tmp_path / "out", path)
    before, after = (json.loads((p / "config.json").read_text()) for p in (path, tmp_path / "out"))
    assert after == before


def test_a_reward_model_made_here(tmp_path):
    """From a language model with an unembedding of its own: transformers' names, class and pad."""
    found = golden.dense(golden.HERE / "goldens" / "llama")
    model = golden.model_of(found)
    params = model.with_scalar(found.params)
    params = struct.replace(params, scalar=params.scalar + jnp.arange(24.0))
    fields = {k: v for k, v in found.stored.fields.items() if k != "pad_token_id"}
    save = (found.stored.config, params, fields)
    with pytest.raises(ValueError, match="pad_id must be given"):
        heads.save_reward(tmp_path / "out", *save)
    heads.save_reward(tmp_path / "out", *save, pad_id=5, dtype="bfloat16")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architectures"] == ["LlamaForSequenceClassification"]
    assert written["pad_token_id"] == 5
    assert len(written["id2label"]) == 1
    names = safetensors_io.open_folder(tmp_path / "out").tensors
    assert names["score.weight"].shape == (1, 24)
    assert "lm_head.weight" not in names
    again = heads.open_reward(tmp_path / "out").load()
    np.testing.assert_array_equal(again.scalar, np.arange(24.0))


def test_on_a_mesh(tmp_path):
    path = golden.HERE / "goldens" / "gemma3-reward"
    whole = heads.open_reward(path).load()
    with mesh.use(mesh.make_mesh(mesh.MeshConfig(data=4), jax.devices()[:4])):
        opened = heads.open_reward(path)
        params = opened.load()
        np.testing.assert_array_equal(params.scalar, whole.scalar)
        heads.save_reward(tmp_path / "out", opened.config, params, opened.fields)
    golden.assert_same_tensors(tmp_path / "out", path)


def test_what_is_refused(tmp_path):
    path = golden.HERE / "goldens" / "llama-reward"
    opened = heads.open_reward(path)
    params = opened.load()
    bare = struct.replace(params, scalar=None)
    with pytest.raises(ValueError, match="must have a scalar head"):
        heads.save_reward(tmp_path / "out", opened.config, bare, opened.fields)
    with pytest.raises(ValueError, match="save_reward"):
        folder.save_model(tmp_path / "out", opened.config, params, opened.fields)
    with pytest.raises(ValueError, match=r"missing: score\.weight; not of the model: lm_head"):
        heads.open_reward(golden.HERE / "goldens" / "llama").load()
    with pytest.raises(ValueError, match=r"not of the model: score\.weight"):
        folder.open_model(path).load()
    assert not list(tmp_path.iterdir())


def test_two_labels_are_not_a_reward(tmp_path):
    path = golden.HERE / "goldens" / "llama-reward"
    held = safetensors_io.open_folder(path)
    changed = {name: held.read(name) for name in held.tensors}
    changed["score.weight"] = np.zeros((2, 24), np.float32)
    golden.write(tmp_path / "two", changed, (path / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"score\.weight must have shape \[1, 24\]"):
        heads.open_reward(tmp_path / "two").load()

"""Live: new random models of transformers read by us, and folders of ours read by transformers.

Runs with torch and transformers beside jax, or with ALIGNJAX_REFERENCE_PYTHON set to an interpreter
that has them: pytest -m slow tests/models/families/test_live.py
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import struct
from alignjax.models import transformer
from alignjax.models.checkpoints import folder, heads
from alignjax.models.checkpoints.families import COMPOSITES
from alignjax.models.config import RopeScaling, TransformerConfig
from tests.models import tiny
from tests.models.checkpoints import test_mxfp4
from tests.models.families import golden, live, live_delta

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        live.interpreter() is None, reason=f"no torch and transformers here; see {live.VARIABLE}"
    ),
]
SEED = int(os.environ.get("ALIGNJAX_LIVE_SEED", "100"))
PER_FAMILY = int(os.environ.get("ALIGNJAX_LIVE_MODELS", "2"))
ASKED = os.environ.get("ALIGNJAX_LIVE_KINDS", "").split()  # these families alone
KINDS = ASKED or (*folder.FAMILIES, *COMPOSITES)
DRAWS = [(kind, SEED + n) for n in range(PER_FAMILY) for kind in KINDS]
MADE_HERE = {
    "llama": {"rope": RopeScaling(kind="yarn", factor=4.0, original_length=16)},
    "smollm3": {"attention": ("full", "nope"), "qkv_bias": True, "out_bias": True},
    "mistral": {"attention": ("sliding",), "window": 5},
    "qwen2": {"attention": ("full", "sliding"), "window": 4, "qkv_bias": True, "tied": False},
    "qwen3": {"qk_norm": "scaled", "tied": False},
    "gemma3_text": {
        "activation": "gelu",
        "norm_plus_one": True,
        "post_norms": True,
        "embed_scale": 8.0,
        "attention": ("sliding", "full"),
        "window": 5,
        "qk_norm": "scaled",
        "local_rope_theta": 50.0,
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of new models with what they compute, as in the goldens."""
    root = tmp_path_factory.mktemp("made")
    live.run(
        [
            ["make", kind, live.random_fields(kind, s), s, str(root / f"{kind}-{s}")]
            for kind, s in DRAWS
        ]
    )
    return root


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    """The same models written by us under fields of ours, and what transformers computes of them
    in NAME.npz; beside them models that were never theirs, and one with a head."""
    root = tmp_path_factory.mktemp("written")
    jobs = []

    def add(name, seed, config, params, fields=None):
        folder.save_model(root / name, config, params, fields or folder.hf_fields(config))
        jobs.append(["load", str(root / name), seed, str(root / f"{name}.npz")])

    for kind, seed in DRAWS:
        found = golden.dense(made / f"{kind}-{seed}")
        config, own = found.stored.config, found.stored.fields["model_type"]
        fields = None
        if own in live_delta.KINDS:  # one function, which each of them stores in its own way
            fields = {**dict.fromkeys(folder.SPECIAL), **folder.FAMILIES[own].describe(config)}
        add(found.name, seed, config, found.params, fields)
    for kind in MADE_HERE:
        config, params = made_here(kind)
        add(kind, 0, config, params)
    found, weight = headed()
    params = struct.replace(found.params, scalar=jnp.asarray(weight[0]))
    heads.save_reward(root / "reward", found.stored.config, params, found.stored.fields)
    rows = [row.tolist() for row in found.rows]
    jobs.append(["score", str(HEADED), rows, str(root / "theirs.npz")])
    jobs.append(["score", str(root / "reward"), rows, str(root / "ours.npz")])
    live.run(jobs)
    return root


def made_here(kind):
    config = TransformerConfig(vocab_size=50, layers=3, **MADE_HERE[kind])
    model = transformer.transformer(config)
    return config, jax.tree.map(lambda x: 1.5 * x, model.init(jax.random.key(0)))


HEADED = golden.HERE / "goldens" / "gemma3-reward"  # as transformers saved it


def headed():
    path = golden.HERE / "goldens" / "gemma3"
    with np.load(path / "scores.npz", allow_pickle=False) as data:
        return golden.dense(path), data["weight"]


@pytest.mark.parametrize(("kind", "seed"), DRAWS)
def test_random_models_read_here(kind, seed, made):
    found = golden.dense(made / f"{kind}-{seed}")
    for side in ("left", "right"):
        assert golden.padded_error(found, side) < 1e-4
    assert golden.packed_error(found) < 1e-4
    assert golden.decoded_error(found) < 1e-4
    loss, gradients = golden.gradient_error(found)
    assert loss < 1e-4
    assert gradients < 1e-3


@pytest.mark.parametrize(("kind", "seed"), DRAWS)
def test_random_models_read_there_again(kind, seed, made, written):
    found = golden.dense(made / f"{kind}-{seed}")
    golden.assert_same_tensors(written / found.name, found.path)
    with np.load(written / f"{found.name}.npz", allow_pickle=False) as theirs:
        np.testing.assert_array_equal(theirs["logits"], found.logits)
        held = found.stored.tensors
        for name in held.tensors:
            assert held.read(name).tobytes() == theirs[f"tensor/{name}"].tobytes(), name


@pytest.mark.parametrize("kind", MADE_HERE)
def test_models_made_here(kind, written):
    """A model that was never a folder of theirs is one when it is saved."""
    config, params = made_here(kind)
    assert folder.hf_fields(config)["model_type"] == kind
    model = transformer.transformer(config)
    with np.load(written / f"{kind}.npz", allow_pickle=False) as theirs:
        prompt, wanted = theirs["prompt"].astype(np.int32), theirs["logits"]
    tokens, positions, segments = tiny.rows([prompt], golden.LENGTH)
    states, _ = model.hidden(params, tokens, positions=positions, segments=segments)
    ours = golden.capped(model, states @ model.unembedding(params))[0]
    assert np.std(wanted) > 0.1
    assert golden.worst(ours[: len(prompt)], wanted) < 1e-4


def test_experts_in_four_bits(tmp_path):
    """Read by us and by transformers, from the bytes that GPT-OSS is published in."""
    rng = np.random.default_rng(SEED)
    fields = {**test_mxfp4.FIELDS, "tie_word_embeddings": bool(rng.integers(2))}
    test_mxfp4.write(tmp_path, fields, rng)
    live.run([["load", str(tmp_path / "small"), 0, str(tmp_path / "theirs.npz")]])
    stored = folder.open_model(tmp_path / "small")
    model, params = transformer.transformer(stored.config), stored.load()
    with np.load(tmp_path / "theirs.npz", allow_pickle=False) as theirs:
        prompt, wanted = theirs["prompt"].astype(np.int32), theirs["logits"]
    tokens, positions, segments = tiny.rows([prompt], golden.LENGTH)
    states, _ = model.hidden(params, tokens, positions=positions, segments=segments)
    assert np.std(wanted) > 0.1
    ours = (states @ model.unembedding(params))[0]
    assert golden.worst(ours[: len(prompt)], wanted) < 1e-4


def test_a_reward_model(written):
    """Written from a language model's body with a head; transformers scores rows as it does those
    of its own folder, bit for bit on one machine."""
    with np.load(written / "theirs.npz") as theirs, np.load(written / "ours.npz") as ours:
        np.testing.assert_array_equal(ours["scores"], theirs["scores"])

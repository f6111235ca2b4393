"""The weights that all arms begin with, as folders in the format of transformers.

    python -m bench.weights MODEL FOLDER

FOLDER/policy is a language model drawn by AlignJAX's own law, FOLDER/scorer the same with a scalar
head (`workloads.head`).
"""

import pathlib
import sys

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import transformer
from alignjax.models.checkpoints import folder, heads
from alignjax.models.config import TransformerConfig
from bench import workloads


def config_of(model: workloads.Model) -> TransformerConfig:
    """The model as AlignJAX's configuration."""
    return TransformerConfig(
        vocab_size=model.vocab,
        layers=model.layers,
        width=model.width,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        ff=model.ff,
        rope_theta=float(workloads.THETA),
        norm_eps=workloads.NORM_EPS,
    )


def write(model: workloads.Model, place: pathlib.Path) -> None:
    """Writes both folders."""
    config = config_of(model)
    params = jax.jit(transformer.transformer(config).init)(jax.random.key(workloads.SEED % 2**31))
    special = {"pad_token_id": workloads.PAD, "eos_token_id": workloads.EOS, "bos_token_id": None}
    fields = {**folder.hf_fields(config), **special, "max_position_embeddings": 1024}
    folder.save_model(place / "policy", config, params, fields)
    scored = struct.replace(params, scalar=jnp.asarray(workloads.head(model)))
    heads.save_reward(place / "scorer", config, scored, fields)


if __name__ == "__main__":
    write(workloads.MODELS[sys.argv[1]], pathlib.Path(sys.argv[2]))

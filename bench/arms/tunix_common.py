"""Models, optimizer and versions of Tunix's arms; weights come by its own loader."""

import dataclasses
import importlib.metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params

from bench import turns, workloads


def mesh() -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))


def policy(task: turns.Task) -> Any:
    model = task.case.model
    config = llama.ModelConfig(
        num_layers=model.layers,
        vocab_size=model.vocab,
        embed_dim=model.width,
        hidden_dim=model.ff,
        num_heads=model.heads,
        head_dim=model.head_dim,
        num_kv_heads=model.kv_heads,
        rope_theta=workloads.THETA,
        norm_eps=workloads.NORM_EPS,
        weight_tying=True,
    )
    folder = str(task.weights / "policy")
    return params.create_model_from_safe_tensors(folder, config, mesh(), jnp.float32)


class Scorer(llama.Llama3):
    """Its `compute_score` gives every model `segment_ids`, which its Llama does not take; they
    repeat what the attention mask says of padding."""

    def __call__(self, *args: Any, segment_ids: Any = None, **options: Any) -> Any:
        return super().__call__(*args, **options)


def scorer(task: turns.Task) -> Any:
    """The same with one output, as its `create_critic_model` makes it of an untied model."""
    made = policy(task)
    made.__class__ = Scorer
    made.config = dataclasses.replace(made.config, weight_tying=False)
    head = nnx.Linear(task.case.model.width, 1, use_bias=False, rngs=nnx.Rngs(0))
    whole = jax.sharding.NamedSharding(mesh(), jax.sharding.PartitionSpec())
    head.kernel.set_value(jax.device_put(workloads.head(task.case.model)[:, None], whole))
    made.lm_head = head
    return made


def size(model: Any) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


def optimizer() -> optax.GradientTransformation:
    optim = workloads.OPTIMIZER
    return optax.chain(
        optax.clip_by_global_norm(optim["clip_norm"]),
        optax.adamw(
            optim["learning_rate"],
            b1=optim["b1"],
            b2=optim["b2"],
            eps=optim["eps"],
            weight_decay=0.0,
        ),
    )


def versions() -> dict[str, str]:
    names = {"tunix": "google-tunix", "jax": "jax", "flax": "flax"}
    return {name: importlib.metadata.version(which) for name, which in names.items()}


class Words:
    """A tokenizer with a word for each id."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(str(int(i)) for i in ids)

    def bos_id(self) -> int:
        return workloads.PAD  # none

    def eos_id(self) -> int:
        return workloads.EOS

    def pad_id(self) -> int:
        return workloads.PAD

"""Prefixes from and to peft's one matrix of prompt embeddings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import trees
from alignjax.models import params, rope
from alignjax.models.config import TransformerConfig


def _turned(keys: jax.Array, config: TransformerConfig, kind: str, by: int) -> jax.Array:
    """Keys [P, K, H] rotated by `by` positions, as a layer of that kind rotates them.

    peft counts the tokens' positions from the prefix's length on and rotates them alone; here
    they count from 0. Only differences of positions matter, so the prefix turns back instead.
    """
    if kind == "nope":
        return keys
    # The last of |by| positions: angles are linear in the position.
    place = jnp.full((1, 1), abs(by), jnp.int32)
    cos, sin = rope.angles(config, kind, place, config.rotated(), place)
    size = jnp.sqrt(cos * cos + sin * sin)  # YaRN lengthens queries and keys; not these
    sin = sin if by >= 0 else -sin
    turn = {"interleaved": config.rope_interleaved}
    return rope.rotate(keys[None].astype(jnp.float32), cos / size, sin / size, **turn)[0]


def leaves(matrix: np.ndarray, declared: Any, config: TransformerConfig) -> Any:
    """Prefixes of all layers from peft's one matrix [P, layers 2 K H].

    Raises:
      ValueError: it is one of another model.
    """
    slots, shape = matrix.shape[0], (config.layers, 2, config.kv_heads, config.head_dim)
    if matrix.ndim != 2 or matrix.shape[1] != np.prod(shape):
        raise ValueError(
            f"prompt_embeddings must be [P, {np.prod(shape)}] for this model; got "
            f"{list(matrix.shape)}. Load it over the model that it was trained on."
        )
    stored = jnp.asarray(matrix).reshape(slots, *shape)
    kinds = config.kinds()

    def one(name: str, info: params.ParamInfo) -> jax.Array:
        numbers = config.stacks()[int(name.split("/")[1])][1]
        if name.endswith("keys"):
            parts = [_turned(stored[:, n, 0], config, kinds[n], -slots) for n in numbers]
        else:
            parts = [stored[:, n, 1] for n in numbers]
        return params.place(np.stack(parts), info)

    return trees.map_named(one, declared, is_leaf=params.is_info)


def matrix(own: Any, config: TransformerConfig) -> np.ndarray:
    """The inverse of `leaves`."""
    kinds, columns = config.kinds(), []
    for block, (_, numbers) in zip(own.blocks, config.stacks(), strict=True):
        prefix = block.attention.prefix
        for place, n in enumerate(numbers):
            slots = prefix.keys.shape[1]
            keys = _turned(prefix.keys[place], config, kinds[n], slots)
            columns += [np.asarray(keys, np.float32), np.asarray(prefix.values[place], np.float32)]
    stacked = np.stack(columns, axis=1)
    return np.ascontiguousarray(stacked.reshape(stacked.shape[0], -1))

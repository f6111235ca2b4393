"""Layers as arrays of their own: a loop over a stack of layers copies each layer's weights in turn.

On CPUs that copy takes as long as the products of a few tokens (SmolLM2-135M, a step of one row: 86
ms of CPU time in a loop, 46 ms with layers apart; of eight rows 125 and 96 ms).
"""

from typing import Any

import jax

from alignjax.core import struct
from alignjax.models import transformer
from alignjax.models.adapters import adapt
from alignjax.parallel import axes


def apart(tree: Any) -> Any:
    """A Transformer's weights with every layer apart, on CPUs; elsewhere they stay as they are.

    `Model.prepare` does it on TPUs.
    """
    if not isinstance(tree, transformer.Transformer) or axes.platform() != "cpu":
        return tree
    return jax.jit(_apart)(tree)


def like(tree: Any, weights: Any) -> Any:
    """Adapters with every layer apart, where it is so with the weights that they stand on."""
    return tree if len(tree.blocks) == len(weights.blocks) else jax.jit(_apart)(tree)


def _apart(tree: transformer.Transformer) -> transformer.Transformer:
    blocks: list[Any] = []
    for number, stack in enumerate(tree.blocks):
        layers = jax.tree.leaves(stack)[0].shape[0] if jax.tree.leaves(stack) else 0
        for layer in range(layers):
            own = jax.tree.map(lambda x, layer=layer: x[layer : layer + 1], stack)
            blocks.append(_renamed(own, number, len(blocks)))
    return struct.replace(tree, blocks=tuple(blocks))


def _renamed(block: Any, before: int, now: int) -> Any:
    """A layer whose adapters name their partners by their new path."""

    def one(node: Any) -> Any:
        partner = getattr(node, "partner", "")
        if not partner:
            return node
        path = partner.replace(f"blocks/{before}/", f"blocks/{now}/", 1)
        return struct.replace(node, partner=path)

    return jax.tree.map(one, block, is_leaf=adapt.is_adapter)

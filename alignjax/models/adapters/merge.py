"""Adapters merged into the weights, and taken out again."""

from collections.abc import Mapping
from typing import Any

import jax

from alignjax.core import trees
from alignjax.models import layers
from alignjax.models.adapters import adapt


def merge(bound: Any) -> tuple[Any, dict[str, jax.Array]]:
    """(plain weights that do what the bound tree does, the base's weights they replace).

    Products are taken in fp32 and rounded to the base's dtype once. What is replaced is kept, not
    computed back: W + d - d is not W in floating point.

    Raises:
      ValueError: an adapter is no linear map of the weights (bottleneck, prefix).
    """
    kept: dict[str, jax.Array] = {}
    bias_gains = {}
    for name, node in _nodes(bound).items():
        if not hasattr(node, "merged"):
            raise ValueError(
                f"only LoRA, DoRA and IA3 can be merged; got {type(node).__name__} at {name}. "
                "Keep the base and its adapters apart."
            )
        gain = getattr(node, "bias_gain", None)
        if gain is not None:
            bias_gains[f"{name}_bias"] = gain

    def one(name: str, x: Any) -> Any:
        if isinstance(x, layers.Operator):
            node: Any = x
            kept[name] = node.base
            return node.merged().astype(node.base.dtype)
        if name in bias_gains:
            kept[name] = x
            return (x * bias_gains[name]).astype(x.dtype)
        return x

    return trees.map_named(one, bound, is_leaf=lambda x: isinstance(x, layers.Operator)), kept


def unmerge(merged: Any, kept: Mapping[str, jax.Array]) -> Any:
    """The base again, bit for bit: merged weights with those that `merge` replaced put back."""
    return trees.map_named(lambda name, x: kept.get(name, x), merged)


def whole(bound: Any) -> Any:
    """Plain weights of a tree: merged where it carries adapters, else itself."""
    return merge(bound)[0] if adapt.has_adapters(bound) else bound


def _nodes(bound: Any) -> dict[str, Any]:
    """Adapters by path."""
    paths = jax.tree_util.tree_leaves_with_path(bound, is_leaf=lambda x: hasattr(x, "over"))
    return {trees.path_name(path): x for path, x in paths if hasattr(x, "over")}

"""Adapters merged into the weights, and taken out again."""

from collections.abc import Mapping
from typing import Any

import jax

from alignjax.core import struct, trees
from alignjax.models import layers, transformer
from alignjax.models.adapters import adapt


def merge(bound: Any) -> tuple[Any, dict[str, layers.Weight]]:
    """(plain weights that do what the bound tree does, the base's weights they replace).

    Products are taken in fp32 and rounded to the base's dtype once; of a base in few bits, to that
    of the numbers that its codes stand for, and matrices without an adapter are made whole too.
    What is replaced is kept, not computed back: W + d - d is not W in floating point. Where
    adapters part a tied embedding from its unembedding, the result is an untied model's.

    Raises:
      ValueError: an adapter is no linear map of the weights (bottleneck, prefix).
    """
    kept: dict[str, layers.Weight] = {}
    bias_gains = {}
    bound = _with_head(bound, kept)
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
        if isinstance(x, layers.Coded):
            kept[name] = x
            return x.whole(x.dtype)
        if isinstance(x, layers.Operator):
            node: Any = x
            kept[name] = node.base
            return node.merged().astype(node.base.dtype)
        if name in bias_gains:
            kept[name] = x
            return (x * bias_gains[name]).astype(x.dtype)
        return x

    return trees.map_named(one, bound, is_leaf=lambda x: isinstance(x, layers.Operator)), kept


def _with_head(bound: Any, kept: dict[str, layers.Weight]) -> Any:
    """The tree with a plain unembedding where adapters make it, or part it from the embedding."""
    if not isinstance(bound, transformer.Transformer):
        return bound
    table, head = bound.embed, bound.unembed
    tied = table.turned() if isinstance(table, layers.Table) else table.T
    if isinstance(head, layers.Head):
        own: Any = head
        kept["unembed"] = own.base
        return struct.replace(bound, unembed=own.matrix(tied).astype(tied.dtype))
    if head is not None or not isinstance(table, layers.Table) or table.ties:
        return bound
    kept["unembed"] = layers.UNBOUND
    return struct.replace(bound, unembed=tied)


def unmerge(merged: Any, kept: Mapping[str, layers.Weight]) -> Any:
    """The base again, bit for bit: merged weights with those that `merge` replaced put back."""
    return trees.map_named(lambda name, x: kept.get(name, x), merged)


def whole(bound: Any) -> Any:
    """Plain weights of a tree: merged where it carries adapters or codes, else itself."""
    nodes = jax.tree.leaves(bound, is_leaf=lambda x: isinstance(x, layers.Operator))
    coded = any(isinstance(x, layers.Coded) for x in nodes)
    return merge(bound)[0] if coded or adapt.has_adapters(bound) else bound


def _nodes(bound: Any) -> dict[str, Any]:
    """Adapters by path."""
    paths = jax.tree_util.tree_leaves_with_path(bound, is_leaf=lambda x: hasattr(x, "over"))
    return {trees.path_name(path): x for path, x in paths if hasattr(x, "over")}

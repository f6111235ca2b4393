"""Many LoRA adapters at once: rows of one batch that name different adapters over one base."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models.adapters import adapt, lora


def stack(trees: Sequence[Any]) -> Any:
    """LoRA adapters of one model as one tree, whose leaves are [L, A, ...].

    Targets and ranks may differ: what an adapter lacks is filled up with zeros, which have no
    gradient and stay zero. Scales (alpha, rank-stabilised or not) and dropout belong to each.

    Raises:
      ValueError: they are of models of different sizes, or are not plain LoRA.
    """
    leaves = [jax.tree.leaves(tree, is_leaf=adapt.is_adapter) for tree in trees]
    shape: Any = jax.tree.structure(trees[0], is_leaf=adapt.is_adapter)
    for tree, nodes in zip(trees, leaves, strict=True):
        for node in nodes:
            if node is not None and not _is_plain(node):
                raise ValueError(
                    "adapters used at once must be LoRA without DoRA, routed experts, embeddings, "
                    f"whole weights and a head; got {_named(node)}. Run others one by one."
                )
        if jax.tree.structure(tree, is_leaf=adapt.is_adapter) != shape:
            raise ValueError(
                "adapters used at once must be of one model; got trees of different layers. Load "
                "them over the same one."
            )
    joined = [_joined(nodes) for nodes in zip(*leaves, strict=True)]
    return jax.tree.unflatten(shape, joined)


def _is_plain(node: Any) -> bool:
    return isinstance(node, lora.LowRank) and node.stretch is None and not node.experts


def _named(node: Any) -> str:
    if not isinstance(node, lora.LowRank):
        return "a head" if hasattr(node, "shape") else type(node).__name__
    return "routed experts" if node.experts else "DoRA"


def _joined(nodes: Sequence[Any]) -> Any:
    """One site's adapters side by side; the rank is the last axis of `down`, `up`'s second."""
    like = next((node for node in nodes if node is not None), None)
    if like is None:
        return None
    nodes = [_nothing(like) if node is None else node for node in nodes]
    ranks = tuple(node.up.shape[1] for node in nodes)

    def filled(x: Any, axis: int) -> Any:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, max(ranks) - x.shape[axis])
        return jnp.pad(x, widths)

    parts = {
        name: None
        if getattr(nodes[0], name) is None
        else [filled(getattr(node, name), axis) for node in nodes]
        for name, axis in (("down", -1), ("up", 1))
    }
    sizes = {tuple(x.shape for x in xs) for xs in zip(*filter(None, parts.values()), strict=True)}
    if len(sizes) > 1:
        raise ValueError(
            f"adapters used at once must be of one model; got sizes {sorted(sizes)[:2]}. Load them "
            "over the same one."
        )
    return struct.replace(
        nodes[0],
        **{name: xs and jnp.stack(xs, axis=1) for name, xs in parts.items()},
        scale=tuple(node.scale for node in nodes),
        dropout=tuple(node.dropout for node in nodes),
        ranks=ranks,
    )


def _nothing(node: Any) -> Any:
    """An adapter of rank 0 on the weight of another one."""
    down = None if node.down is None else node.down[..., :0]
    return struct.replace(node, down=down, up=node.up[:, :0], scale=1.0, dropout=0.0)


def take(stacked: Any, number: int) -> Any:
    """One adapter of a stack, as it was."""

    def one(node: Any) -> Any:
        if node is None:
            return None
        rank = node.ranks[number]
        if not rank:
            return None
        return struct.replace(
            node,
            down=None if node.down is None else node.down[:, number, ..., :rank],
            up=node.up[:, number, :rank],
            scale=node.scale[number],
            dropout=node.dropout[number],
            ranks=(),
        )

    return jax.tree.map(one, stacked, is_leaf=adapt.is_adapter)


def select(stacked: Any, ids: jax.Array) -> Any:
    """The stack where row b of a batch uses adapter ids[b]; bind it as any other tree.

    ids: [B] int. A batch of B K rows gives K rows in turn to each: the answers of one prompt. A
    number that no adapter has is clipped to the last.
    """

    def one(node: Any) -> Any:
        if node is None:
            return None
        layers = node.up.shape[0]
        return struct.replace(node, ids=jnp.broadcast_to(ids, (layers, *ids.shape)))

    return jax.tree.map(one, stacked, is_leaf=adapt.is_adapter)


def rows_of(tree: Any) -> jax.Array | None:
    """The number [B] of each row's adapter, in a tree of `select`, bound or not; None elsewhere."""
    nodes = jax.tree.leaves(tree, is_leaf=adapt.is_adapter)
    chosen = (x.ids for x in nodes if isinstance(x, lora.LowRank) and x.ids is not None)
    return next((ids[0] for ids in chosen), None)


def with_rows(tree: Any, ids: jax.Array) -> Any:
    """A tree of `select`, bound or not, for rows that use the adapters ids [B'] instead."""

    def one(node: Any) -> Any:
        if not isinstance(node, lora.LowRank) or node.ids is None:
            return node
        return struct.replace(node, ids=jnp.broadcast_to(ids, (len(node.ids), *ids.shape)))

    return jax.tree.map(one, tree, is_leaf=adapt.is_adapter)


def by_row(loss: Callable[..., Any], column: str = "adapter") -> Callable[..., Any]:
    """An algorithm's loss whose rows each train the adapter that batch[column] [B] names.

    Its params are a stack; an adapter's gradient comes from its own rows alone.
    """

    def selected(params: Any, frozen: Any, batch: Mapping[str, Any], key: jax.Array) -> Any:
        return loss(select(params, batch[column]), frozen, batch, key)

    return selected

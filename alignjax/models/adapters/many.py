"""Many LoRA adapters at once: rows of one batch that name different adapters over one base."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models.adapters import adapt, lora


def stack(trees: Sequence[Any]) -> Any:
    """Adapters of one configuration as one tree, whose leaves are [L, A, ...].

    Raises:
      ValueError: they differ in shape or scale, or are not plain LoRA.
    """
    if len({jax.tree.structure(tree) for tree in trees}) != 1:
        raise ValueError(
            f"adapters used at once must be of one configuration; got {len(trees)} that are not. "
            "Train them with the same ranks, alphas and targets."
        )
    for node in jax.tree.leaves(trees[0], is_leaf=adapt.is_adapter):
        if node is not None and (not isinstance(node, lora.LowRank) or node.stretch is not None):
            raise ValueError(
                "adapters used at once must be LoRA without DoRA and without a head; got "
                f"{type(node).__name__}. Run others one by one."
            )
    return jax.tree.map(lambda *xs: jnp.stack(xs, axis=1), *trees)


def take(stacked: Any, number: int) -> Any:
    """One adapter of a stack."""
    return jax.tree.map(lambda x: x[:, number], stacked)


def select(stacked: Any, ids: jax.Array) -> Any:
    """The stack where row b of a batch uses adapter ids[b]; bind it as any other tree.

    ids: [B] int. A batch of B K rows gives K rows in turn to each: the answers of one prompt. A
    number that no adapter has is clipped to the last.
    """

    def one(node: Any) -> Any:
        if node is None:
            return None
        layers = node.down.shape[0]
        return struct.replace(node, ids=jnp.broadcast_to(ids, (layers, *ids.shape)))

    return jax.tree.map(one, stacked, is_leaf=adapt.is_adapter)


def by_row(loss: Callable[..., Any], column: str = "adapter") -> Callable[..., Any]:
    """An algorithm's loss whose rows each train the adapter that batch[column] [B] names.

    Its params are a stack; an adapter's gradient comes from its own rows alone.
    """

    def selected(params: Any, frozen: Any, batch: Mapping[str, Any], key: jax.Array) -> Any:
        return loss(select(params, batch[column]), frozen, batch, key)

    return selected

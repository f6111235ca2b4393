"""LoRA adapters on one base, of which more come while others are in use.

All stand in one stack of a fixed number, rank and set of targets, so that another one compiles
nothing: smaller ranks are filled up with zeros, targets that an adapter lacks are zero, and its
scale is part of its `up`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import shapes, trees
from alignjax.models.adapters import adapt, lora, many, peft_format
from alignjax.serving import apart
from alignjax.serving.requests import Refusal
from alignjax.serving.served import Served

LONGEST_NAME = 200


class Adapter(NamedTuple):
    """An adapter that was read: its configuration and its tree."""

    config: lora.LoraConfig
    tree: Any


def read(name: str, path: str, served: Served) -> Adapter:
    """The LoRA adapter of a peft folder.

    Raises:
      ValueError: it can't be read for this model, or is none that can be used beside others.
    """
    if served.shape is None:
        raise ValueError(
            f"adapters need a Transformer; got another model ({served.name}). Leave them out."
        )
    try:
        config, tree = peft_format.load(path, served.shape)
    except ValueError as error:
        if "DoRA" not in str(error):
            raise
        raise ValueError(
            f"an adapter must be LoRA without DoRA to be used beside others; got DoRA for {name} "
            f"({path}). Merge it into a model of its own."
        ) from None
    if not isinstance(config, lora.LoraConfig):
        raise ValueError(
            f"an adapter must be LoRA to be used beside others; got {type(config).__name__} for "
            f"{name} ({path}). Merge it into a model of its own."
        )
    many.stack([tree])  # refuses what is no plain LoRA
    return Adapter(config, tree)


class Stack:
    """Places of adapters; place 0 is the model without any. names: those in use, by name."""

    def __init__(self, served: Served, *, count: int, rank: int, targets: Sequence[str]) -> None:
        """count: of adapters at most. rank: the largest. targets: as in LoraConfig."""
        shapes.check_number("--adapter_slots", count, minimum=1, maximum=1024)
        shapes.check_number("--adapter_rank", rank, minimum=1)
        self.names: dict[str, int] = {}
        self._served = served._replace(params=None)  # the weights are not to be held twice
        self._rank, self._targets = rank, tuple(targets)
        config = lora.LoraConfig(rank=rank, alpha=float(rank), targets=self._targets)
        shape = jax.eval_shape(adapt.adapt(served.model, config).init, jax.random.key(0))
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        stacked = many.stack([blank] * (count + 1))
        self._tree = jax.tree.map(lambda x: np.array(x), stacked)  # a copy that may be written to
        self._free = list(range(1, count + 1))

    def bound(self, weights: Any) -> Any:
        """A model's prepared weights with all adapters; every row uses the model itself."""
        own = jax.device_put(jax.tree.map(np.copy, self._tree))
        chosen = many.select(own, jnp.zeros((1,), jnp.int32))
        return adapt.bind(apart.like(chosen, weights), {"base": weights})

    def read(self, name: str, path: str, taken: Sequence[str]) -> Adapter:
        """An adapter that fits in.

        Raises:
          Refusal: its name is in use, no place is free, or it can't be used here.
        """
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise Refusal(f"name must be 1 to {LONGEST_NAME} printable characters; got another.")
        self._check_place(name, taken)
        try:
            own = read(name, path, self._served)
        except ValueError as error:
            raise Refusal(str(error)) from None
        others = set(own.config.targets) - set(self._targets)
        if others:
            raise Refusal(
                f"an adapter's targets must be among {', '.join(self._targets)}; got "
                f"{', '.join(sorted(others))} ({name}). Start the server with --adapter_targets."
            )
        rank = max(own.config.rank_of(target) for target in own.config.targets)
        if rank > self._rank:
            raise Refusal(
                f"an adapter's rank must be at most {self._rank}; got {rank} ({name}). Start the "
                "server with a larger --adapter_rank."
            )
        return own

    def _check_place(self, name: str, taken: Iterable[str]) -> None:
        if name in taken:
            raise Refusal(f"name must be new; got {name!r}, which is in use. Take another.")
        if not self._free:
            raise Refusal(
                f"a place for an adapter must be free; got {len(self.names)} adapters in as many "
                "places. Start the server with a larger --adapter_slots."
            )

    def put(self, name: str, adapter: Adapter) -> int:
        """Writes an adapter into a free place, whose number it returns.

        Raises:
          Refusal: another one came first.
        """
        self._check_place(name, self.names)
        number = self._free.pop(0)
        nodes = _nodes(adapter.tree)
        for path, node in _nodes(self._tree).items():
            own = nodes.get(path)
            for part in ("down", "up"):
                to = getattr(node, part)
                if to is not None:
                    to[:, number] = 0
                    if own is not None:
                        _write(to[:, number], getattr(own, part), own.scale if part == "up" else 1)
        return number

    def publish(self, name: str, number: int) -> None:
        """Lets requests use a place by this name."""
        self.names = {**self.names, name: number}

    def drop(self, number: int) -> None:
        """Empties a place that no name has."""
        for node in _nodes(self._tree).values():
            for x in (node.down, node.up):
                if x is not None:
                    x[:, number] = 0
        self._free.insert(0, number)


def _nodes(tree: Any) -> Mapping[str, Any]:
    """The adapters of a tree by path."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=adapt.is_adapter)
    return {trees.path_name(path): node for path, node in found if node is not None}


def _write(to: np.ndarray, own: Any, scale: float) -> None:
    """Writes a matrix of a smaller rank over the beginning of one, in place."""
    values = np.asarray(own, np.float32) * np.float32(scale)
    to[tuple(slice(size) for size in values.shape)] = values


def stack_of(
    served: Served,
    folders: Mapping[str, str],
    *,
    count: int = 0,
    rank: int = 0,
    targets: Sequence[str] = (),
) -> Stack | None:
    """The stack of the adapters of peft folders, by name; None where there is no room for any.

    Args:
      count: places; 0 is one for each folder. rank: the largest; 0 is that of the folders.
      targets: that adapters may have beside those of the folders.

    Raises:
      ValueError: an adapter can't be used, or the places are too few.
    """
    read_ones = {name: read(name, path, served) for name, path in folders.items()}
    count = count or len(folders)
    if not count:
        return None
    if len(folders) > count:
        raise ValueError(
            f"--adapter_slots must be at least the {len(folders)} adapters; got {count}."
        )
    ranks = [
        own.config.rank_of(target) for own in read_ones.values() for target in own.config.targets
    ]
    wanted = dict.fromkeys([*(t for own in read_ones.values() for t in own.config.targets)])
    wanted |= dict.fromkeys(targets or ("query", "value") * (not wanted))
    stack = Stack(served, count=count, rank=rank or max(ranks, default=16), targets=tuple(wanted))
    for name, path in folders.items():
        number = stack.put(name, stack.read(name, path, (served.name, *stack.names)))
        stack.publish(name, number)
    return stack

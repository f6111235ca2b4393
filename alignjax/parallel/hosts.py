"""Host arrays onto the mesh and back, with each process holding its own rows."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from alignjax.parallel import axes


def check_rows(name: str, rows: int) -> None:
    """Refuses a batch that the mesh's batch axes do not divide.

    Raises:
      ValueError: naming the batch and the axis size.
    """
    shards = axes.axis_size("batch")
    if rows % shards:
        raise ValueError(
            f"{name} must be a multiple of the mesh's batch axes (replica x data = {shards}); got "
            f"{rows} (mesh). Change the batch or the mesh."
        )


def sharding(dimensions: int) -> NamedSharding:
    """Where an array of one entry a row lies on the mesh that is set."""
    spec = axes.spec(" ".join(["batch", *["slot"] * (dimensions - 1)]))
    return NamedSharding(jax.sharding.get_mesh(), spec)


def own_rows(rows: int) -> np.ndarray:
    """Ascending numbers of the rows of a batch that this process's devices hold.

    Without a mesh and with a single process these are all rows. Where an axis other than the
    batch's crosses processes, they share rows.
    """
    if not axes.has_mesh():
        return np.arange(rows)
    held = sharding(1).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in held]))


def to_global(batch: Mapping[str, np.ndarray], rows: int | None = None) -> dict[str, jax.Array]:
    """A batch as global arrays, sharded over the batch axes.

    Args:
      batch: all rows; with `rows`, the `own_rows` of that many.
    """
    if not axes.has_mesh():
        return {name: jax.numpy.asarray(x) for name, x in batch.items()}

    def place(x: np.ndarray) -> jax.Array:
        total = len(x) if rows is None else rows
        held = np.arange(total) if rows is None else own_rows(total)

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(total)
            first = int(np.searchsorted(held, start))
            return x[first : first + stop - start]

        return jax.make_array_from_callback((total, *x.shape[1:]), sharding(x.ndim), part)

    return {name: place(np.asarray(x)) for name, x in batch.items()}


def to_local(x: jax.Array) -> np.ndarray:
    """This process's rows, `own_rows`, of an array that is sharded over the batch axes."""
    if x.is_fully_addressable or x.is_fully_replicated:
        whole = np.asarray(x)
        return whole[own_rows(len(whole))] if axes.has_mesh() else whole
    parts = {shard.index[0].indices(len(x))[0]: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


@jax.jit
def _replicated(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.sharding.reshard(x, PartitionSpec()), tree)


def to_host(tree: Any) -> Any:
    """The whole arrays of a tree, on every host."""
    if all(x.is_fully_addressable or x.is_fully_replicated for x in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return jax.device_get(_replicated(tree))

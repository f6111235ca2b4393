"""Host arrays onto the mesh."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

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


def to_global(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows as global arrays, sharded over the batch axes."""
    if not axes.has_mesh():
        return {name: jax.numpy.asarray(x) for name, x in batch.items()}
    mesh = jax.sharding.get_mesh()

    def place(x: np.ndarray) -> Any:
        spec = axes.spec(" ".join(["batch", *["time"] * (x.ndim - 1)]))
        sharding = jax.sharding.NamedSharding(mesh, spec)
        return jax.make_array_from_process_local_data(sharding, x)

    return {name: place(np.asarray(x)) for name, x in batch.items()}

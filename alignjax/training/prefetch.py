"""Host batches built, and put on the devices, while the step before them runs."""

import concurrent.futures
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from alignjax.parallel import axes, hosts
from alignjax.parallel import mesh as meshes

HostBatch = Mapping[str, np.ndarray]


class Prefetch:
    """step -> host batch, as `batch_at` gives it; the next step's is built in a thread meanwhile.

    `placed` then gives the same batch on the devices. The order of batches is that of the steps
    asked for, so that nothing depends on the thread; an error of `batch_at` is raised where its
    step is asked for. Used as a context, which ends the thread.

    until: the step to stop before. rows: of a whole batch, as in `hosts.to_global`.
    """

    def __init__(self, batch_at: Callable[[int], HostBatch], until: int, rows: int | None):
        self._batch_at, self._until, self._rows = batch_at, until, rows
        self._mesh = jax.sharding.get_mesh() if axes.has_mesh() else None
        self._next: tuple[int, concurrent.futures.Future[Any]] | None = None
        self._placed: tuple[HostBatch, dict[str, jax.Array]] | None = None

    def __enter__(self) -> "Prefetch":
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "prefetch")
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __call__(self, step: int) -> HostBatch:
        """The host batch of a step."""
        if self._next is not None and self._next[0] == step:
            self._placed = self._next[1].result()
        else:
            self._placed = self._build(step)
        if step + 1 < self._until:
            self._next = (step + 1, self._pool.submit(self._build, step + 1))
        return self._placed[0]

    def _build(self, step: int) -> tuple[HostBatch, dict[str, jax.Array]]:
        batch = self._batch_at(step)
        with meshes.use(self._mesh):
            return batch, hosts.to_global(batch, self._rows)

    def placed(self, batch: HostBatch) -> dict[str, jax.Array]:
        """The arrays on the devices of the batch that was given last."""
        if self._placed is not None and self._placed[0] is batch:
            found, self._placed = self._placed[1], None
            return found
        return hosts.to_global(batch, self._rows)

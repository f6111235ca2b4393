"""Batches as a pure function of (seed, step)."""

from collections.abc import Mapping

import numpy as np

Table = Mapping[str, np.ndarray]


class Batches:
    """An endless shuffled stream over the rows of a table; batch k depends on (seed, k) alone.

    The stream is one permutation of the rows after another, seeded by (seed, epoch); batch k is its
    slice [k B, (k + 1) B). No row is dropped, and there is no position to save: the step
    number is the position.

    own: the slots, of the B of a batch, that this process builds; None is all. The stream itself is
    the same for every process.
    """

    def __init__(self, table: Table, *, batch_size: int, seed: int, own: np.ndarray | None = None):
        sizes = {name: len(column) for name, column in table.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"columns must have equal lengths; got {sizes} (data table).")
        self.rows = next(iter(sizes.values()))
        if self.rows == 0:
            raise ValueError("a data table must have rows; got none. Check the path and filters.")
        if batch_size < 1:
            raise ValueError(f"loop.batch_size must be >= 1; got {batch_size}.")
        self.table, self.batch_size, self.seed = dict(table), batch_size, seed
        self._own = np.arange(batch_size) if own is None else own
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed & 0xFFFFFFFF, 0x6F726465, epoch])
            self._epoch, self._order = epoch, rng.permutation(self.rows)
        return self._order

    def indices(self, step: int) -> np.ndarray:
        """Row numbers of this process's slots of batch `step`."""
        slots = step * self.batch_size + self._own
        epochs, offsets = np.divmod(slots, self.rows)
        rows = np.empty(len(slots), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._permutation(int(epoch))[offsets[here]]
        return rows

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Batch `step`: every column's rows, of this process's slots."""
        rows = self.indices(step)
        return {name: column[rows] for name, column in self.table.items()}


def in_order(table: Table, batch_size: int) -> "list[tuple[dict[str, np.ndarray], int]]":
    """(batch, real rows) covering every row once, in order.

    The last batch is filled up with copies of row 0 to the same shape, so nothing recompiles;
    callers count its first `real rows` only.
    """
    rows = len(next(iter(table.values())))
    result = []
    for start in range(0, rows, batch_size):
        index = np.arange(start, min(start + batch_size, rows))
        real = len(index)
        index = np.concatenate([index, np.zeros(batch_size - real, np.int64)])
        result.append(({name: column[index] for name, column in table.items()}, real))
    return result

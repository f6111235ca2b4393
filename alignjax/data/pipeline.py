"""Batches as a pure function of (seed, step)."""

from collections.abc import Iterator, Sequence

import numpy as np

from alignjax.data import order, tables


class Batches:
    """An endless shuffled stream over the rows of a table; batch k depends on (seed, k) alone.

    The stream is one permutation of the rows after another, seeded by (seed, epoch); batch k is its
    slice [k B, (k + 1) B). No row is dropped, and there is no position to save: the step
    number is the position.

    own: the slots, of the B of a batch, that this process builds; None is all. The stream itself is
    the same for every process, and a process reads its own rows alone.
    mixture: the (rows, weight) of the tables that the table joins, one after the other: the stream
    then takes rows of each by weight, see `order.Mixture`.
    """

    def __init__(
        self,
        table: tables.Table,
        *,
        batch_size: int,
        seed: int,
        own: np.ndarray | None = None,
        mixture: Sequence[tuple[int, float]] = (),
    ):
        self.rows = tables.count(table)
        if self.rows == 0:
            raise ValueError("a data table must have rows; got none. Check the path and filters.")
        if batch_size < 1:
            raise ValueError(f"loop.batch_size must be >= 1; got {batch_size}.")
        self.table, self.batch_size, self.seed = dict(table), batch_size, seed
        self._own = np.arange(batch_size) if own is None else own
        self._order = order.Order(self.rows, seed)
        self._mixture = None
        if mixture:
            sizes, weights = zip(*mixture, strict=True)
            if sum(sizes) != self.rows:
                raise ValueError(
                    f"the tables of a mixture must have the rows of the joined one, {self.rows}; "
                    f"got {sizes} (data)."
                )
            self._mixture = order.Mixture(sizes, weights, seed)
            self._starts = np.cumsum([0, *sizes[:-1]])

    @property
    def is_mixed(self) -> bool:
        """Whether rows come by weight, so that there are no epochs over all of them."""
        return self._mixture is not None

    def indices(self, step: int) -> np.ndarray:
        """Row numbers of this process's slots of batch `step`."""
        return self._rows(step, self._own)

    def whole(self, step: int) -> np.ndarray:
        """Row numbers of batch `step`, of all processes."""
        return self._rows(step, np.arange(self.batch_size))

    def _rows(self, step: int, own: np.ndarray) -> np.ndarray:
        slots = step * self.batch_size + own
        if self._mixture is None:
            return self._order.at(slots)
        which, rows = self._mixture.at(slots)
        return self._starts[which] + rows

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Batch `step`: every column's rows, of this process's slots."""
        return tables.take(self.table, self.indices(step))


def in_order(
    table: tables.Table, batch_size: int, skip: int = 0
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """(batch, real rows) covering every row once, in order, one batch at a time.

    The last batch is filled up with copies of row 0 to the same shape, so nothing recompiles;
    callers count its first `real rows` only. skip: batches that are left out at the start.
    """
    rows = len(next(iter(table.values())))
    for start in range(skip * batch_size, rows, batch_size):
        index = np.arange(start, min(start + batch_size, rows))
        real = len(index)
        index = np.concatenate([index, np.zeros(batch_size - real, np.int64)])
        yield tables.take(table, index), real

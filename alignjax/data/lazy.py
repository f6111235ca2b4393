"""Tables whose columns are read row by row: the same use as dictionaries of NumPy arrays."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.lib.mixins

from alignjax.data import tables

PORTION = 4096  # rows that are read at once where a whole column is asked for


class Shape(NamedTuple):
    """Shape of one row's entry in a column, and its dtype."""

    tail: tuple[int, ...]
    dtype: Any


class Source(Protocol):
    """Where lazy columns are read: columns by name, and a reader of rows."""

    @property
    def rows(self) -> int: ...
    @property
    def shapes(self) -> Mapping[str, Shape]: ...

    def read(self, rows: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of rows (int64 [B], any order, repeats allowed), each [B, ...]."""
        ...


class Column(numpy.lib.mixins.NDArrayOperatorsMixin):
    """A column [N, ...] of a source: indexed by rows it reads these alone.

    Arithmetic and `np.asarray` read all of it: for what has a number a row, not a row of tokens.
    """

    def __init__(self, source: Source, name: str):
        self.source, self.name = source, name
        own = source.shapes[name]
        self.shape, self.dtype = (source.rows, *own.tail), np.dtype(own.dtype)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        rows = np.arange(len(self))[first]
        if rest:  # entries of rows: [rows, answers], as the arrays' own indexing pairs them
            return self[np.unique(rows)][(np.searchsorted(np.unique(rows), rows), *rest)]
        found = self.source.read(np.atleast_1d(rows).ravel(), (self.name,))[self.name]
        return found.reshape((*np.shape(rows), *self.shape[1:]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = np.empty(self.shape, self.dtype)
        for start in range(0, len(self), PORTION):
            rows = np.arange(start, min(start + PORTION, len(self)))
            found[rows] = self.source.read(rows, (self.name,))[self.name]
        return found if dtype is None else found.astype(dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [np.asarray(x) if isinstance(x, Column) else x for x in inputs]
        return getattr(ufunc, method)(*arrays, **options)


def is_lazy(column: Any) -> bool:
    """Whether a column of a table is read by row."""
    return isinstance(column, Column)


def table_of(source: Source) -> dict[str, Any]:
    """The lazy columns of a source by name."""
    return {name: Column(source, name) for name in source.shapes}


class Joined:
    """The rows of several tables with the same columns, one table after the other."""

    def __init__(self, parts: Sequence[tables.Table]):
        self._parts = parts
        self._starts = np.cumsum([0, *(tables.count(part) for part in parts)])
        self.rows = int(self._starts[-1])
        first = parts[0]
        self.shapes = {name: Shape(tuple(x.shape[1:]), x.dtype) for name, x in first.items()}
        for part in parts[1:]:
            other = {name: Shape(tuple(x.shape[1:]), x.dtype) for name, x in part.items()}
            if other != self.shapes:
                raise ValueError(
                    "the tables of a mixture must have the same columns and lengths; got "
                    f"{self._words(self.shapes)}, and {self._words(other)} (data)."
                )

    @staticmethod
    def _words(shapes: Mapping[str, Shape]) -> str:
        return ", ".join(f"{n} {np.dtype(s.dtype).name} {list(s.tail)}" for n, s in shapes.items())

    def read(self, rows: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        which = np.searchsorted(self._starts, rows, "right") - 1
        found = {
            name: np.empty((len(rows), *self.shapes[name].tail), self.shapes[name].dtype)
            for name in names
        }
        for number in np.unique(which):
            here = np.flatnonzero(which == number)
            part = {name: self._parts[number][name] for name in names}
            for name, values in tables.take(part, rows[here] - self._starts[number]).items():
                found[name][here] = values
        return found

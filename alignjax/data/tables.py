"""The one batch contract: the columns of every kind of table, with axes, dtypes and units.

Corpora fill these tables, methods name the kind that they train on, the planner and the tests take
shapes from them. A table is {column: NumPy array}; its first axis counts rows.

Axes: N rows, T tokens of a row, P tokens of a prompt, K answers to a prompt, C comparisons of them,
L categories of labels.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

Table = dict[str, np.ndarray]  # or columns that are read row by row, see lazy.py


class Column(NamedTuple):
    """One array of a table.

    axes: letters of its dimensions, "N K T". unit: meaning and unit of its numbers. required:
    whether every table of the kind has it.
    """

    dtype: Any
    axes: str
    unit: str
    required: bool = True


class Sizes(NamedTuple):
    """Lengths of the axes of a table's rows: T, P, K, C and L."""

    length: int
    prompt_length: int
    answers: int = 2
    comparisons: int = 1
    categories: int = 1

    def of(self, letter: str) -> int:
        """The size of one axis; a number stands for itself."""
        if letter.isdigit():
            return int(letter)
        return {
            "T": self.length,
            "P": self.prompt_length,
            "K": self.answers,
            "C": self.comparisons,
            "L": self.categories,
        }[letter]


class Kind(NamedTuple):
    """A kind of table. extra: whether a table may have further columns [N, ...]."""

    name: str
    columns: Mapping[str, Column]
    extra: bool = False

    def shapes(
        self,
        rows: int,
        sizes: Sizes,
        more: Collection[str] = (),
        own: Mapping[str, Column] | None = None,
    ) -> dict[str, tuple[tuple[int, ...], Any]]:
        """{column: (shape, dtype)} of the required columns of so many rows.

        more: names of others. own: further columns, that the data describe themselves.
        """
        kept = {n: c for n, c in self.columns.items() if c.required or n in more}
        kept |= {n: c for n, c in (own or {}).items() if n in more and n not in self.columns}
        return {
            name: ((rows, *(sizes.of(axis) for axis in column.axes.split()[1:])), column.dtype)
            for name, column in kept.items()
        }


def _rows(axes: str) -> dict[str, Column]:
    """The columns of every kind of rows of tokens."""
    return {
        "tokens": Column(np.int32, axes, "token ids"),
        "loss_mask": Column(np.bool_, axes, "true where a token is a target"),
        "segments": Column(np.int32, axes, "number of the document in a packed row; 0 is padding"),
        "positions": Column(np.int32, axes, "tokens since the segment's first"),
    }


WEIGHT = Column(np.float32, "N", "weight of the row in the loss's mean", required=False)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("documents", _rows("N T")),
        Kind("demonstrations", _rows("N T")),
        Kind(
            "pairs",
            {
                **_rows("N K T"),
                "preferred": Column(
                    np.int32, "N C 2", "answers compared, the better first", required=False
                ),
                "pair_mask": Column(np.bool_, "N C", "true for real comparisons", required=False),
                "margin": Column(
                    np.float32, "N C", "reward of the better minus the worse", required=False
                ),
                "preference": Column(
                    np.float32, "N C", "probability that the better is better", required=False
                ),
                "ties": Column(
                    np.float32, "N C", "probability that the two are equally good", required=False
                ),
                "accuracies": Column(
                    np.float32, "N C", "how often the label's rater is right", required=False
                ),
                "group": Column(
                    np.int32, "N", "number of the group whose judgement it is", required=False
                ),
                "weight": WEIGHT,
                "demonstration": Column(
                    np.int32, "N", "number of the answer to imitate; -1: none", required=False
                ),
            },
            extra=True,
        ),
        Kind(
            "rankings",
            {
                **_rows("N K T"),
                "ranks": Column(
                    np.float32, "N K", "smaller is better; equal are tied; inf lost to all ranked"
                ),
                "answer_mask": Column(np.bool_, "N K", "true for real answers, false for padding"),
            },
            extra=True,
        ),
        Kind(
            "unpaired",
            {**_rows("N T"), "desirable": Column(np.bool_, "N", "whether the answer is wanted")},
            extra=True,
        ),
        Kind(
            "scored",
            {**_rows("N T"), "scores": Column(np.float32, "N", "score of the answer, its scale")},
            extra=True,
        ),
        Kind(
            "steps",
            {
                **_rows("N T"),
                "step_mask": Column(np.bool_, "N T", "true on the last token of a labelled step"),
                "step_labels": Column(np.float32, "N T", "1 right, 0 wrong, or a share between"),
            },
            extra=True,
        ),
        Kind(
            "labelled",
            {
                **_rows("N T"),
                "labels": Column(np.float32, "N L", "share of votes for a category; NaN: no label"),
                "weight": WEIGHT._replace(required=True),
            },
            extra=True,
        ),
        Kind(
            "prompts",
            {
                "prompts": Column(np.int32, "N P", "token ids, padded right"),
                "lengths": Column(np.int32, "N", "tokens of the prompt"),
                "index": Column(np.int32, "N", "the row's number in its split", required=False),
            },
            extra=True,
        ),
    )
}


def count(table: Mapping[str, Any]) -> int:
    """The rows of a table.

    Raises:
      ValueError: its columns have several lengths.
    """
    sizes = {name: len(column) for name, column in table.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"columns must have equal lengths; got {sizes} (data table).")
    return next(iter(sizes.values()))


def take(table: Mapping[str, Any], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of all columns; lazy columns of one source are read together."""
    sources: dict[int, list[str]] = {}
    for name, column in table.items():
        sources.setdefault(id(getattr(column, "source", column)), []).append(name)
    found: dict[str, np.ndarray] = {}
    for names in sources.values():
        first = table[names[0]]
        if not hasattr(first, "source"):
            found[names[0]] = first[rows]
            continue
        read = first.source.read(rows, [table[name].name for name in names])
        found |= {name: read[table[name].name] for name in names}
    return {name: found[name] for name in table}


def need(table: Table, names: Collection[str]) -> None:
    """Raises ValueError where the table lacks a column that a loss reads."""
    for name in names:
        if name not in table:
            raise ValueError(
                f"the table must have the column {name} for this loss; got {', '.join(table)} "
                "(data). Add it, or take a method or options that do not read it."
            )


def check(table: Table, name: str, own: Mapping[str, Column] | None = None) -> Table:
    """The table, after comparing it with its kind; own: further columns that the data describe.

    Raises:
      ValueError: a column is missing or not of the kind, or has another rank, size or dtype.
    """
    kind, sizes = KINDS[name], dict[str, int]()
    missing = [n for n, c in kind.columns.items() if c.required and n not in table]
    if missing:
        raise ValueError(
            f"a table of {name} must have the columns {', '.join(kind.columns)}; got "
            f"{', '.join(table) or 'none'} (data). Add {', '.join(missing)}."
        )
    for column_name, array in table.items():
        column = kind.columns.get(column_name)
        if column is None:
            if not kind.extra:
                raise ValueError(
                    f"a table of {name} must have no other columns than {', '.join(kind.columns)}; "
                    f"got {column_name} (data). Leave it out."
                )
            free = Column(array.dtype, "N" + " *" * (array.ndim - 1), "")
            column = (own or {}).get(column_name, free)
        _check_column(name, column_name, column, array, sizes)
    return table


def _check_column(
    name: str, column_name: str, column: Column, array: np.ndarray, sizes: dict[str, int]
) -> None:
    letters = column.axes.split()
    fits = array.ndim == len(letters) and array.dtype == np.dtype(column.dtype)
    for letter, size in zip(letters, array.shape, strict=False):
        if letter.isdigit():
            fits = fits and size == int(letter)
        elif letter != "*":
            fits = fits and sizes.setdefault(letter, size) == size
    if not fits:
        known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
        raise ValueError(
            f"column {column_name} of a table of {name} must be {np.dtype(column.dtype).name} "
            f"[{column.axes}]{f' with {known}' if known else ''}; got {array.dtype.name} "
            f"{list(array.shape)} (data)."
        )

"""Accuracy by method and number of samples, as a table of text and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.evals import estimate

Curves = Mapping[str, Mapping[int, estimate.Estimate]]


def sizes_of(curves: Curves) -> list[int]:
    """All numbers of samples, ascending."""
    return sorted({n for curve in curves.values() for n in curve})


def lines(curves: Curves) -> list[str]:
    """The table: a row for every number of samples, accuracy ± standard error by method."""
    names = list(curves)
    rows = [["n", *names]]
    for n in sizes_of(curves):
        cells = [curves[name].get(n) for name in names]
        rows.append([str(n), *("-" if c is None else f"{c.value:.3f} ± {c.se:.3f}" for c in cells)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]


def as_dict(curves: Curves) -> dict[str, dict[str, Any]]:
    """For JSON: {method: {n: value, se, n}}."""
    return {
        name: {str(n): value.as_dict() for n, value in curve.items()}
        for name, curve in curves.items()
    }


def sizes(text: str) -> list[int]:
    """Numbers of samples of "1,4,16", ascending, each once.

    Raises:
      ValueError: one is no whole number from 1 on, or all are 1: there is nothing to choose.
    """
    words: Sequence[str] = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) >= 1 for word in words):
        raise ValueError(
            f"--n must be whole numbers from 1 on, by commas; got {text!r:.60} (search). Write "
            "--n=1,4,16."
        )
    found = sorted({int(word) for word in words})
    if found == [1]:
        raise ValueError(
            "--n must have a number above 1: of one answer nothing is chosen; got 1 (search). "
            "Write --n=1,4,16."
        )
    return found

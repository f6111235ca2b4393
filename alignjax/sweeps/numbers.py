"""The numbers of a sweep's runs, read from what the runs themselves wrote."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from alignjax.core import untrusted
from alignjax.reporting import tables
from alignjax.sweeps import folder, record
from alignjax.training import metrics

LAST = 10  # rows of a log that the take "mean" joins

Values = Mapping[str, Mapping[str, Mapping[int, float]]]  # by arm, measure, seed


def read(cells: list[folder.Cell], own: record.Sweep) -> Values:
    """{arm: {measure: {seed: value}}} of the runs that have finished.

    Raises:
      ValueError: a run has no such number; those that it has are named.
    """
    values: dict[str, dict[str, dict[int, float]]] = {
        arm: {measure.name: {} for measure in own.measures} for arm in own.arms
    }
    for cell in cells:
        if cell.is_finished():
            for measure in own.measures:
                values[cell.arm][measure.name][cell.seed] = value(cell.folder, measure)
    return values


def value(run: pathlib.Path, measure: record.Measure) -> float:
    """One number of a run; nan where the run says so.

    Raises:
      ValueError: the run has none of that name.
    """
    if measure.row:
        return _of_row(run / folder.RESULTS, measure)
    values = series(run / measure.stage, measure.key)[1]
    if not len(values):
        file = run / measure.stage / metrics.FILE
        known = sorted({name for row in metrics.read(file) for name in row} - {"step"})
        raise ValueError(
            f"the measure {measure.name} must be a number of {file}; got {measure.key!r}, where "
            f"there is {', '.join(known) or 'nothing'}."
        )
    if measure.take in ("mean", "area"):
        return float((values[-LAST:] if measure.take == "mean" else values).mean())
    return float({"last": values[-1], "max": values.max(), "min": values.min()}[measure.take])


def series(run: pathlib.Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of a key of metrics.jsonl."""
    rows = [row for row in metrics.read(run / metrics.FILE) if key in row]
    return (
        np.array([row["step"] for row in rows]),
        np.array([tables.number(row[key]) for row in rows], np.float64),
    )


def _of_row(file: pathlib.Path, measure: record.Measure) -> float:
    rows: Any = untrusted.read_object(file, untrusted.RECORD).get("rows") or []
    chosen = [row for row in rows if measure.row in (row.get("label"), row.get("stage"))]
    if not chosen:
        names = ", ".join(str(row.get("label")) for row in rows)
        raise ValueError(
            f"the measure {measure.name} must be of a row of {file}; got {measure.row!r}, where "
            f"there is {names or 'nothing'}."
        )
    if measure.key not in chosen[0].get("metrics", {}):
        raise ValueError(
            f"the measure {measure.name} must be a number of the row {measure.row} of {file}; got "
            f"{measure.key!r}, where there is {', '.join(chosen[0].get('metrics', {}))}."
        )
    return tables.measure(chosen[0], measure.key)[0]

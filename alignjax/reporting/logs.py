"""Training runs side by side: the last, lowest and highest value of every number they log."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from alignjax.reporting import figures, tables
from alignjax.training import metrics


class Extent(NamedTuple):
    """Of a number of a run: its last value, and both extremes with the steps of the first such."""

    last: float
    step: int
    lowest: float
    lowest_step: int
    highest: float
    highest_step: int


def is_run(folder: pathlib.Path) -> bool:
    """Whether a folder holds the log of a training run."""
    return (folder / metrics.FILE).is_file()


def read(folder: pathlib.Path) -> dict[str, Extent]:
    """{number: its extent} of a run; numbers that were never finite are left out.

    Raises:
      ValueError: the folder has no log, or an empty one.
    """
    rows = metrics.read(folder / metrics.FILE) if is_run(folder) else []
    if not rows:
        raise ValueError(
            f"a run must have rows in {metrics.FILE}; got none in {folder} (compare). Name the "
            "folders of training runs, of a lifecycle those of its stages."
        )
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row if name != "step"):
        steps, values = figures.series(rows, name)
        known = [(x, int(step)) for step, x in zip(steps, values, strict=True) if math.isfinite(x)]
        if known:
            low, high = min(known, key=lambda pair: pair[0]), max(known, key=lambda pair: pair[0])
            found[name] = Extent(*known[-1], *low, *high)
    return found


def as_rows(runs: Sequence[tuple[str, dict[str, Extent]]]) -> list[dict[str, Any]]:
    """For JSON: an object for each number and run."""
    names = dict.fromkeys(name for _, own in runs for name in own)
    return [
        {"metric": name, "run": run, **own[name]._asdict()}
        for name in names
        for run, own in runs
        if name in own
    ]


def text(runs: Sequence[tuple[str, dict[str, Extent]]]) -> str:
    """An aligned table: a block for each number, a line for each run that logs it."""
    lines = [["", "last", "lowest", "highest"]]
    for name in dict.fromkeys(name for _, own in runs for name in own):
        lines.append([tables.line(name), "", "", ""])
        for run, own in runs:
            if name in own:
                e = own[name]
                low = f"{e.lowest:.5g} at {e.lowest_step}"
                high = f"{e.highest:.5g} at {e.highest_step}"
                lines.append([f"  {tables.line(run)}", f"{e.last:.5g} at {e.step}", low, high])
    return "\n".join(row.rstrip() for row in tables.side_by_side([*zip(*lines, strict=True)]))

"""metrics.jsonl, one row a step with every digit, and the same as TensorBoard files.

How fast a run was stands apart, in speed.jsonl: metrics are the same bytes whenever the same run is
done again, on whatever machine of the kind.
"""

import json
import math
import pathlib
from typing import Any

from alignjax.core import untrusted
from alignjax.training import trackers

FILE = "metrics.jsonl"
SPEED = "speed.jsonl"
SKIPPED = "skipped.jsonl"  # rows of the batches of skipped updates; absent without any


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a torn last line (a kill) is left out."""
    rows = []
    if path.exists():
        for number, line in untrusted.read_lines(path, untrusted.ROWS):
            try:
                rows.append(untrusted.parse_json(line, f"{path}, line {number}"))
            except untrusted.Refused:
                break
    return rows


class Writer:
    """Appends rows; what a killed run wrote past its checkpoint is taken back first."""

    def __init__(
        self, workdir: pathlib.Path, *, start: int, tracked: trackers.Tracked | None = None
    ):
        """start: the first step to come. tracked: who gets the numbers besides the files."""
        self._tracked = tracked
        workdir.mkdir(parents=True, exist_ok=True)
        self.path = workdir / FILE
        _mend(self.path, start)
        self._file = self.path.open("a")
        self._skipped = workdir / SKIPPED
        if self._skipped.exists():
            _mend(self._skipped, start)
        self._speed = (workdir / SPEED).open("a")
        self._board = _board(workdir, start)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row. Non-finite numbers stand as strings: JSON has no others."""
        plain = {k: v if math.isfinite(v) else repr(v) for k, v in values.items()}
        self._file.write(json.dumps({"step": step, **plain}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._tracked is not None:
            self._tracked.write(step, values)

    def write_skipped(self, step: int, rows: list[int]) -> None:
        """The rows of the training table that a step with skipped updates read."""
        with self._skipped.open("a") as file:
            file.write(json.dumps({"step": step, "rows": rows}) + "\n")

    def write_speed(self, step: int, rates: dict[str, float]) -> None:
        """One row of rates since the last one."""
        if not rates:
            return
        self._speed.write(json.dumps({"step": step, **rates}) + "\n")
        for name, value in rates.items():
            self._board.add_scalar(f"speed/{name}", value, step)
        if self._tracked is not None:
            self._tracked.write(step, {f"speed/{name}": value for name, value in rates.items()})

    def flush(self) -> None:
        """Everything written so far is in the files."""
        self._file.flush()
        self._speed.flush()

    def close(self) -> None:
        """Flushes and closes all files."""
        self._file.close()
        self._speed.close()
        self._board.close()


def _mend(path: pathlib.Path, start: int) -> None:
    """Keeps the rows of the steps before `start`."""
    kept = [row for row in read(path) if row["step"] < start]
    partial = path.with_suffix(".mending")
    partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
    partial.replace(path)


def _board(workdir: pathlib.Path, start: int) -> Any:
    import tensorboardX

    return tensorboardX.SummaryWriter(
        str(workdir / "tensorboard"), purge_step=start, write_to_disk=True
    )

"""metrics.jsonl, one row a step with every digit, and the same as TensorBoard files."""

import json
import math
import pathlib
from typing import Any

FILE = "metrics.jsonl"


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a torn last line (a kill) is left out."""
    rows = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


class Writer:
    """Appends rows; what a killed run wrote past its checkpoint is taken back first."""

    def __init__(self, workdir: pathlib.Path, *, start: int):
        workdir.mkdir(parents=True, exist_ok=True)
        self.path = workdir / FILE
        kept = [row for row in read(self.path) if row["step"] < start]
        partial = self.path.with_suffix(".mending")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self.path)
        self._file = self.path.open("a")
        self._board = _board(workdir, start)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row. Non-finite numbers stand as strings: JSON has no others."""
        plain = {k: v if math.isfinite(v) else repr(v) for k, v in values.items()}
        self._file.write(json.dumps({"step": step, **plain}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Everything written so far is in the files."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes both files."""
        self._file.close()
        self._board.close()


def _board(workdir: pathlib.Path, start: int) -> Any:
    import tensorboardX

    return tensorboardX.SummaryWriter(
        str(workdir / "tensorboard"), purge_step=start, write_to_disk=True
    )

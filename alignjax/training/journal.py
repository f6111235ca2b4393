"""samples.jsonl: completions that a method shows while it trains, a row each."""

import json
import pathlib
from typing import Any

from alignjax.parallel import processes
from alignjax.training import metrics

FILE = "samples.jsonl"


class Journal:
    """Appends a step's rows; what a killed run wrote from that step on is taken back first.

    Every process may call it; the first one writes.
    """

    def __init__(self, workdir: pathlib.Path):
        self._path, self._begun = workdir / FILE, False

    def __call__(self, step: int, rows: list[dict[str, Any]]) -> None:
        if not processes.is_first():
            return
        if not self._begun:
            kept = [row for row in metrics.read(self._path) if row["step"] < step]
            partial = self._path.with_suffix(".mending")
            partial.write_text(_lines(kept))
            partial.replace(self._path)
            self._begun = True
        with self._path.open("a") as file:
            file.write(_lines([{"step": step, **row} for row in rows]))


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

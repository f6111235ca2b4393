"""starts.jsonl: a row for every time that a run began or went on, by which command and with what.

Nothing is computed from it. Model cards and reports tell where numbers come from by it.
"""

import datetime
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import jax

from alignjax.data import corpus as corpora
from alignjax.parallel import processes
from alignjax.runs import experiment
from alignjax.training import checkpoint, metrics, schedules

FILE = "starts.jsonl"
PACKAGES = ("jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")
MOST_FILES = 20  # of the data that are named


def versions() -> dict[str, str]:
    """Python's version, and those of the packages that decide on a run's numbers."""
    import alignjax

    found = {"alignjax": alignjax.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found


def devices() -> str:
    """How many devices of which kind: "8 x TPU v5e"."""
    kinds = {device.device_kind for device in jax.devices()}
    return f"{jax.device_count()} x {', '.join(sorted(kinds))}"


def row(
    workdir: pathlib.Path,
    config: experiment.Experiment,
    corpus: corpora.Corpus,
    rows: int,
    command: str,
    change: schedules.Moved | None = None,
) -> dict[str, Any]:
    """A row of the file, for a run that begins or goes on in the folder now.

    rows: of the training table. command: as it was typed, "" where none was. change: how its
    learning-rate schedule has moved, if it has.
    """
    kind = config.algorithm.METHOD.table(config.algorithm)
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "step": processes.from_first(lambda: checkpoint.newest_name(workdir) or 0),
        "steps": config.loop.steps,
        "versions": versions(),
        "devices": devices(),
        "processes": processes.count(),
        "data": {
            "table": kind,
            "rows": rows,
            "files": files_of(config.data),
            "summary": list(corpus.summary),
        },
        **({} if change is None else {"moved": change._asdict()}),
    }


def files_of(data: corpora.DataConfig) -> list[dict[str, Any]]:
    """Names and bytes of the files of local data; without what data of another kind are made of."""
    found: dict[str, Any] = {}
    for name in data.where():
        place = getattr(data, name, "")
        if name == "tokenizer" or not isinstance(place, str) or not place:
            continue
        path = pathlib.Path(place)
        own = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in [file for file in own if file.is_file()][: MOST_FILES + 1]:
            label = str(file.relative_to(path.parent))
            found[label] = {"name": label, "bytes": file.stat().st_size}
    return list(found.values())


def add(workdir: pathlib.Path, entry: Mapping[str, Any]) -> None:
    """Appends a row; the first process does."""

    def write() -> None:
        with (workdir / FILE).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    processes.only_first(write)


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The rows, oldest first; [] of a run of an older release."""
    return [entry for entry in metrics.read(workdir / FILE) if isinstance(entry, dict)]

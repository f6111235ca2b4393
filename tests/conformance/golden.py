"""Goldens: what a pinned release of another code base computed, with its inputs.

A file of goldens is one `.npz`: a JSON index under "index" and the arrays that it names. Recorders
(record_*.py) write it in their own environment; the tests read it with numpy alone.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "goldens"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Golden:
    """One call of a reference.

    preset, method, options: the recipe that must agree, and the options to give it.
    inputs: its arrays. value: the reference's loss, or the array that it returns.
    gradients: d value / d input, for the inputs named in it; empty for what has none.
    difference: why the recipe differs on purpose; "" if it must agree.
    """

    preset: str
    method: str
    options: dict[str, Any]
    inputs: dict[str, np.ndarray]
    value: np.ndarray
    gradients: dict[str, np.ndarray]
    seed: int = 0
    difference: str = ""

    @property
    def name(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.preset}-{self.method}[{options}]"


def save(name: str, goldens: list[Golden], versions: dict[str, str]) -> pathlib.Path:
    """Writes goldens/NAME.npz: `versions` are those of the packages that computed them."""
    arrays: dict[str, np.ndarray] = {}
    index = []
    for number, golden in enumerate(goldens):
        entry = dataclasses.asdict(golden)
        for part in ("inputs", "gradients"):
            for key, x in entry[part].items():
                arrays[f"{number}/{part}/{key}"] = np.asarray(x)
            entry[part] = sorted(entry[part])
        arrays[f"{number}/value"] = np.asarray(entry.pop("value"))
        index.append(entry)
    text = json.dumps({"versions": versions, "goldens": index})
    file = FOLDER / f"{name}.npz"
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(file, index=np.array(text), **arrays)  # type: ignore[arg-type]
    return file


@functools.cache
def load(file: pathlib.Path) -> tuple[list[Golden], dict[str, str]]:
    """(goldens, versions) of a file."""
    with np.load(file) as data:
        index = json.loads(str(data["index"]))
        goldens = []
        for number, entry in enumerate(index["goldens"]):
            for part in ("inputs", "gradients"):
                entry[part] = {key: data[f"{number}/{part}/{key}"] for key in entry[part]}
            goldens.append(Golden(value=data[f"{number}/value"], **entry))
    return goldens, index["versions"]


def files() -> list[pathlib.Path]:
    return sorted(FOLDER.glob("*.npz"))


def groups() -> list[list[Golden]]:
    """All goldens, those that differ in their seed alone together."""
    by_name: dict[tuple[str, str], list[Golden]] = {}
    for file in files():
        for golden in load(file)[0]:
            by_name.setdefault((golden.name, golden.difference), []).append(golden)
    return list(by_name.values())

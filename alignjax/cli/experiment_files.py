"""The experiment files that AlignJAX brings: by name, with what each is and its variants."""

import ast
import os
import pathlib
import re
from typing import NamedTuple

from alignjax import experiments


class Described(NamedTuple):
    """An experiment file: its name, where it is, and what its docstring says."""

    name: str
    file: pathlib.Path
    line: str  # what it is
    hardware: str
    text: str  # the whole docstring


def names() -> list[str]:
    """The names of all experiment files."""
    return sorted(p.stem for p in experiments.FOLDER.glob("*.py") if p.stem != "__init__")


def locate(path: str) -> pathlib.Path:
    """The config file that is meant: the path where there is one, else the experiment NAME that it
    names, as NAME or experiments/NAME.py; else the path."""
    own = pathlib.Path(path)
    if os.path.isfile(own):  # as is_file(), without an error for a name that is too long
        return own
    name = own.stem if own.parent == pathlib.Path("experiments") and own.suffix == ".py" else path
    return experiments.FOLDER / f"{name}.py" if name in names() else own


def describe(name: str) -> Described:
    """What the experiment NAME says of itself.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in names():
        raise ValueError(
            f"the experiment must be one of {', '.join(names())}; got {name!r}. "
            "alignjax experiments lists them."
        )
    file = experiments.FOLDER / f"{name}.py"
    text = ast.get_docstring(ast.parse(file.read_bytes())) or ""
    found = re.search(r"^Hardware:\s*(.*(?:\n(?!\w+[\w ]*:).*)*)", text, re.MULTILINE)
    hardware = " ".join(found[1].split()) if found else ""
    return Described(name, file, text.partition("\n")[0], hardware, text)

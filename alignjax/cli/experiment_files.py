"""The experiment files that AlignJAX brings, by name."""

import os
import pathlib

from alignjax import experiments


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

"""Experiments by name: `alignjax.experiments.lifecycle` is the file experiments/lifecycle.py.

In a checkout the files stand in its folder experiments/; a wheel carries them in this one.
"""

import pathlib
from typing import TYPE_CHECKING

from alignjax.core import modules

_HERE = pathlib.Path(__file__).parent
FOLDER = _HERE if (_HERE / "common").is_dir() else _HERE.parents[1] / "experiments"
__path__ = [str(FOLDER)]

if not TYPE_CHECKING:
    __getattr__ = modules.at_first_use(__name__)

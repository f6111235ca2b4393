"""One small lifecycle, run once by the command line and read by many tests."""

import pathlib
from typing import NamedTuple

import pytest

from tests.commands import cli

MICRO = (
    "--config=experiments/lifecycle.py:micro",
    "--config.model.layers=1",
    "--config.model.unroll=1",
    "--config.dpo_betas=(1.0,)",
)


class Lifecycle(NamedTuple):
    folder: pathlib.Path
    printed: str
    options: tuple[str, ...]


@pytest.fixture(scope="session")
def micro(tmp_path_factory) -> Lifecycle:
    """Nobody writes into its folder but the command itself."""
    folder = tmp_path_factory.mktemp("lifecycle") / "run"
    printed = cli.run("run", *MICRO, f"--workdir={folder}")
    return Lifecycle(folder, printed, MICRO)

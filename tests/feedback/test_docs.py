"""The Python of docs/judgements.md runs as it stands."""

import pathlib

from tests.commands import cli

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "judgements.md"


def test_its_blocks_run_one_after_the_other(tmp_path):
    assert cli.run_blocks(DOCS, tmp_path) == 6

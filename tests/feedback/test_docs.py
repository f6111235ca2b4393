"""The Python of docs/judgements.md and docs/factuality.md runs as it stands."""

import pathlib

import pytest

from tests.commands import cli

DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("name", "blocks"), [("judgements", 6), ("factuality", 1)])
def test_its_blocks_run_one_after_the_other(name, blocks, tmp_path):
    assert cli.run_blocks(DOCS / f"{name}.md", tmp_path) == blocks

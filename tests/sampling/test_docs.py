"""The Python of docs/sampling.md runs as it stands."""

import dataclasses
import pathlib
import re
import subprocess
import sys

import pytest

from alignjax.sampling import transforms
from tests.commands import cli

DOCS = (pathlib.Path(__file__).parents[2] / "docs" / "sampling.md").read_text()


@pytest.mark.slow
def test_its_blocks_run_one_after_the_other(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    file = tmp_path / "sampling_docs.py"
    file.write_text("\n".join(blocks))
    found = subprocess.run(
        [sys.executable, str(file)], cwd=tmp_path, env=cli.environment(), text=True,
        capture_output=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]


def test_every_option_of_rows_and_chunks_is_named():
    options = [field.name for field in dataclasses.fields(transforms.RowOptions)]
    for name in (*options, "rungs", "slots", "chunk", "stop"):
        assert f"`{name}`" in DOCS, name

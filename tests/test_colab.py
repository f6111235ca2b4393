"""The notebooks run from top to bottom, and hold no outputs."""

import json
import pathlib

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
SECONDS = 110  # of one cell


def ids(file: pathlib.Path) -> str:
    return file.stem


@pytest.fixture
def cpu(monkeypatch):
    """As a reader has it: one CPU device."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=ids)
def test_notebook_runs(file, cpu):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if "Warning" in out.get("text", "")]
    assert sum("image/png" in out.get("data", {}) for out in outputs) >= 3


@pytest.mark.parametrize("file", NOTEBOOKS, ids=ids)
def test_notebook_is_stored_without_outputs(file):
    for cell in json.loads(file.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert all(len(line) <= 110 for line in cell["source"]), cell["source"]


def test_there_are_notebooks():
    assert [file.stem for file in NOTEBOOKS] == [
        "bring_your_flax_model",
        "compose_losses",
        "plan_a_slice",
    ]

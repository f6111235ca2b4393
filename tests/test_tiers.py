"""The table of dear tests names tests that exist."""

import ast
import pathlib

import pytest

from tests import tiers

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("table", ["QUICK", "CI"])
@pytest.mark.parametrize("file", sorted({*tiers.QUICK, *tiers.CI}))
def test_its_tests_exist(file, table):
    tree = ast.parse((ROOT / file).read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert set(getattr(tiers, table).get(file, ())) <= names

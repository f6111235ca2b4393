"""The table of dear tests names tests that exist."""

import ast
import pathlib

import pytest

from tests import tiers

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("file", tiers.QUICK)
def test_its_tests_exist(file):
    tree = ast.parse((ROOT / file).read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert set(tiers.QUICK[file]) <= names

"""The table of dear tests names tests that exist."""

import ast
import pathlib
import re

import pytest

from tests import faults, reliability, tiers

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("table", ["QUICK", "CI"])
@pytest.mark.parametrize("file", sorted({*tiers.QUICK, *tiers.CI}))
def test_its_tests_exist(file, table):
    tree = ast.parse((ROOT / file).read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert set(getattr(tiers, table).get(file, ())) <= names


@pytest.mark.parametrize("file", faults.FAULTS)
def test_tests_of_faults_exist(file):
    tree = ast.parse((ROOT / file).read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert faults.FAULTS[file].keys() <= names


def test_the_page_on_reliability_names_tests_that_exist_and_days():
    found = reliability.rows(reliability.PAGE.read_text())
    assert len(found) > 50
    assert len({row.promise for row in found}) == len(found)
    for row in found:
        tree = ast.parse((ROOT / row.file).read_text())
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert row.test in names, row
        assert re.fullmatch(r"(20\d\d-\d\d-\d\d: \d+ (passed|skipped).*)?", row.result), row
        assert "failed" not in row.result, row

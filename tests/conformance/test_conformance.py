"""Every recipe against what the code that it stands for computed."""

import pathlib

import pytest

from alignjax import compat
from tests.conformance import compare, golden, table

GROUPS = golden.groups()


def marked():
    """The first options of every method; all others are slow."""
    seen = set()
    for goldens in GROUPS:
        first = goldens[0]
        key = (first.preset, first.method, first.difference)
        yield pytest.param(goldens, marks=[pytest.mark.slow] if key in seen else [])
        seen.add(key)


@pytest.mark.parametrize("goldens", list(marked()), ids=lambda goldens: goldens[0].name)
def test_recipe_agrees_with_the_reference(goldens):
    result = compare.errors(goldens)
    if goldens[0].difference:
        assert not result.agrees, "a named difference is gone: say so in the recorder"
    else:
        assert result.agrees, result


def test_every_recipe_of_a_release_is_compared():
    compared = {(goldens[0].preset, goldens[0].method) for goldens in GROUPS}
    wanted = {(p, m) for p, recipes in compat.PRESETS.items() if p != "paper" for m in recipes}
    assert wanted == compared


def test_the_table_is_up_to_date():
    """All but the measured errors, which depend on the machine's rounding."""
    written = pathlib.Path(table.FILE).read_text()
    assert table.without_errors(written) == table.without_errors(table.page(measure=False))

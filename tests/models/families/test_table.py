"""docs/models.md is what the goldens say."""

import re

from alignjax.models.checkpoints import folder
from alignjax.models.checkpoints.families import COMPOSITES
from tests.models.families import table


def test_the_page_is_up_to_date():
    """Its rows; the digits may differ from machine to machine."""
    written = table.without_errors(table.FILE.read_text())
    assert written == table.without_errors(table.page(measure=False))


def test_every_family_has_a_row_and_every_row_its_errors():
    text = table.FILE.read_text()
    rows = re.findall(
        r"^\| (\w+) \| .* \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", text, re.MULTILINE
    )
    rows = [row for row in rows if row[0] != "family"]
    assert {row[0] for row in rows} == {*folder.FAMILIES, *COMPOSITES}
    for family, *logits, gradients in rows:
        assert max(map(float, logits)) <= 1e-4, family
        assert float(gradients) <= 1e-3, family

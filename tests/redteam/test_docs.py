"""The Python of docs/red_team.md runs as it stands, and its tables name what there is."""

import pathlib
import re

from alignjax.commands import attack
from alignjax.redteam import catalogue, transforms

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "red_team.md").read_text()


def test_its_python_runs():
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    exec(compile(block, "docs/red_team.md", "exec"), {})


def test_it_names_every_attack_option_and_held_out_transform():
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert rows == {*catalogue.ATTACKS, catalogue.GCG}
    options = {option.name for option in attack.OPTIONS}
    assert set(re.findall(r"--(\w+)", PAGE)) <= options
    for one in transforms.HELD_OUT:
        assert one.name in PAGE

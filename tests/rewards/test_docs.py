"""The Python of docs/rewards.md runs as it stands."""

import pathlib
import re
import subprocess
import sys

from alignjax.rewards import rules
from tests.commands import cli

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "rewards.md"


def test_its_blocks_run_one_after_the_other(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    file = tmp_path / "rewards_docs.py"
    file.write_text("\n".join(blocks))
    found = subprocess.run(
        [sys.executable, str(file)], cwd=tmp_path, env=cli.environment(), text=True,
        capture_output=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]


def test_every_shipped_rule_is_in_its_table():
    from alignjax.rewards import code, functions, maths

    abstract = {"AnswerConfig", "PooledConfig", "RuleConfig"}
    for module in (rules, maths, code, functions):
        short = module.__name__.rpartition(".")[2]
        for name, kind in vars(module).items():
            own = isinstance(kind, type) and kind.__module__ == module.__name__
            if own and issubclass(kind, rules.RuleConfig) and name not in abstract:
                assert f"`{short}.{name}" in DOCS.read_text(), name

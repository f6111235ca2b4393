"""The Python of docs/rewards.md runs as it stands."""

import pathlib

from alignjax.rewards import rules
from tests.commands import cli

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "rewards.md"


def test_its_blocks_run_one_after_the_other(tmp_path):
    assert cli.run_blocks(DOCS, tmp_path) == 5


def test_every_shipped_rule_is_in_its_table():
    from alignjax.rewards import code, functions, judged, maths

    abstract = {"AnswerConfig", "PooledConfig", "RuleConfig"}
    for module in (rules, maths, code, functions, judged):
        short = module.__name__.rpartition(".")[2]
        for name, kind in vars(module).items():
            own = isinstance(kind, type) and kind.__module__ == module.__name__
            if own and issubclass(kind, rules.RuleConfig) and name not in abstract:
                assert f"`{short}.{name}" in DOCS.read_text(), name

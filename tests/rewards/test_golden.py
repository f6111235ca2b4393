"""Every rule on its golden table of 200 rows, and what wrong rules would say of them.

The tables are written by tests/rewards/golden, from what is known of a text before it is written;
code and mathematics are slow but for some of their rows.
"""

import importlib.util
import json
import re

import numpy as np
import pytest

from alignjax.rewards import answers, code, combine, maths, rules
from tests.rewards.golden import write

KINDS = {
    "boxed": rules.Boxed,
    "code": code.Code,
    "exact_number": rules.ExactNumber,
    "format": rules.Format,
    "last_number": rules.LastNumber,
    "length": rules.Length,
    "math_verify": maths.MathVerify,
    "repetition": rules.Repetition,
    "soft_overlong": rules.SoftOverlong,
}
ROWS = 200
needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)


def table(name: str) -> list[dict]:
    return [json.loads(line) for line in (write.FOLDER / f"{name}.jsonl").open()]


def disagreements(name: str, rows: list[dict]) -> list[str]:
    """Rows to which the rule gives another score than the table."""
    by_options: dict[str, list[dict]] = {}
    for row in rows:
        by_options.setdefault(json.dumps(row["options"], sort_keys=True), []).append(row)
    wrong = []
    for options, own in by_options.items():
        rule = KINDS[name](**json.loads(options))
        score = combine.combined({"rule": rule}, allow_code=True)
        scores = score([row["text"] for row in own], [row["task"] for row in own])
        assert scores.reward.dtype == np.float32
        wrong += scores.problems
        for row, got in zip(own, scores.reward, strict=True):
            wanted = np.float32(np.nan if row["expected"] is None else row["expected"])
            if not np.isclose(got, wanted, rtol=1e-6, atol=1e-7, equal_nan=True):
                wrong.append(f"{row['family']}: {got}, not {wanted}: {row['text']!r} {row['task']}")
    return wrong


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"code", "math_verify"}))
def test_no_row_disagrees(name):
    rows = table(name)
    assert len(rows) == ROWS
    assert not disagreements(name, rows)


@needs_math_verify
def test_some_mathematics_is_judged_as_written():
    rows = table("math_verify")
    assert len(rows) == ROWS
    assert not disagreements("math_verify", rows[::5])


@needs_math_verify
@pytest.mark.slow
def test_no_row_of_mathematics_disagrees():
    assert not disagreements("math_verify", table("math_verify"))


def test_some_programs_are_judged_as_written():
    rows = table("code")
    assert len(rows) == ROWS
    assert not disagreements("code", rows[::12])


@pytest.mark.slow
def test_no_program_is_judged_wrongly():
    assert not disagreements("code", table("code"))


@pytest.mark.parametrize("name", sorted(KINDS))
def test_tables_are_as_they_are_written_and_no_row_comes_twice(name):
    text = (write.FOLDER / f"{name}.jsonl").read_text()
    assert write.lines(name) == text
    assert len(set(text.splitlines())) == ROWS
    assert set(write.TABLES) == set(KINDS)


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"code"}))
def test_tables_hold_right_and_wrong_answers(name):
    expected = [row["expected"] for row in table(name)]
    common = max(expected.count(value) for value in set(expected))
    assert common <= 0.8 * ROWS


MUTANTS = {
    # what is broken: (table, owner, attribute, what stands there instead)
    "full width and minus signs are not read": ("last_number", answers, "_MARKS", {}),
    "letters before digits": ("last_number", answers, "_START", re.compile(r"(?=[0-9]|\.[0-9])")),
    "no sign": ("last_number", answers, "_SIGN", re.compile("(?P<sign>!)(?P<after>!)")),
    "no powers of ten": ("last_number", answers, "_EXPONENT", re.compile("(?!)")),
    "no slash": ("exact_number", answers, "_SLASH", re.compile("(?!)")),
    "no units": ("exact_number", answers, "_UNIT", re.compile("")),
    "no spellings": ("boxed", answers, "_BRACES", ()),
    "nothing goes": ("boxed", answers, "_ERASED", re.compile("(?!)")),
    "the first box": (
        "boxed", answers, "boxed",
        lambda text: (re.findall(r"\\boxed\{(.*?)\}", text) or [None])[0],
    ),
    "the dot stops at line breaks": ("format", re, "DOTALL", re.NOFLAG),
    "code is found in any fence": (
        "code", code, "_BLOCK", re.compile("```.*?\n(.*?)```", re.DOTALL),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_broken_rule_disagrees(name, monkeypatch):
    table_name, owner, attribute, broken = MUTANTS[name]
    rows = [row for row in table(table_name) if table_name != "code" or row["family"] == "block"]
    assert not disagreements(table_name, rows)
    monkeypatch.setattr(owner, attribute, broken)
    assert disagreements(table_name, rows)

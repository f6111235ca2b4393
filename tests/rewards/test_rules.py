"""Options of rules, what they need, their records, and what hostile texts cost."""

import dataclasses
import json
import pathlib
import re
import time
from fractions import Fraction

import numpy as np
import pytest

from alignjax.rewards import answers, code, functions, maths, rules
from alignjax.runs import records

GOLDEN = pathlib.Path(__file__).with_name("golden")
NAN = float("nan")


@dataclasses.dataclass(kw_only=True)
class Polite(rules.RuleConfig):
    """1 if a text says please."""

    words: tuple[str, ...] = ("please",)

    def score(self, texts, tasks):
        found = [any(word in text.lower() for word in self.words) for text in texts]
        return np.asarray(found, np.float32)


WRONG = [
    (rules.RuleConfig(weight=NAN), "RuleConfig.weight must be finite; got nan"),
    (
        rules.ExactNumber(take="first"),
        "ExactNumber.take must be one of last, boxed, marked, whole; got 'first'",
    ),
    (rules.ExactNumber(take="boxd"), "Did you mean 'boxed'?"),
    (
        rules.ExactNumber(take="marked", marker=""),
        "ExactNumber.marker must not be empty where take is marked; got ''",
    ),
    (
        rules.LastNumber(take="boxed"),
        "LastNumber.take must be last; got 'boxed'. Use ExactNumber for another",
    ),
    (
        rules.Format(pattern="(a"),
        "Format.pattern must be a regular expression; got '(a': missing ), unterminated",
    ),
    (rules.Length(target=10, slope=0.0), "Length.slope must be finite and > 0; got 0.0"),
    (
        rules.Length(),
        "must have a target > 0 or a column with it, and not both; got target 0 and column ''",
    ),
    (rules.Length(target=5, column="n"), "got target 5 and column 'n'. Set one of them"),
    (rules.Length(target=-5, column="n"), "got target -5 and column 'n'"),
    (rules.Repetition(size=0), "Repetition.size must be finite and >= 1; got 0"),
    (rules.SoftOverlong(buffer=0), "SoftOverlong.buffer must be finite and >= 1; got 0"),
    (rules.SoftOverlong(limit=-1), "SoftOverlong.limit must be finite and >= 0; got -1"),
    (
        rules.SoftOverlong(limit=10, buffer=11),
        "SoftOverlong.buffer must be <= the limit of 10 tokens; got 11",
    ),
    (code.Code(timeout_s=0), "Code.timeout_s must be finite and > 0; got 0"),
    (code.Code(memory_mib=64), "Code.memory_mib must be finite and >= 128; got 64"),
    (maths.MathVerify(timeout_s=0), "MathVerify.timeout_s must be finite and > 0; got 0"),
    (
        functions.Function(path="x.py:f", timeout_s=-1.0),
        "Function.timeout_s must be finite and > 0; got -1.0",
    ),
    (
        functions.Function(),
        "Function.path must be FILE.py:name; got ''. Name a file and a function in it",
    ),
    (functions.Function(path="x.py"), "Function.path must be FILE.py:name; got 'x.py'"),
    (functions.Function(path="x.py:1"), "Function.path must be FILE.py:name; got 'x.py:1'"),
    (
        functions.Function(path="nothing.py:f"),
        "Function.path must name a file; got nothing at nothing.py",
    ),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_options_are_one_line(number):
    rule, message = WRONG[number]
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        rule.validate()
    assert "\n" not in str(caught.value)


def test_defaults_are_legal():
    for rule in (rules.ExactNumber(), rules.LastNumber(), rules.Boxed(), rules.Format(),
                 rules.Length(target=100), rules.Repetition(), rules.SoftOverlong(), code.Code(),
                 Polite()):  # fmt: skip
        rule.validate()
        assert rule.weight == 1.0


@pytest.mark.parametrize(
    ("rule", "columns"),
    [
        (rules.RuleConfig(), ()),
        (rules.ExactNumber(answer="gold"), ("gold",)),
        (rules.Boxed(), ("answer",)),
        (rules.Format(), ()),
        (rules.Length(target=10), (rules.TOKENS,)),
        (rules.Length(column="budget"), (rules.TOKENS, "budget")),
        (rules.SoftOverlong(), (rules.TOKENS, rules.LIMIT)),
        (rules.SoftOverlong(limit=1000), (rules.TOKENS,)),
        (maths.MathVerify(), ("answer",)),
        (code.Code(tests="cases"), ("cases",)),
        (functions.Function(path="a.py:f", columns=("a", "b")), ("a", "b")),
    ],
)
def test_needs(rule, columns):
    assert rule.needs() == columns


def test_rules_outlive_their_process_as_records():
    given = {
        "correct": rules.ExactNumber(take="boxed", weight=2.0),
        "polite": Polite(words=("please", "thanks"), weight=0.1),
        "long": rules.SoftOverlong(buffer=16),
        "code": code.Code(share=True),
        "own": functions.Function(path="x.py:f", columns=("a",)),
    }
    written = json.loads(json.dumps(records.encode(given)))
    notes = []
    assert records.decode(written, dict[str, rules.RuleConfig], notes.append) == given
    assert not notes


def test_a_base_rule_scores_nothing():
    with pytest.raises(NotImplementedError):
        rules.RuleConfig().score(["a"], [{}])
    assert rules.RuleConfig().check_answers([{}, {}]).tolist() == [False, False]
    with pytest.raises(
        TypeError, match="Code must be scored in worker processes; got a call of its score"
    ):
        code.Code().score(["a"], [{}])


def test_a_missing_column_is_told():
    with pytest.raises(
        ValueError,
        match="rows must have the column 'answer' that a rule reads; got prompt, solution",
    ):
        rules.Boxed().score(["\\boxed{1}"], [{"solution": "1", "prompt": "?"}])
    with pytest.raises(ValueError, match=r"got no columns\. Name another column in the rule"):
        rules.SoftOverlong().score(["a"], [{}])


def test_a_buffer_above_the_callers_limit_is_told():
    with pytest.raises(
        ValueError, match=r"SoftOverlong\.buffer must be <= the limit of 100 tokens; got 512"
    ):
        rules.SoftOverlong().score(["a"], [{rules.TOKENS: 1, rules.LIMIT: 100}])


def test_unreadable_answers_are_found():
    tasks = [{"answer": value} for value in ("5", 7, "#### 8", "none", None, True, "1 or 2", 2.5)]
    assert rules.LastNumber().check_answers(tasks).tolist() == [False] * 3 + [True] * 4 + [False]
    assert rules.Boxed().check_answers(tasks).tolist() == [False] * 4 + [True] * 2 + [False] * 2


def test_scores_are_float32_and_empty_batches_are_empty():
    task = {"answer": "5", rules.TOKENS: 5, rules.LIMIT: 1000}
    for rule in (rules.ExactNumber(), rules.Boxed(), rules.Format(), rules.Length(target=3),
                 rules.Repetition(), rules.SoftOverlong()):  # fmt: skip
        assert rule.score(["5"], [task]).dtype == np.float32
        assert rule.score(["5"] * 3, [task] * 3).shape == (3,)
        assert rule.score([], []).shape == (0,)


HOSTILE = {
    "digits": "9" * 200_000,
    "exponents": "1e9 1e99 1e999 1e9999 " * 5_000,
    "fractions": "1/" * 100_000,
    "frac": "\\frac{" * 50_000,
    "frac digits": "\\frac12" * 20_000,
    "groups": "1," * 100_000,
    "thousands": ",000" * 50_000,
    "signs": "-" * 200_000,
    "braces": "\\boxed{" + "{" * 200_000,
    "boxes": "\\boxed{1}" * 30_000,
    "unit": "\\boxed{5 " + "a." * 100_000 + "}",
    "stops": "\\boxed{5 a" + "." * 100_000 + "\0}",
    "dollars": "\\boxed{" + "$" * 100_000 + "}",
    "blanks": "5" + " " * 200_000 + "x",
    "stars": "\\boxed{" + "*" * 50_000 + "5" + "*" * 50_000 + "}",
    "text": "\\boxed{" + "\\text{" * 20_000 + "}" * 20_001,
    "tags": "<think>" * 30_000,
    "words": "a " * 100_000,
    "marks": "####" * 50_000,
    "powers": "10^" * 60_000,
    "mixed": "1 1/2 " * 20_000,
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_text_is_scored_in_no_time(name):
    """Rules without a deadline must not have texts of 200,000 characters that take them long."""
    text, task = HOSTILE[name], {"answer": "5", rules.TOKENS: 5, rules.LIMIT: 1000}
    begun = time.process_time()
    takes = [rules.ExactNumber(take=take) for take in rules.TAKES]
    for rule in (*takes, rules.Boxed(), rules.Format(), rules.Repetition()):
        assert np.isfinite(rule.score([text], [task])).all()
    assert time.process_time() - begun < 20  # seconds; a backtracking pattern takes hours


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.50", Fraction(2469, 2)), ("\\frac{-3}{4}", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("1 3/2", None), ("3/0", None), ("", None), ("x", None), ("9" * 401, None), ("1e401", None),
        ("5 " + "a" * 2000, None),
    ],
)  # fmt: skip
def test_numbers_by_hand(text, value):
    assert answers.number(text) == value


def test_the_last_number_of_a_long_text_is_that_of_all_of_it():
    """Only its end is read, wherever a blank divides it."""
    rows = [json.loads(line) for line in (GOLDEN / "last_number.jsonl").open()]
    ends = [row["text"] for row in rows[::8]]
    before = "word 12, (x-3) \\frac{1}{2} and 1/2 "
    for number, end in enumerate(ends):
        text = before * (150 + number % 7) + end
        assert answers.last_number(text) == answers._last(text)
    assert answers.last_number("5" + " x" * 5000) == 5
    assert answers.last_number("5 " + "H2O " * 5000) == 5

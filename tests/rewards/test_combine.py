"""Weighted mixes: values, NaN and failures by row; what is told before a run."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest

from alignjax.rewards import code, combine, functions, maths, pool, rules

OWN = pathlib.Path(__file__).with_name("own_rules.py")
TASKS = [{"answer": value} for value in (1, 2, 3, 4)]


def own(name: str, **options) -> functions.Function:
    return functions.Function(path=f"{OWN}:{name}", **options)


@dataclasses.dataclass(kw_only=True)
class Table(rules.RuleConfig):
    """The scores of a table, or an exception."""

    scores: dict = dataclasses.field(default_factory=dict)

    def score(self, texts, tasks):
        found = [self.scores[text] for text in texts]
        failed = [score for score in found if isinstance(score, Exception)]
        if failed:
            raise failed[0]
        return np.asarray(found, np.float32)


def test_the_reward_is_the_weighted_sum_of_parts():
    given = {
        "a": Table(scores={"x": 1.0, "y": 0.5}),
        "b": Table(scores={"x": 2.0, "y": -1.0}, weight=0.25),
        "c": Table(scores={"x": 1.0, "y": 1.0}, weight=-1.0),
    }
    scores = combine.combined(given)(["x", "y", "x"], TASKS[:3])
    assert scores.reward.tolist() == [0.5, -0.75, 0.5]
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "a": [1.0, 0.5, 1.0], "b": [2.0, -1.0, 2.0], "c": [1.0, 1.0, 1.0],
    }  # fmt: skip
    assert scores.failed.tolist() == [False] * 3
    assert scores.problems == []
    assert scores.reward.dtype == np.float32
    assert all(part.dtype == np.float32 for part in scores.parts.values())


def test_parts_of_one_rule_are_named_and_weighted_alike():
    tasks = [{"answer": "ab"}, {"answer": None}, {"answer": "x"}]
    scores = combine.combined({"own": own("parts", weight=2.0)})(["ab", "cde", "f"], tasks)
    assert set(scores.parts) == {"own", "own/length", "own/right"}
    np.testing.assert_array_equal(scores.parts["own"], [3.0, np.nan, 1.0])
    assert scores.parts["own/length"].tolist() == [2.0, 3.0, 1.0]
    np.testing.assert_array_equal(scores.parts["own/right"], [1.0, np.nan, 0.0])
    np.testing.assert_array_equal(scores.reward, [6.0, np.nan, 2.0])
    assert not scores.failed.any()


@pytest.mark.parametrize("isolated", [False, True])
def test_parts_keep_their_names_where_all_rows_fail(isolated):
    """Processes gather them by name, and on one of them all rows may fail."""
    score = combine.combined({"own": own("picky", isolated=isolated)})
    assert set(score(["ab", "no"], [{}] * 2).parts) == {"own", "own/a", "own/b"}
    scores = score(["no", "no"], [{}] * 2)
    assert set(scores.parts) == {"own", "own/a", "own/b"}
    assert scores.failed.all()
    assert np.isnan(scores.reward).all()
    with pytest.raises(
        ValueError, match="must return the same parts for all texts; got a, c after a"
    ):
        score(["other"], [{}])


def test_a_nan_part_takes_the_row_out_and_no_other():
    given = {"a": Table(scores={"x": 1.0, "y": np.nan}), "b": Table(scores={"x": 1.0, "y": 1.0})}
    scores = combine.combined(given)(["x", "y"], TASKS[:2])
    np.testing.assert_array_equal(scores.reward, [2.0, np.nan])
    np.testing.assert_array_equal(scores.parts["b"], [1.0, 1.0])
    assert not scores.failed.any()


@pytest.mark.parametrize("bad", [[0], [3], [1, 4], [0, 1, 2, 3, 4, 5, 6], []])
def test_an_exception_concerns_its_own_rows(bad):
    texts = [f"t{i}" for i in range(7)]
    table = {text: RuntimeError(f"no {text}\nat all") if i in bad else float(i)
             for i, text in enumerate(texts)}  # fmt: skip
    scores = combine.combined({"a": Table(scores=table)})(texts, [{}] * 7)
    wanted = [np.nan if i in bad else float(i) for i in range(7)]
    np.testing.assert_array_equal(scores.reward, wanted)
    np.testing.assert_array_equal(scores.parts["a"], wanted)
    assert np.flatnonzero(scores.failed).tolist() == bad
    assert scores.problems == [f"a: RuntimeError: no t{i} (row {i}, text 't{i}')" for i in bad[:3]]


def test_an_infinite_score_is_a_failure():
    scores = combine.combined({"own": own("infinite")})(["a", "b"], TASKS[:2])
    np.testing.assert_array_equal(scores.reward, [1.0, np.nan])
    assert scores.failed.tolist() == [False, True]
    assert scores.problems == ["own: it must return finite scores; got inf (row 1, text 'b')"]


def test_no_rows_are_no_scores():
    scores = combine.combined({"a": rules.Format(), "b": own("vowels", isolated=True)})([], [])
    assert scores.reward.shape == scores.failed.shape == (0,)


def test_texts_need_a_row_each():
    with pytest.raises(ValueError, match="texts must have a row each; got 2 texts and 1 rows"):
        combine.combined({"a": rules.Format()})(["a", "b"], [{}])


WRONG_RETURNS = {
    "shorter": r"the rule own must return one score for each text, \[4\]; got shape \[2\]",
    "words": "the rule own must return numbers; got",
    "table": r"the rule own must return one score for each text, \[4\]; got shape \[4, 2\]",
    "nothing": "the rule own must return scores; got none",
}


@pytest.mark.parametrize("name", WRONG_RETURNS)
def test_what_is_no_score_for_each_text_is_told(name):
    with pytest.raises(ValueError, match=WRONG_RETURNS[name]) as caught:
        combine.combined({"own": own(name)})(["a", "b", "c", "d"], TASKS)
    assert "\n" not in str(caught.value)


class NoRule:
    pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a reward must have at least one rule; got none"),
        ({"a": NoRule()}, "a rule must be a RuleConfig with a name without '/'; got 'a': NoRule"),
        ({"a/b": rules.Format()}, "without '/'; got 'a/b': Format"),
        ({"": rules.Format()}, "without '/'; got '': Format"),
        ({"a": rules.ExactNumber(take="no")}, "ExactNumber.take must be one of"),
        ({"a": rules.Format(weight=0.0)}, "must have a weight other than 0; got none (a)"),
        ({"tests": code.Code()}, "must be allowed; got tests: Code without --allow_code"),
    ],
)  # fmt: skip
def test_wrong_rules_are_told_before_anything_runs(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        combine.combined(given)


def test_programs_run_once_they_are_allowed():
    combine.check({"tests": code.Code()}, allow_code=True)


def test_missing_columns_name_what_there_is():
    with pytest.raises(
        ValueError,
        match=r"the column 'answer' that the rule maths reads; got prompt, gold \(row 1\)",
    ):
        combine.check_tasks(
            {"maths": rules.Boxed()}, [{"answer": "1"}, {"prompt": "?", "gold": "1"}]
        )
    # What the caller fills in is no column of the data.
    assert not combine.check_tasks({"long": rules.SoftOverlong()}, [{"answer": "1"}]).any()
    with pytest.raises(ValueError, match="rules must have rows to score; got none"):
        combine.check_tasks({"long": rules.SoftOverlong()}, [])


def test_a_few_unreadable_answers_are_dropped_and_many_are_an_error():
    tasks = [{"answer": str(i)} for i in range(300)]
    tasks[7] = {"answer": "seven"}
    tasks[9] = {"answer": None}
    given = {"a": rules.LastNumber(), "b": rules.Boxed(weight=0.5)}
    assert np.flatnonzero(combine.check_tasks(given, tasks)).tolist() == [7, 9]
    tasks[11] = tasks[13] = {"answer": "x y"}
    with pytest.raises(
        ValueError,
        match=r"the rule a must be able to read the answers of 99 % of rows; got 4 of 300 that it "
        r"can't, the first \{'answer': 'seven'\} \(row 7\)",
    ):
        combine.check_tasks(given, tasks)


def probe(given, tasks=TASKS, **options):
    combine.probe(given, tasks, combine.combined(given, allow_code=True), **options)


def test_honest_rules_pass_the_probe():
    probe({"n": rules.LastNumber(), "f": rules.Format(), "l": rules.Length(target=9),
           "r": rules.Repetition(), "o": rules.SoftOverlong(), "b": rules.Boxed(),
           "v": own("vowels"), "p": own("parts")})  # fmt: skip
    probe({"strict": own("strict")})  # it fails on some texts, as it may at any time


@pytest.mark.parametrize("name", ["neighbours", "first_task"])
def test_a_rule_that_looks_at_other_rows_is_told(name):
    with pytest.raises(
        ValueError, match="the rule own must score every row by itself, and the same row alike; got"
    ):
        probe({"own": own(name)}, [{"answer": 7}, {"answer": 12}])


def test_a_rule_that_fails_on_every_text_is_told():
    with pytest.raises(ValueError, match="all of 9 tries failed: own: KeyError: 'answer'"):
        probe({"own": own("always_fails")})
    with pytest.raises(ValueError, match=r"SoftOverlong\.buffer must be <= the limit of 100"):
        probe({"long": rules.SoftOverlong(buffer=512)}, limit=100)


def test_a_rule_that_gets_its_own_example_wrong_is_told(monkeypatch):
    monkeypatch.setattr(
        rules.Boxed, "examples", lambda self: [("\\boxed{1}", {"answer": "2"}, 1.0)]
    )
    with pytest.raises(
        ValueError, match="the rule b must give its own example 1 on this machine; got 0"
    ):
        probe({"b": rules.Boxed()})


def test_one_pool_serves_all_rules(monkeypatch):
    given = {"a": own("vowels", isolated=True), "b": own("parts", isolated=True)}
    scores = combine.combined(given)(["aei", "xy"], [{"answer": "aei"}, {"answer": None}])
    np.testing.assert_array_equal(scores.reward, [3.0 + 3.0 + 1.0, np.nan])
    assert len(pool.shared().workers) <= pool.shared().size
    with pool.Pool(1) as workers:
        again = combine.combined(given, workers=workers)(["aei"], [{"answer": "aei"}])
        assert again.reward.tolist() == [7.0]
        assert len(workers.workers) == 1


def test_what_cannot_be_loaded_in_a_worker_is_no_failure_of_rows(monkeypatch):
    monkeypatch.setattr(maths, "HANDLER", "alignjax.rewards.nothing:maths")
    rule = maths.MathVerify()
    with pytest.raises(
        ValueError, match="the rule m must be loadable in a worker process; got ModuleNotFoundError"
    ):
        combine.combined({"m": dataclass_without_check(rule)})(["1"], [{"answer": "1"}])


def dataclass_without_check(rule):
    rule.validate = lambda: None
    return rule

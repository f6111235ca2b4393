"""A user's function: in the trainer's process, or row by row in workers."""

import pathlib

import numpy as np
import pytest

from alignjax.rewards import combine, functions

OWN = pathlib.Path(__file__).with_name("own_rules.py")


def own(name: str, **options) -> functions.Function:
    return functions.Function(path=f"{OWN}:{name}", **options)


@pytest.mark.parametrize("isolated", [False, True])
def test_both_ways_say_the_same(isolated):
    texts, tasks = ["aei", "xyz", ""], [{"answer": "aei"}, {"answer": None}, {"answer": "b"}]
    vowels = combine.combined({"own": own("vowels", isolated=isolated)})(texts, tasks)
    assert vowels.reward.tolist() == [3.0, 0.0, 0.0]
    parts = combine.combined({"own": own("parts", isolated=isolated)})(texts, tasks)
    np.testing.assert_array_equal(parts.parts["own/right"], [1.0, np.nan, 0.0])
    np.testing.assert_array_equal(parts.parts["own/length"], [3.0, 3.0, 0.0])
    assert not parts.failed.any()
    strict = combine.combined({"own": own("strict", isolated=isolated)})(["1", "x", "2.5"], tasks)
    np.testing.assert_array_equal(strict.reward, [1.0, np.nan, 2.5])
    assert strict.failed.tolist() == [False, True, False]
    assert "could not convert string to float: 'x'" in strict.problems[0]


def test_a_function_that_hangs_fails_its_own_row():
    rule = own("hangs", isolated=True, timeout_s=0.5)
    scores = combine.combined({"own": rule})(["a", "hang", "b"], [{}] * 3)
    np.testing.assert_array_equal(scores.reward, [1.0, np.nan, 1.0])
    assert scores.problems == ["own: no answer within 0.5 seconds (row 1, text 'hang')"]


def test_an_isolated_function_returns_one_score_for_one_text():
    scores = combine.combined({"own": own("shorter", isolated=True)})(["a"], [{}])
    assert scores.failed.all()
    assert "it must return one score for one text; got []" in scores.problems[0]


def test_files_that_fail_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="must define the function missing; it does not") as caught:
        own("missing").validate()
    with pytest.raises(ValueError, match="must define the function NOT_A_FUNCTION"):
        own("NOT_A_FUNCTION").validate()
    broken = tmp_path / "broken.py"
    broken.write_text("raise OSError('first\\nsecond')\n")
    with pytest.raises(ValueError, match="must run as Python; got OSError: first") as caught:
        functions.Function(path=f"{broken}:f").validate()
    assert "\n" not in str(caught.value)


def test_paths_count_from_where_the_command_runs(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def f(texts, tasks):\n    return [len(t) for t in texts]\n")
    monkeypatch.chdir(tmp_path)
    for isolated in (False, True):
        rule = functions.Function(path="mine.py:f", isolated=isolated)
        assert combine.combined({"own": rule})(["abc"], [{}]).reward.tolist() == [3.0]

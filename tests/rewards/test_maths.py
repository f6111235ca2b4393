"""Mathematical answers in workers: those that can't be compared are failures, not zeros."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from alignjax.rewards import combine, maths

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)


def test_values_and_unreadable_answers():
    texts = ["$\\boxed{0.5}$", "$\\boxed{2}$", "no", "\\boxed{1}", "\\boxed{1}"]
    tasks = [{"answer": "\\frac12"}] * 3 + [{"answer": ""}, {"answer": None}]
    scores = combine.combined({"m": maths.MathVerify()})(texts, tasks)
    np.testing.assert_array_equal(scores.reward, [1.0, 0.0, 0.0, np.nan, np.nan])
    assert not scores.failed.any()


def test_a_comparison_without_end_is_a_failure_of_its_row():
    texts = ["$\\boxed{10^{10^{10}}}$", "$\\boxed{5}$"]
    scores = combine.combined({"m": maths.MathVerify(timeout_s=1.0)})(texts, [{"answer": "5"}] * 2)
    np.testing.assert_array_equal(scores.reward, [np.nan, 1.0])
    assert scores.failed.tolist() == [True, False]
    assert "m: no answer within 1 seconds (row 0" in scores.problems[0]


def test_it_works_off_the_main_thread():
    """math-verify's own alarms would not: all scores would be 0 (Math-Verify#50)."""
    found = []
    score = combine.combined({"m": maths.MathVerify()})
    ask = threading.Thread(target=lambda: found.append(score(["$5$"], [{"answer": "5"}]).reward[0]))
    ask.start()
    ask.join()
    assert found == [1.0]


def test_golds_are_read_at_load():
    tasks = [{"answer": str(i)} for i in range(300)] + [{"answer": ""}, {"answer": True}]
    bad = combine.check_tasks({"m": maths.MathVerify()}, tasks)
    assert np.flatnonzero(bad).tolist() == [300, 301]


def test_it_passes_its_own_examples():
    given = {"m": maths.MathVerify()}
    combine.probe(given, [{"answer": "1"}], combine.combined(given))


def test_an_error_of_the_library_is_no_wrong_answer(monkeypatch):
    """Its `raise_on_error` is on: what it can't compare is told apart from what differs."""
    import math_verify

    from alignjax.rewards import handlers

    def broken(gold, target, **options):
        assert options == {"timeout_seconds": None, "raise_on_error": True}
        raise TypeError("cannot compare")

    monkeypatch.setattr(math_verify, "verify", broken)
    score = handlers.maths({})
    with pytest.raises(TypeError, match="cannot compare"):
        score({"text": "$5$", "gold": "5"})
    assert score({"text": "", "gold": "5"}) == 0.0
    assert score({"text": "$5$", "gold": ""}) is None


def test_without_the_package_it_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"needs the package math-verify.*pip install 'alignjax\[maths\]'"
    ):
        maths.MathVerify().validate()


def test_handlers_load_no_jax():
    code = (
        "import sys; from alignjax.rewards import handlers, programs, processes, worker\n"
        "handlers.maths({}); print(*[m for m in ('jax', 'flax', 'alignjax.core.shapes')"
        " if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert found.stdout.split() == []

"""Rollouts on the page: groups with what they earned, and dead groups beside what was predicted."""

import json
import math
import re

import pytest

from alignjax.reporting import report, rollouts
from tests.reporting.test_report import HOSTILE


def steps(count=24):
    return [
        {
            "step": step, "reward": step / count, "reward_correct": step / count,
            "reward_form": 0.5, "length": 10.0 - step / count, "cut": 0.25,
            "dead": 0.5, "dead_predicted": math.nan if step % 2 else 0.25,
        }
        for step in range(count)
    ]  # fmt: skip


def samples(every=4, count=24):
    return [
        {
            "step": step, "task": 7, "sample": g, "prompt": f"what is {step} and 1?",
            "text": HOSTILE if g else f"{step + 1}", "reward": None if g == 2 else 1.0 - g,
            "parts": {"correct": 1.0 - g, "form": 0.5}, "advantage": 0.5 - g, "tokens": 3 + g,
            "cut": g == 1,
        }
        for step in range(0, count, every)
        for g in range(3)
    ]  # fmt: skip


def test_groups_of_the_first_the_middle_and_the_last_step_are_shown():
    groups = rollouts.shown(samples())
    assert [group[0]["step"] for group in groups] == [0, 8, 20]
    assert [len(group) for group in groups] == [3, 3, 3]
    assert len(rollouts.shown(samples(every=30))) == 1
    assert rollouts.shown([]) == rollouts.shown([{"text": "no step"}]) == []


def test_spans_are_means_of_what_is_finite():
    found = rollouts.spans(steps(), ["length", "dead_predicted", "missing"])
    assert [name for name, _ in found] == ["0–3", "4–7", "8–11", "12–15", "16–19", "20–23"]
    assert found[0][1][:2] == pytest.approx([10.0 - 1.5 / 24, 0.25])
    assert math.isnan(found[0][1][2])
    assert [name for name, _ in rollouts.spans(steps(2), ["dead"])] == ["0", "1"]
    assert rollouts.spans([], ["dead"]) == []


def test_a_step_written_twice_counts_once():
    twice = [*steps(4), {**steps(4)[1], "dead": 0.9}]
    assert dict(rollouts.spans(twice, ["dead"]))["1"] == [0.9]


def test_the_page_shows_rollouts_of_stages_that_sampled(tmp_path):
    results = {
        "title": "A run", "rows": [], "columns": [],
        "curves": [{"stage": name, "keys": ["reward"]} for name in ("base", "grpo")],
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    for name in ("base", "grpo"):
        (tmp_path / name).mkdir()
        lines = [json.dumps(row) for row in steps()]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps(row) for row in samples()]
    (tmp_path / "grpo" / "samples.jsonl").write_text("\n".join(lines) + '\n{"step": 3, "ta')
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<h3>") == page.count("<h3>grpo</h3>") == 1
    assert "what is 0 and 1?" in page
    assert "what is 8 and 1?" in page
    assert "what is 4 and 1?" not in page
    heads = re.findall(r'<th scope="col">(.*?)</th>', page)
    both = ["reward", "correct", "form"]
    columns = ["steps", *both, "tokens", "cut", "dead groups", "dead, predicted"]
    assert heads[:8] == columns
    assert heads[8:14] == [*both, "advantage", "tokens", "sample"]
    assert "<td>4 (cut)</td>" in page
    assert '<th scope="row">-</th>' in page  # a sample that could not be scored
    assert "<script" not in page
    assert "0.250" in page


def test_without_samples_there_is_no_section():
    assert rollouts.section({"base": (steps(), [])}) == ""
    assert "Rollouts" in rollouts.section({"grpo": ([], samples())})

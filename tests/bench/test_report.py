"""The page of the bench: ratios, targets, which session counts, and that it stands as made."""

import json

import pytest

from bench import report, targets, workloads


def line(arm, cpu, *, tokens=100, peak=1000.0, **changes):
    """A line of results; the first step is not counted."""
    turns = [{"cpu": 99.0, "wall": 99.0, "peak": peak, "tokens": tokens, "loss": 1.0}]
    turns += [{"cpu": x, "wall": 2 * x, "peak": peak, "tokens": tokens, "loss": 1.0} for x in cpu]
    return {
        "schema": report.SCHEMA,
        "session": "2026-01-01",
        "machine": {"cpu": "C", "flags": "avx2", "cores": 2, "system": "S"},
        "ceiling": {"gflops": 50.0, "gbytes": 10.0},
        "workload": "W1",
        "model": "M1",
        "threads": 1,
        "warm": 1,
        "flops": [4e9] * len(cpu),
        "tokens": [tokens] * len(cpu),
        "load": {"before": [0.5, 0.5, 0.5], "after": [1.0, 1.0, 1.0]},
        "arm": arm,
        "versions": {arm: "1"},
        "turns": turns,
        **changes,
    }


def only(*lines) -> report.Group:
    (group,) = report.groups(lines)
    return group


def test_a_ratio_is_the_median_of_pairs():
    group = only(line("alignjax", [1.0, 2.0, 1.0]), line("trl", [2.0, 2.0, 4.0]))
    assert group.times("trl") == (2.0, 1.0, 4.0)
    assert group.share("alignjax") == pytest.approx(3 * 4e9 / 4.0 / 50e9)


def test_on_several_threads_the_clock_counts():
    own = line("alignjax", [1.0, 1.0], threads=2)
    assert only(own).seconds("alignjax") == [2.0, 2.0]


def test_uneven_rows_are_compared_by_whole_rates():
    own = line("alignjax", [1.0, 3.0], workload="W1v")
    peer = line("trl", [1.0, 1.0], workload="W1v", tokens=50)
    assert only(own, peer).times("trl") == (pytest.approx(1.0), pytest.approx(2 / 3), 2.0)


def test_the_newest_session_of_a_case_counts_alone():
    old = [line("alignjax", [1.0]), line("tunix", [1.0])]
    new = line("alignjax", [5.0], session="2026-02-01")
    group = only(*old, new)
    assert group.peers == []
    assert group.seconds("alignjax") == [5.0]


def test_targets_are_met_or_told():
    slow, fast = line("tunix", [1.29] * 3, peak=1000.0), line("trl", [1.0] * 3, peak=1100.0)
    group = only(line("alignjax", [1.0] * 3, peak=700.0), slow, fast)
    speed_tunix, speed_trl, memory = targets.judge(group)
    assert (speed_tunix.met, speed_trl.met, memory.met) == (False, True, True)
    assert memory.against == "Tunix"
    text = report.page(list(group.lines.values()))
    assert "2 of 3 are reached. Not: W1 on M1 (speed, Tunix)." in text


def test_the_smoke_model_is_no_result():
    own = line("alignjax", [1.0], model="M0")
    assert "M0" not in report.page([own])
    assert "## M0" in report.page([own], smoke=True)


def test_every_target_names_what_there_is():
    for name, peers in targets.SPEED.items():
        assert name in workloads.WORKLOADS
        assert not [p for p in peers if p not in workloads.ARMS or (name, p) in workloads.ABSENT]


def test_lines_of_another_schema_are_refused(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps({**line("alignjax", [1.0]), "schema": 99}) + "\n")
    with pytest.raises(ValueError, match="must be of schema 1; got 99"):
        report.read(file)


def test_the_page_is_that_of_the_results():
    assert report.PAGE.read_text() == report.page(report.read(report.RESULTS))

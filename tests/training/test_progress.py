"""Bars and lines: what is said while something lasts, without waiting for it."""

import io

import pytest

from alignjax.data import prepare
from alignjax.training import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_every_ten_seconds_and_at_the_end(clock):
    out = io.StringIO()
    bar = progress.Progress("sft", 10, start=2, out=out)
    for done in range(3, 11):
        clock[0] += 4
        bar.update(done, "loss 1")
    bar.close("loss 1")
    lines = out.getvalue().splitlines()
    assert lines[0] == "sft: 5/10 steps, 0.25 steps/s, 20 s left, loss 1"
    assert [line.split(" ")[1] for line in lines] == ["5/10", "8/10", "10/10"]


def test_what_is_brief_is_silent_without_a_terminal(clock):
    out = io.StringIO()
    with progress.shown("reference", 4, unit="rows", out=out) as bar:
        bar.update(4)
    assert out.getvalue() == ""
    with progress.shown("reference", 4, unit="rows", out=out) as bar:
        clock[0] += 11
        bar.update(2)
    assert out.getvalue().splitlines()[0] == "reference: 2/4 rows, 0.18 rows/s, 11 s left"
    with progress.shown("", 4, out=out) as bar:
        bar.update(1)


def test_a_terminal_has_a_bar():
    out = Terminal()
    with progress.shown("reference", 4, unit="rows", out=out) as bar:
        bar.update(4)
    assert "reference: 100%" in out.getvalue()
    assert "4/4" in out.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_waiting_is_said_while_it_lasts(monkeypatch, kind):
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.01)
    out = kind()
    bar = progress.Progress("sft", 3, out=out)
    with bar.waiting("compiling the first step"):
        while "compiling the first step, 0 s" not in out.getvalue():
            progress.time.sleep(0.005)
    assert not [t for t in progress.threading.enumerate() if "tell" in t.name]


def test_a_rate_leaves_the_wait_out(clock):
    out = io.StringIO()
    bar = progress.Progress("sft", 2, out=out)
    with bar.waiting("compiling"):
        clock[0] += 100
    clock[0] += 2
    bar.update(1)
    bar.close()
    assert "1/2 steps, 0.50 steps/s" in out.getvalue()


def test_parts_of_data_are_told_where_no_bar_is(monkeypatch, tmp_path):
    monkeypatch.setattr(prepare, "TOLD_EVERY", 0.0)
    lines = []
    cache = prepare.Cache(
        folder=tmp_path, log=lines.append, run=lambda function, shared, tasks, count: iter(tasks)
    )
    assert list(cache.tasks("scan train", None, (), [1, 2, 3])) == [1, 2, 3]
    assert lines == ["scan train: 1 of 3 parts, 0 s", "scan train: 2 of 3 parts, 0 s"]
    assert list(cache.tasks("scan train", None, (), [1])) == [1]
    assert len(lines) == 2

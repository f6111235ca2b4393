"""metrics.jsonl: every digit, no duplicate rows, mended after a kill."""

import json
import math

import pytest

from alignjax.training import metrics


def write(folder, start, rows):
    writer = metrics.Writer(folder, start=start)
    for step, values in rows:
        writer.write(step, values)
    writer.close()
    return (folder / metrics.FILE).read_bytes()


def test_every_digit_survives(tmp_path):
    values = {"a": 0.1 + 0.2, "b": 1 / 3, "c": 1e-45, "d": 2.0**60 + 1, "e": -0.0, "f": 5e-324}
    write(tmp_path, 0, [(0, values)])
    found = metrics.read(tmp_path / metrics.FILE)
    assert found == [{"step": 0, **values}]
    assert math.copysign(1, found[0]["e"]) == -1
    assert repr(values["a"]) in (tmp_path / metrics.FILE).read_text()


def test_non_finite_numbers_are_strings_and_the_file_is_strict_json(tmp_path):
    write(tmp_path, 0, [(0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})])

    def refuse(word):
        raise AssertionError(word)

    line = (tmp_path / metrics.FILE).read_text()
    found = json.loads(line, parse_constant=refuse)
    assert found == {"step": 0, "a": "nan", "b": "inf", "c": "-inf", "d": 1.0}
    assert math.isnan(float(found["a"]))
    assert float(found["c"]) == -math.inf


@pytest.mark.parametrize("cut", [1, 2, 10, 17])
def test_a_torn_last_line_is_mended(tmp_path, cut):
    rows = [(step, {"loss": 1 / (step + 3)}) for step in range(6)]
    whole = write(tmp_path, 0, rows)
    file = tmp_path / metrics.FILE
    file.write_bytes(whole[:-cut])
    assert len(metrics.read(file)) == (6 if cut == 1 else 5)
    assert write(tmp_path, 4, rows[4:]) == whole


def test_replayed_rows_are_not_duplicated(tmp_path):
    rows = [(step, {"loss": 1 / (step + 3)}) for step in range(9)]
    whole = write(tmp_path, 0, rows)
    for start in (0, 3, 8, 9):
        assert write(tmp_path, start, rows[start:]) == whole


def test_a_kill_between_write_and_flush_leaves_whole_rows_in_front(tmp_path):
    writer = metrics.Writer(tmp_path, start=0)
    writer.write(0, {"loss": 1.0})
    writer.flush()
    writer.write(1, {"loss": 2.0})
    rows = metrics.read(tmp_path / metrics.FILE)
    assert rows[0] == {"step": 0, "loss": 1.0}
    writer.close()


def test_tensorboard_gets_the_same_numbers(tmp_path):
    write(tmp_path, 0, [(0, {"loss": 1.0}), (1, {"loss": 2.0})])
    assert any((tmp_path / "tensorboard").iterdir())

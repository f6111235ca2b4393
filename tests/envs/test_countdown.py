"""Countdown by hand."""

import numpy as np
import pytest

from alignjax.envs import countdown

KEYS = np.zeros((1, 2), np.uint32)


def played(task, texts):
    """(what is said, reward, done) of each answer, up to the end."""
    game = countdown.Countdown()
    states, found = game.begin([task], KEYS), []
    for text in texts:
        reply = game.reply(states, [text])
        states = reply.states
        found.append((reply.texts[0], float(reply.rewards[0]), bool(reply.done[0])))
    return found


@pytest.mark.parametrize("numbers", ["3 8 1", [3, 8, 1]])
def test_a_solution(numbers):
    found = played({"numbers": numbers, "target": 23}, ["3 * 8", "24-1"])
    assert found[0] == ("Left: 24 1", 0.0, False)
    assert found[1][1:] == (1.0, True)


def test_one_number_that_is_not_the_target_ends_it():
    found = played({"numbers": "3 8 1", "target": 5}, ["3 * 8", "24 + 1"])
    assert [part[1:] for part in found] == [(0.0, False), (0.0, True)]


@pytest.mark.parametrize(
    "text", ["", "3 + 9", "8 / 3", "1 - 3", "3 + 3", "3 + 8 + 1", "8 ** 3", "eval(3)", "8 / 0"]
)
def test_what_is_no_move_ends_it(text):
    assert played({"numbers": "3 8 1 0", "target": 5}, [text]) == [("", 0.0, True)]


def test_numbers_are_used_as_often_as_they_are_there():
    assert countdown.moved((3, 3, 1), "3 + 3") == (6, 1)
    assert countdown.moved((6, 3), "6/3") == (2,)


def test_a_row_without_its_columns_is_refused():
    with pytest.raises(ValueError, match=r"must have the columns numbers and target; got numbers"):
        countdown.Countdown().begin([{"numbers": "1 2"}], KEYS)

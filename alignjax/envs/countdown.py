"""Countdown in turns: two of the numbers that are left become one, until one is the target."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignjax.envs import dialogue, env

_MOVE = re.compile(r"\s*(\d{1,9})\s*([-+*/])\s*(\d{1,9})\s*")


@dataclasses.dataclass(kw_only=True)
class Countdown(dialogue.DialogueConfig):
    """Each answer is one operation, "3 * 8", on two of the numbers that are left.

    The reply tells what is left then. A result that is the target is paid 1, anything else nothing.
    An answer that is no such operation, a division with a rest or a result below 0 ends the
    episode. A row must have the columns `numbers` (a list, or text with blanks between) and
    `target`.
    """

    limit: int = 3  # operations
    room: int = 48  # tokens of a reply with its template

    def begin(self, tasks: Sequence[env.Task], keys: np.ndarray) -> Sequence[Any]:
        """States are (target, numbers left).

        Raises:
          ValueError: a row lacks a column.
        """
        states = []
        for task in tasks:
            missing = [name for name in ("numbers", "target") if name not in task]
            if missing:
                raise ValueError(
                    "a row of Countdown must have the columns numbers and target; got "
                    f"{', '.join(task) or 'none'} (data). Add {missing[0]}."
                )
            numbers = task["numbers"]
            numbers = numbers.split() if isinstance(numbers, str) else numbers
            states.append((int(task["target"]), tuple(int(n) for n in numbers)))
        return states

    def reply(self, states: Sequence[Any], texts: Sequence[str]) -> dialogue.Reply:
        said, paid, done, after = [], [], [], []
        for (target, left), text in zip(states, texts, strict=True):
            found = moved(left, text)
            right = found is not None and found[0] == target
            paid.append(float(right))
            done.append(right or found is None or len(found) < 2)
            said.append("" if found is None else f"Left: {' '.join(map(str, found))}")
            after.append((target, left if found is None else found))
        return dialogue.Reply(said, np.asarray(paid, np.float32), np.asarray(done), after)


def moved(left: tuple[int, ...], text: str) -> tuple[int, ...] | None:
    """The result of an operation, and the other numbers behind it; None where it isn't allowed."""
    move = _MOVE.fullmatch(text)
    if move is None:
        return None
    a, sign, b = int(move[1]), move[2], int(move[3])
    rest = list(left)
    for number in (a, b):
        if number not in rest:
            return None
        rest.remove(number)
    if sign == "/":
        if b == 0 or a % b:
            return None
        return (a // b, *rest)
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return None if result < 0 else (result, *rest)

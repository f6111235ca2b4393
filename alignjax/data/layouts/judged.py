"""Answers that people judged, cleaned of what published files hold, as the fields of a row."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from alignjax.data import records, rows
from alignjax.data.layouts.ranked import FEW, UNRANKED
from alignjax.data.layouts.record import Record
from alignjax.text import chat

MISSING_TURN, NO_CHOICE = "missing turn", "no choice"
END = "<|end_of_text|>"
BLANKS = ("", "EMPTY STRING", "nan")  # texts that stand for none
DROP = "Drop the row."


def said(record: Record, name: str, value: Any = None) -> str:
    """A field, or a value of it, as text up to the end mark; "" where it stands for none.

    Raises:
      DataError: it is no text, or no valid Unicode.
    """
    value = record.fields.get(name) if value is None else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = record.checked(name, value, empty=True).partition(END)[0].strip()
    return "" if text in BLANKS else text


def group(record: Record, names: Iterable[str]) -> str:
    """The rater's group: the field `group`, else the first of the named that is there."""
    found = (said(record, name) for name in (rows.GROUP, *names))
    return next((text for text in found if text), rows.UNKNOWN)


def mean_score(scores: Sequence[float]) -> float:
    """The mean of the scores of equal texts."""
    return statistics.fmean(scores)


def pooled(
    record: Record,
    name: str,
    entries: Iterable[tuple[str, float]],
    join: Callable[[Sequence[float]], float] = min,
) -> dict[str, float]:
    """{text: its number}, in the order of the texts: whatever slot each stood in.

    A blank text is left out. Equal texts are one, with the numbers' `join`: by default the least,
    so that equals of the best answer are no losers against it.

    Raises:
      DataError: fewer than two different texts are left.
    """
    found: dict[str, list[float]] = {}
    for text, number in entries:
        if text:
            found.setdefault(text, []).append(number)
    if len(found) < 2:
        is_equal = any(len(numbers) > 1 for numbers in found.values())
        got = "equal answers" if is_equal else f"{len(found)} that are not blank"
        reason = chat.EQUAL if is_equal else FEW
        raise record.bad(name, "hold two different answers", got, DROP, reason)
    return {text: join(found[text]) for text in sorted(found)}


def choice(texts: Mapping[str, str], best: str) -> list[tuple[str, float]]:
    """(text, rank) of each slot's: 1 of the one preferred, and all others unranked below it."""
    return [(text, 1.0 if slot == best else UNRANKED) for slot, text in texts.items()]


def fields(
    columns: Mapping[str, Any],
    turns: Sequence[tuple[str, str]],
    numbers: Mapping[str, float],
    *,
    of: str = "ranks",
) -> records.Fields:
    """The fields of layout `ranked`: a prompt of (role, text), answers, their ranks or scores."""
    return {
        **columns,
        "prompt": [{"role": role, "content": text} for role, text in turns],
        "answers": list(numbers),
        of: [None if number == UNRANKED else number for number in numbers.values()],
    }


def missing(record: Record, name: str) -> records.DataError:
    """The error of a conversation that is cut where it misses a turn."""
    return record.bad(
        name, "be there where later turns are", "no text",
        "The conversation ends before it, since what follows answers to it.", MISSING_TURN,
    )  # fmt: skip


def undecided(record: Record, name: str, got: str, advice: str = DROP) -> records.DataError:
    """The error of a turn of which nobody knows the best answer."""
    return record.bad(name, "name an answer that is not blank", got, advice, NO_CHOICE)

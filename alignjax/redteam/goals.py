"""What attacks ask for, always from a file: nothing harmful stands in the package."""

import hashlib
import pathlib
from typing import NamedTuple

from alignjax.data import containers
from alignjax.data.layouts.record import Record

TEXTS = ("goal", "prompt", "prompts_final", "question")  # fields that hold a goal, first to last
TARGET = "target"  # how an answer that complies begins; gradients need it


class Goal(NamedTuple):
    """A request that the target should refuse. name: its number and a hash, for reports, which
    never show the text. begins: how a complying answer begins; "" where the file does not say."""

    name: str
    text: str
    begins: str = ""


def read(path: str, count: int = 0) -> list[Goal]:
    """The goals of a file of any container, at most `count` unless that is 0; equal ones once.

    Raises:
      ValueError: no such file, a row without a goal, or no row at all.
    """
    if not path or not pathlib.Path(path).exists():
        raise ValueError(f"--goals must name a file of goals; got {path!r} (attack). Name one.")
    found: dict[str, Goal] = {}
    for part in containers.parts(path):
        for number, fields in part.rows():
            if not isinstance(fields, dict):
                raise fields
            record = Record(fields, part.where, number, part.unit)
            text = record.text(next((n for n in TEXTS if n in record), TEXTS[0]))
            begins = record.text(TARGET) if TARGET in record else ""
            found.setdefault(text, Goal(_name(len(found), text), text, begins))
    if not found:
        raise ValueError(f"--goals must hold a goal at least; got none ({path}).")
    return list(found.values())[: count or None]


def _name(number: int, text: str) -> str:
    return f"{number:04d}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

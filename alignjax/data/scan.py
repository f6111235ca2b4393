"""The first pass over a source: every row is read, checked and told by digests, a unit at a time.

A unit is what lies between two places where reading may begin. What is noted of it depends on its
rows alone, so that units are read in any order, by any process.
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from alignjax.core import untrusted
from alignjax.data import cache_files, containers, recipe, records

BROKEN, UNUSABLE, GOOD = 0, 1, 2  # states of a row
NO_VOTE = (0.0, 0.0, False)


class Unit(NamedTuple):
    """Rows of a part from `start` on: up to that of the next unit, or to the end."""

    part: int
    start: containers.Start
    stop: int  # the number of the first row after it; 0 is the end


class Scan(NamedTuple):
    """What is noted of a unit's rows, each [n].

    states: BROKEN, UNUSABLE or GOOD. lines: numbers in the part. contents, identities, openings,
    wholes: digests [n, 16], zeros for none. marks: uint8. votes: [n, 3] weight, preference, turned,
    or [0, 3] where none are joined. reasons: of rows that are not good. first: state -> the message
    and reason of the first such row.
    """

    states: np.ndarray
    lines: np.ndarray
    contents: np.ndarray
    identities: np.ndarray
    openings: np.ndarray
    wholes: np.ndarray
    marks: np.ndarray
    votes: np.ndarray
    reasons: dict[str, int]
    first: dict[int, tuple[str, str]]


def units(parts: Sequence[containers.Part]) -> list[Unit]:
    """The units of parts, in order."""
    found = []
    for number, part in enumerate(parts):
        starts = part.starts()
        for start, after in itertools.zip_longest(starts, starts[1:]):
            found.append(Unit(number, start, after.row if after else 0))
    return found


def rows_of(part: containers.Part, unit: Unit) -> Iterator[tuple[int, Any]]:
    """(number, fields or DataError) of a unit's rows."""
    for number, fields in part.rows_from(unit.start):
        if unit.stop and number >= unit.stop:
            return
        yield number, fields


def scan(own: recipe.Recipe, part: containers.Part, unit: Unit) -> Scan:
    """Reads a unit.

    Raises:
      DataError: the file cannot be read on.
    """
    states, lines, marks = bytearray(), list[int](), bytearray()
    contents, identities, openings, wholes = bytearray(), bytearray(), bytearray(), bytearray()
    votes: list[tuple[float, float, bool]] = []
    reasons: dict[str, int] = {}
    first: dict[int, tuple[str, str]] = {}
    blank = bytes(recipe.DIGEST)
    for number, fields in rows_of(part, unit):
        found = own.read(part, number, fields)
        state = GOOD
        if found.error is not None:
            reason = found.error.reason
            state = UNUSABLE if reason in own.rules.unusable else BROKEN
            reasons[reason] = reasons.get(reason, 0) + 1
            first.setdefault(state, (str(found.error), reason))
        states.append(state)
        lines.append(number)
        marks.append(found.mark)
        contents += found.content or blank
        identities += found.identity or blank
        openings += found.opening or blank
        wholes += found.whole[: recipe.DIGEST] or found.content or blank
        if own.rules.repeated == recipe.JOIN:
            votes.append(found.vote or NO_VOTE)
    return Scan(
        np.frombuffer(states, np.uint8),
        np.array(lines, np.int64),
        _digests(contents),
        _digests(identities),
        _digests(openings),
        _digests(wholes),
        np.frombuffer(marks, np.uint8),
        np.array(votes, np.float64).reshape(-1, 3),
        reasons,
        first,
    )


def _digests(content: bytes | bytearray) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(-1, recipe.DIGEST)


def save(path: epath.Path, own: Scan) -> None:
    """Writes what was noted, with a checksum."""
    arrays = {name: x for name, x in own._asdict().items() if isinstance(x, np.ndarray)}
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    body = stream.getvalue()
    cache_files.write(path.with_suffix(".npz"), body)
    first = {str(state): list(words) for state, words in own.first.items()}
    notes = {"sha256": cache_files.digest(body), "reasons": own.reasons, "first": first}
    cache_files.write_json(path.with_suffix(".json"), notes)


def load(path: epath.Path) -> Scan | None:
    """What `save` wrote; None where it is not there, or damaged."""
    notes = cache_files.read_json(path.with_suffix(".json"))
    if notes is None:
        return None
    try:
        body = untrusted.read_bytes(path.with_suffix(".npz"), untrusted.ROWS)
    except OSError:
        return None
    if cache_files.digest(body) != notes["sha256"]:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        first = {int(state): tuple(words) for state, words in notes["first"].items()}
        return Scan(**dict(arrays), reasons=notes["reasons"], first=first)


def delete(path: epath.Path) -> None:
    """Deletes what `save` wrote."""
    for suffix in (".json", ".npz"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def repeated_id(part: containers.Part, line: int) -> records.DataError:
    """The error of a row with the id of an earlier one."""
    return records.problem(
        "id", "be unique", "an id seen before", file=part.where, line=line, advice="Renumber.",
        reason="duplicate id", unit=part.unit,
    )  # fmt: skip


def repeated(part: containers.Part, line: int) -> records.DataError:
    """The error of a row with the content of an earlier one."""
    return records.problem(
        "row", "differ from all others", "the pair of an earlier row", file=part.where, line=line,
        advice="Drop the row.", reason="duplicate row", unit=part.unit,
    )  # fmt: skip

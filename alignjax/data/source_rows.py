"""The rows of a scanned source that are kept, read again: in order, shard by shard."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from alignjax.data import (
    cache_files,
    comparisons,
    containers,
    contents,
    recipe,
    scan,
    selection,
)

ROWS = 16384  # rows of the source that become one shard, and are packed together


class Source(NamedTuple):
    """A scanned source: its folder, parts, and what is kept of it. identity: of all that."""

    folder: epath.Path
    parts: Sequence[containers.Part]
    selection: selection.Selection
    identity: str


class Task(NamedTuple):
    """A shard to make: rows `begin` to `stop` of the source.

    first: kept rows of the split before them. most: kept rows that it may take.
    """

    number: int
    begin: int
    stop: int
    first: int
    most: int


def tasks_of(own: recipe.Recipe, source: Source, rows: int) -> list[Task]:
    """The shards of a table that have rows."""
    side, tasks, first = selection.SIDE[own.split], [], 0
    states, read = _states(source), source.selection.read
    limit = own.limit or source.selection.kept[own.split]
    for number, begin in enumerate(range(0, read, rows)):
        stop = min(begin + rows, read)
        kept = int((states[begin:stop] == side).sum())
        if kept and first < limit:
            tasks.append(Task(number, begin, stop, first, min(kept, limit - first)))
        first += kept
    return tasks


def first_rows(own: recipe.Recipe, source: Source, most: int) -> Iterator[Any]:
    """Yields the first `most` typed rows of a split that are kept, in order."""
    limit = min(most, own.limit or most)
    for task in tasks_of(own, source, ROWS):
        if task.first < limit:
            yield from itertools.islice(rows_of(own, source, task), limit - task.first)


_CURSORS: dict[str, tuple[Any, int, Any]] = {}  # where this process stands in a source


def rows_of(own: recipe.Recipe, source: Source, task: Task) -> Iterator[Any]:
    """Yields the typed rows of a shard's part of the source that are kept.

    Raises:
      DataError: the source changed since it was scanned.
    """
    side, states = selection.SIDE[own.split], _states(source)
    wanted = np.flatnonzero(states[task.begin : task.stop] == side)[: task.most] + task.begin
    starts = np.cumsum([0, *(unit[-1] for unit in source.selection.units)])
    for number in np.unique(np.searchsorted(starts, wanted, "right") - 1):
        first = int(starts[number])
        inner = wanted[(wanted >= first) & (wanted < starts[number + 1])] - first
        yield from _unit_rows(own, source, int(number), inner.tolist())


def _votes_of(found: Source, number: int) -> dict[int, tuple[float, float]]:
    """Row of a unit -> (preference, weight) of the votes that are joined in it."""
    votes, sizes = _votes(found), [unit[-1] for unit in found.selection.units[: number + 1]]
    first, last = sum(sizes[:-1]), sum(sizes)
    begin, stop = np.searchsorted(votes["row"], np.array([first, last], np.uint64))
    return {int(row) - first: (share, weight) for row, share, weight in votes[begin:stop].tolist()}


def _unit_rows(own: recipe.Recipe, found: Source, number: int, wanted: list[int]) -> Any:
    """Yields rows of a unit by ascending number; reading goes on where it stopped before."""
    place, row, key, stop, _ = found.selection.units[number]
    part = found.parts[place]
    unit = scan.Unit(place, containers.Start(row, key), stop)
    name = (found.identity, number)
    held, at, stream = _CURSORS.pop("", (None, 0, iter(())))
    if held != name or at > wanted[0]:
        at, stream = 0, scan.rows_of(part, unit)
    votes = _votes_of(found, number)
    for target in wanted:
        line, fields = 0, None
        while at <= target:
            line, fields = next(stream, (0, None))
            at += 1
        read = own.read(part, line, fields) if fields is not None else recipe.Reading()
        if read.row is None:
            raise contents.changed(part.where)
        yield comparisons.with_votes(read.row, *votes[target]) if target in votes else read.row
    _CURSORS[""] = (name, at, stream)


def _states(found: Source) -> np.ndarray:
    return np.memmap(cache_files.at_hand(found.folder / selection.STATES), np.uint8, "r")


def _votes(found: Source) -> np.ndarray:
    if not found.selection.votes:
        return np.zeros(0, selection.VOTES)
    place = cache_files.at_hand(found.folder / selection.VOTES_FILE)
    return np.memmap(place, selection.VOTES, "r")

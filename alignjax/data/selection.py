"""Which rows of a scanned source are kept, and for which split: decided over all of it.

The rules are those of `sources.read_preferences`, for any number of rows at flat memory.
"""

import collections
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from alignjax.data import (
    cache_files,
    comparisons,
    containers,
    digests,
    leaks,
    recipe,
    records,
    scan,
)

DROPPED, TRAIN, EVAL = 0, 1, 2  # what becomes of a row
SIDE = {"train": TRAIN, "eval": EVAL}
DUPLICATE = "duplicate row"
STATES = "states"  # file with a byte for each row of the source
VOTES_FILE = "votes"  # file with an entry for each row that has the votes of others
VOTES = np.dtype([("row", "<u8"), ("preference", "<f8"), ("weight", "<f8")])
Load = Callable[[int], scan.Scan]  # the scan of a unit by its number


class Selection(NamedTuple):
    """What is kept of a source.

    units: (part, row and key where it begins, first row after it, rows in it). kept: rows of each
    split. marks: split -> mark -> rows. joined: rows of each split whose votes went to an earlier
    one; votes: rows that have such. read: rows of the source. dropped: reason -> rows. told: files
    with what the kept rows say, for `leaks`; 0 where a hold-out keeps the splits apart.
    """

    units: tuple[tuple[int, int, int, int, int], ...]
    kept: Mapping[str, int]
    marks: Mapping[str, Mapping[str, int]]
    joined: Mapping[str, int]
    votes: int
    read: int
    dropped: Mapping[str, int]
    told: int

    def reasons(self) -> str:
        """What was left out, in words."""
        shown = ", ".join(f"{count} {name}" for name, count in sorted(self.dropped.items()))
        return shown or "none"


def decide(
    own: recipe.Recipe,
    parts: Sequence[containers.Part],
    units: Sequence[scan.Unit],
    load: Load,
    *,
    named: bool,
    folder: epath.Path,
) -> Selection:
    """Selects rows and writes what becomes of each into `folder`.

    named: whether names alone say which split rows belong to.

    Raises:
      DataError: a broken row where none may be, or a share of rows above its limit.
    """
    with tempfile.TemporaryDirectory(prefix="alignjax-") as place:
        rows = _Rows(own, parts, units, load, os.path.join(place, STATES))
        rows.drop_repeated_ids()
        rows.drop_repeated()
        rows.check()
        rows.take_sides(named)
        rows.join_votes()
        rows.tally()
        cache_files.write(folder / STATES, rows.states.tobytes())
        told = leaks.write(folder, rows.told()) if named else 0
        votes = np.sort(np.array(rows.votes, VOTES), order="row")
        if len(votes):
            cache_files.write(folder / VOTES_FILE, votes.tobytes())
    places = tuple(
        (unit.part, unit.start.row, unit.start.key, unit.stop, int(size))
        for unit, size in zip(units, np.diff(rows.starts), strict=True)
    )
    dropped = dict(sorted(rows.reasons.items()))
    return Selection(
        places, rows.kept, rows.marks, rows.joined, len(votes), rows.total, dropped, told
    )


class _Rows:
    """The rows of a source while it is decided about them; their states are in a file."""

    def __init__(
        self,
        own: recipe.Recipe,
        parts: Sequence[containers.Part],
        units: Sequence[scan.Unit],
        load: Load,
        file: str,
    ):
        self.own, self.rules, self._parts, self._units, self._load = (
            own, own.rules, parts, units, load,
        )  # fmt: skip
        sizes: list[int] = []
        self.reasons: collections.Counter[str] = collections.Counter()
        self._first: dict[int, tuple[int, str]] = {}  # state -> row and message of the first
        with open(file, "wb") as stream:
            for number in range(len(units)):
                noted = load(number)
                for state, (message, _) in noted.first.items():
                    place = sum(sizes) + int(np.argmax(noted.states == state))
                    self._first.setdefault(state, (place, message))
                sizes.append(len(noted.states))
                stream.write(noted.states.tobytes())
                self.reasons.update(noted.reasons)
        self.kept, self.joined = dict.fromkeys(SIDE, 0), dict.fromkeys(SIDE, 0)
        self.marks: dict[str, dict[str, int]] = {split: {} for split in SIDE}
        self.votes: list[tuple[int, float, float]] = []
        self.starts = np.cumsum([0, *sizes])
        self.total = int(self.starts[-1])
        self.states = np.memmap(file, np.uint8, "r+") if self.total else np.zeros(0, np.uint8)

    def _scans(self) -> Iterator[tuple[slice, scan.Scan]]:
        for number in range(len(self._units)):
            yield slice(int(self.starts[number]), int(self.starts[number + 1])), self._load(number)
            if isinstance(self.states, np.memmap):
                _let_go(self.states)

    def _digests(self, name: str, state: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(digests, row numbers) of each unit's rows, of one state or of any."""
        for rows, noted in self._scans():
            numbers, found = np.arange(rows.start, rows.stop), getattr(noted, name)
            there = slice(None) if state is None else self.states[rows] == state
            yield found[there], numbers[there]

    def drop_repeated_ids(self) -> None:
        """Rows with the id of an earlier row are broken."""
        for rows in digests.repeated(self._digests("identities", None), self.total):
            own = rows[self.states[rows] == scan.GOOD]
            if not len(own):
                continue
            self.states[own] = scan.BROKEN
            first = int(own.min())
            unit = int(np.searchsorted(self.starts, first, "right")) - 1
            line = int(self._load(unit).lines[first - self.starts[unit]])
            error = scan.repeated_id(self._parts[self._units[unit].part], line)
            self.reasons[error.reason] += len(own)
            if first < self._first.get(scan.BROKEN, (self.total, ""))[0]:
                self._first[scan.BROKEN] = (first, str(error))
        if scan.BROKEN in self._first and not self.rules.skip:
            raise records.DataError(self._first[scan.BROKEN][1])

    def drop_repeated(self) -> None:
        """Of rows with one content all but the first are dropped."""
        if self.rules.repeated != recipe.DROP:
            return
        for rows in digests.repeated(self._digests("contents", scan.GOOD), self.total):
            if not len(rows):
                continue
            self.states[rows] = scan.UNUSABLE
            self.reasons[DUPLICATE] += len(rows)
            first = int(rows.min())
            if first < self._first.get(scan.UNUSABLE, (self.total, ""))[0]:
                unit = int(np.searchsorted(self.starts, first, "right")) - 1
                line = int(self._load(unit).lines[first - self.starts[unit]])
                error = scan.repeated(self._parts[self._units[unit].part], line)
                self._first[scan.UNUSABLE] = (first, str(error))

    def check(self) -> None:
        """Raises DataError where a share of dropped rows is above its limit."""
        unusable = {n: c for n, c in self.reasons.items() if self._is_unusable(n)}
        broken = {n: c for n, c in self.reasons.items() if not self._is_unusable(n)}
        for state, counts, limit, option in (
            (scan.BROKEN, broken, self.rules.max_bad_share, "max_bad_share"),
            (scan.UNUSABLE, unusable, self.rules.max_unusable_share, "max_unusable_share"),
        ):
            count = sum(counts.values())
            if count <= limit * self.total:
                continue
            reasons = ", ".join(f"{own} {name}" for name, own in sorted(counts.items()))
            raise records.DataError(
                f"{self._first[state][1]} In all {count} of {self.total} rows ({reasons}), above "
                f"{option} = {limit}."
            )

    def _is_unusable(self, reason: str) -> bool:
        return reason in self.rules.unusable or reason == DUPLICATE

    def take_sides(self, named: bool) -> None:
        """Writes DROPPED, TRAIN or EVAL in place of each row's state."""
        bound = b""
        if not named and self.rules.by_number:
            bound = digests.below(self.rules.holdout)
        elif not named and self.rules.holdout:
            openings = self._digests("openings", scan.GOOD)
            bound = digests.smallest(openings, self.total, self.rules.holdout)
        for rows, noted in self._scans():
            good = self.states[rows] == scan.GOOD
            held = np.full(len(good), named and self.own.split == "eval")
            if not named:
                held = digests.at_most(noted.openings, bound)
            self.states[rows] = np.where(good, np.where(held, EVAL, TRAIN), DROPPED)

    def join_votes(self) -> None:
        """Of rows on the same two answers the first has all votes, and the others are dropped."""
        if self.rules.repeated != recipe.JOIN:
            return
        for own in digests.groups(self._votes(), self.total, columns=3):
            rows = own["row"].astype(np.int64)
            votes = [comparisons.Vote(*values) for values in own["values"].tolist()]
            self.votes.append((int(rows[0]), *comparisons.joined(votes)))
            split = next(name for name, side in SIDE.items() if self.states[rows[0]] == side)
            self.joined[split] += len(rows) - 1
            self.states[rows[1:]] = DROPPED

    def _votes(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(digests, row numbers, votes) of each unit's rows that are kept."""
        for rows, noted in self._scans():
            there = self.states[rows] != DROPPED
            yield noted.contents[there], np.arange(rows.start, rows.stop)[there], noted.votes[there]

    def told(self) -> Iterator[np.ndarray]:
        """The digests of what each unit's kept rows say."""
        for rows, noted in self._scans():
            yield noted.wholes[self.states[rows] != DROPPED]

    def tally(self) -> None:
        """Counts the rows of each split, and those of each mark."""
        for rows, noted in self._scans():
            for split, side in SIDE.items():
                marks = noted.marks[self.states[rows] == side]
                self.kept[split] += len(marks)
                own = self.marks[split]
                for mark, count in zip(*np.unique(marks, return_counts=True), strict=True):
                    own[str(mark)] = own.get(str(mark), 0) + int(count)


def _let_go(states: np.memmap) -> None:
    """Lets pages that were read and written leave this process; they stay in the file."""
    mapped = getattr(states, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.flush()
        mapped.madvise(mmap.MADV_DONTNEED)

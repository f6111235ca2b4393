"""Typed rows of parts, one after another, with bad rows refused or counted.

Two kinds of bad row are told apart. A broken row (JSON, encoding, fields) is an error, or is
skipped and counted on request. An unusable row (equal answers, an empty last answer, differing
prompts, reversed scores) is dropped and counted up to a small share, since every published set
holds some.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from alignjax.data import containers, layouts, recipe, records, rows, unfolding
from alignjax.data.layouts import detect, judged, pairs, ranked
from alignjax.text import chat

UNUSABLE = (
    chat.EQUAL,
    chat.PROMPTS_DIFFER,
    chat.NO_ANSWER,
    chat.EMPTY_ANSWER,
    pairs.REVERSED,
    ranked.NO_SCORE,
    ranked.FEW,
    judged.MISSING_TURN,
    judged.NO_CHOICE,
)
ERROR, SKIP = "error", "skip"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """How parts are read. fields: {the layout's name of a field: the data's}.

    on_bad_row: error stops at the first broken row, skip counts it. max_bad_share,
    max_unusable_share: shares of rows that may be broken, and unusable.
    """

    layout: layouts.Layout
    options: layouts.Options = dataclasses.field(default_factory=layouts.Options)
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    on_bad_row: str = ERROR
    max_bad_share: float = 0.01
    max_unusable_share: float = 0.05

    def parts(self, stored: Sequence[containers.Part]) -> list[containers.Part]:
        """The parts as the layout reads them."""
        return unfolding.parts(stored, self.layout, self.options, self.fields)

    def row(
        self, own: containers.Part, number: int, fields: records.Fields | records.DataError
    ) -> rows.Row | records.DataError:
        """The typed row, or what is wrong with it."""
        if isinstance(fields, records.DataError):
            return fields
        named = layouts.rename(fields, {} if self.layout.unfold else self.fields)
        try:
            return self.layout.row(layouts.Record(named, own.where, number, own.unit), self.options)
        except records.DataError as error:
            return error


@dataclasses.dataclass
class Tally:
    """What was read: rows, and the first error and number of each reason."""

    read: int = 0
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first: dict[str, records.DataError] = dataclasses.field(default_factory=dict)

    def add(self, error: records.DataError) -> None:
        """Counts a row that was left out."""
        self.dropped[error.reason] += 1
        self.first.setdefault(error.reason, error)

    def check(self, source: Source) -> None:
        """Raises DataError where more rows were left out than the source allows."""
        unusable = [reason for reason in self.dropped if reason in UNUSABLE]
        broken = [reason for reason in self.dropped if reason not in UNUSABLE]
        for reasons, option in ((broken, "max_bad_share"), (unusable, "max_unusable_share")):
            count, limit = sum(self.dropped[r] for r in reasons), getattr(source, option)
            if count > limit * self.read:
                shown = ", ".join(f"{self.dropped[reason]} {reason}" for reason in sorted(reasons))
                first = self.first[reasons[0]]
                raise records.DataError(
                    f"{first} In all {count} of {self.read} rows ({shown}), above data.{option} = "
                    f"{limit}.",
                    first.reason,
                )

    def reasons(self) -> str:
        """What was left out, in words."""
        return ", ".join(f"{n} {reason}" for reason, n in sorted(self.dropped.items())) or "none"


def read(parts: Iterable[containers.Part], source: Source, tally: Tally) -> Iterator[rows.Row]:
    """The usable rows of parts in order; the others are counted. `Tally.check` ends a reading.

    Raises:
      DataError: a broken row, under on_bad_row error; an id that was there before; a file that
        cannot be read on.
    """
    ids: set[str] = set()
    for own in parts:
        for number, fields in own.rows():
            tally.read += 1
            row = source.row(own, number, fields)
            if isinstance(row, rows.Row) and row.columns.get("id") is not None:
                row = _unique(row, ids, own)
            if isinstance(row, rows.Row):
                yield row
                continue
            if source.on_bad_row == ERROR and row.reason not in UNUSABLE:
                raise row
            tally.add(row)


def _unique(row: rows.Row, ids: set[str], own: containers.Part) -> rows.Row | records.DataError:
    key = repr(row.columns["id"])
    if key not in ids:
        ids.add(key)
        return row
    return records.problem(
        "id", "be unique", "an id seen before", file=row.file, line=row.line, unit=own.unit,
        advice="Renumber.", reason="duplicate id",
    )  # fmt: skip


def detected(
    parts: Sequence[containers.Part], name: str, fields: Mapping[str, str], where: str
) -> tuple[layouts.Layout, str]:
    """(the layout of the parts, one line that says how it was chosen); see `detect.choose`.

    Raises:
      DataError: no layout fits, several do, or the first rows are all broken.
    """
    given = itertools.chain.from_iterable(own.rows() for own in parts)
    first: list[Mapping[str, Any]] = []
    broken: records.DataError | None = None
    for _, row in itertools.islice(given, detect.FIRST_ROWS):
        if isinstance(row, records.DataError):
            broken = broken or row
        else:
            first.append(layouts.rename(row, fields))
    if not first:
        raise broken or records.problem(
            "data", "hold at least one row", "none", file=where, reason="no rows",
            advice="Check the path and data.names.",
        )  # fmt: skip
    return detect.choose(name, first, where)


def opening(row: rows.Row) -> bytes:
    """A digest of how a conversation opens: rows of one prompt have the same."""
    if isinstance(row, rows.Text):
        said = row.text
    else:
        first = rows.prompt_of(row)[:2]
        said = repr([turn for turn in first if turn.role != chat.ASSISTANT])
    return recipe.digest(said)


def is_held_out(row: rows.Row, share: float) -> bool:
    """Whether a row is kept for evaluation where no file says so: by its opening alone."""
    return int.from_bytes(opening(row)[:8], "big") < share * 2**64

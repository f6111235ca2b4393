"""The record of a layout, and how the layout of rows is told from their fields."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from alignjax.data import records, rows
from alignjax.data.layouts.record import Record

META = ("weight", "id")  # fields that any layout may have


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """score: which score ranks answers; "" is the layout's own choice."""

    score: str = ""


class Layout(NamedTuple):
    """How fields say what a row is.

    needs: sets of fields, of which a row has one whole set. about: in one line, for people.
    fits: whether the fields are of this layout, needs aside: their types. read: the typed row.
    uses: fields that are read, needs included; all others are the row's columns.
    yields: whether another layout that fits goes first. unfold: the fields of each judgement that
    a row of the data holds, or what is wrong with one; `read` reads these.
    """

    name: str
    about: str
    gives: tuple[type[rows.Row], ...]
    needs: tuple[tuple[str, ...], ...]
    read: Callable[[Record, Options], rows.Row]
    fits: Callable[[Mapping[str, Any]], bool] = lambda fields: True
    uses: tuple[str, ...] = ()
    yields: bool = False
    unfold: Callable[[Record, Options], Iterator[records.Fields | records.DataError]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """By its name, so that it reaches worker processes."""
        return _named, (self.name,)

    def needed(self) -> frozenset[str]:
        """All fields that some set of needs has."""
        return frozenset(name for names in self.needs for name in names)

    def has_needs(self, fields: Mapping[str, Any]) -> bool:
        """Whether some set of needed fields is there."""
        return any(all(fields.get(n) is not None for n in names) for names in self.needs)

    def is_of(self, fields: Mapping[str, Any]) -> bool:
        """Whether a row is of this layout."""
        return self.has_needs(fields) and self.fits(fields)

    def need(self, fields: Mapping[str, Any]) -> frozenset[str]:
        """The largest set of needed fields that a row has."""
        there = [n for n in self.needs if all(fields.get(name) is not None for name in n)]
        return frozenset(sorted(there, key=len)[-1] if there else ())

    def row(self, record: Record, options: Options) -> rows.Row:
        """The typed row with its weight, columns and place.

        Raises:
          DataError: the row breaks a rule; file, line and field are named.
        """
        typed = self.read(record, options)
        weight = record.number("weight") if "weight" in record else 1.0
        if weight <= 0:
            got, advice = repr(weight), "Drop the row, or give it a weight."
            raise record.bad("weight", "be above 0", got, advice, "weight")
        columns = record.rest((*self.uses, "weight"))
        return dataclasses.replace(
            typed, columns=columns, weight=typed.weight * weight, file=record.file,
            line=record.line,
        )  # fmt: skip


def _named(name: str) -> Layout:
    from alignjax.data import layouts

    return layouts.LAYOUTS[name]


def rename(fields: records.Fields, names: Mapping[str, str]) -> records.Fields:
    """The fields, with those of the data's names under the layout's: {layout's: data's}."""
    if not names:
        return fields
    back = {theirs: ours for ours, theirs in names.items()}
    kept = {n: v for n, v in fields.items() if n not in names or n in back}
    return {back.get(name, name): value for name, value in kept.items()}


def names_of(text: str) -> dict[str, str]:
    """{the layout's field: the data's} of "prompt=query,chosen=best".

    Raises:
      ValueError: it does not read so.
    """
    names = {}
    for entry in filter(None, text.split(",")):
        ours, mark, theirs = (part.strip() for part in entry.partition("="))
        if not (ours and mark and theirs):
            raise ValueError(
                f"data.fields must read layout's=yours,...; got {text!r} (data). Write for example "
                "prompt=query,chosen=best."
            )
        names[ours] = theirs
    return names

"""Groups of raters: their names in the data, their numbers in tables of pairs."""

from collections.abc import Sequence

from alignjax.data import records, rows

OTHERS = "*"  # stands for all groups that are not named


def names(text: str, field: str = "groups") -> tuple[str, ...]:
    """The names in data.groups, or another field, by comma, in the order of their numbers from 0.

    Raises:
      ValueError: one is there twice.
    """
    found = tuple(filter(None, (name.strip() for name in text.split(","))))
    if len(set(found)) < len(found):
        raise ValueError(
            f"data.{field} must be different names; got {text!r} (data). Name each once."
        )
    return found


def said(text: str) -> tuple[str, ...]:
    """A line that says which number each group has; none without groups."""
    numbers = ", ".join(f"{name} = {number}" for number, name in enumerate(names(text)))
    return (f"groups: {numbers}",) if numbers else ()


def number(row: rows.Row, known: Sequence[str]) -> int:
    """The place of a row's group among the names; a row of no group is of the group `unknown`.

    Raises:
      DataError: the names hold neither it nor *.
    """
    name = rows.group_of(row) or rows.UNKNOWN
    for own in (name, OTHERS):
        if own in known:
            return known.index(own)
    raise records.problem(
        rows.GROUP, f"be one of data.groups {', '.join(known)}", repr(name)[:40], file=row.file,
        line=row.line, reason="group", advice=f"Add it there, or add {OTHERS} for all others.",
    )  # fmt: skip

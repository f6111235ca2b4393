"""Which layout rows have: named, or told from the fields of the first ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.core import values
from alignjax.data import records
from alignjax.data.layouts import LAYOUTS, Layout
from alignjax.data.records import DataError

FIRST_ROWS = 64  # read to tell a layout


def choose(name: str, first: Sequence[Mapping[str, Any]], where: str) -> tuple[Layout, str]:
    """(the layout, one line that says how it was chosen).

    Args:
      name: of a layout; "" tells it from the fields of the first rows.

    Raises:
      DataError: no layout of the name or no field of it, none fits, or several do.
    """
    if name:
        values.check_choice("data.layout", name, LAYOUTS)
        layout = LAYOUTS[name]
        if first and not any(layout.has_needs(fields) for fields in first):
            raise _refused(f"data of layout {name} must have its fields", first, where, [layout])
        return layout, f"layout {name}: {layout.about}"
    counts = {own.name: sum(map(own.is_of, first)) for own in LAYOUTS.values()}
    least = max(len(first) / 2, 1)  # a bad row among the first ones is named when it is read
    fitting = [own for own in LAYOUTS.values() if counts[own.name] >= least]
    fitting = [own for own in fitting if not own.yields] or fitting
    fitting = [own for own in fitting if not any(_is_within(own, o, first) for o in fitting)]
    if len(fitting) == 1:
        return fitting[0], f"layout {fitting[0].name}, by its fields: {fitting[0].about}"
    if not fitting:
        raise _refused("data must have the fields of a layout", first, where, LAYOUTS.values())
    names = " and of ".join(own.name for own in fitting)
    raise _refused(f"data must be of one layout, not of {names}", first, where, fitting)


def _is_within(own: Layout, other: Layout, first: Sequence[Mapping[str, Any]]) -> bool:
    """Whether another layout needs all fields that this one does, and more."""
    both = (row for row in first if own.is_of(row) and other.is_of(row))
    return any(own.need(fields) < other.need(fields) for fields in both)


def _refused(rule: str, first: Sequence[Mapping[str, Any]], where: str, layouts: Any) -> DataError:
    fields: dict[str, str] = {}
    for row in first:
        fields |= {name: records.kind(value) for name, value in row.items()}
    shown = ", ".join(f"{name} ({kind})" for name, kind in fields.items()) or "no row"
    needs = "; ".join(
        f"{own.name} ({' or '.join(', '.join(names) for names in own.needs[:2])})"
        for own in layouts
    )
    return DataError(
        f"{rule}; got the fields {shown} ({where}). Set data.layout, or name fields by "
        f"data.fields='layout's=yours,...'. Layouts with their fields: {needs}.",
        "layout",
    )

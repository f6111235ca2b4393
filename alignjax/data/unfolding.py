"""Parts whose rows hold several judgements each, read as one row a judgement."""

import dataclasses
from collections.abc import Mapping, Sequence

from alignjax.data import containers, layouts, records


@dataclasses.dataclass(frozen=True)
class Unfolded(containers.Part):
    """A part in which each row is followed by its further judgements, under the row's number."""

    inner: containers.Part
    layout: layouts.Layout
    options: layouts.Options
    fields: Mapping[str, str]

    @property
    def unit(self) -> str:  # type: ignore[override]
        """What rows are called in messages."""
        return self.inner.unit

    def rows_from(self, start: containers.Start = containers.FIRST) -> containers.Rows:
        """(number, fields or the DataError) of every judgement."""
        assert self.layout.unfold is not None
        for number, fields in self.inner.rows_from(start):
            if isinstance(fields, records.DataError):
                yield number, fields
                continue
            named = layouts.rename(fields, self.fields)
            try:
                record = layouts.Record(named, self.where, number, self.unit)
                for judgement in self.layout.unfold(record, self.options):
                    yield number, judgement
            except records.DataError as error:
                yield number, error

    def starts(self) -> tuple[containers.Start, ...]:
        """Those of the part itself."""
        return self.inner.starts()

    def schema(self) -> Mapping[str, str]:
        """That of the part itself."""
        return self.inner.schema()


def parts(
    stored: Sequence[containers.Part],
    layout: layouts.Layout,
    options: layouts.Options,
    fields: Mapping[str, str],
) -> list[containers.Part]:
    """The parts as their layout reads them. fields: {the layout's name of a field: the data's}."""
    if layout.unfold is None:
        return list(stored)
    return [
        Unfolded(own.name, own.where, own.files, own, layout, options, dict(fields))
        for own in stored
    ]

"""CSV and TSV: a header, then a row of strings for each row."""

import csv
import io
import sys

from alignjax.data import records, storage
from alignjax.data.containers import part

MAX_CELL = 1 << 20  # characters


class Csv(part.Part):
    """A .csv or .tsv file; every value is a string. Numbers of rows are lines of the file."""

    unit = "line"

    def rows_from(self, start: part.Start = part.FIRST) -> part.Rows:
        """(line of the row's beginning, {column: string} or DataError)."""
        csv.field_size_limit(min(MAX_CELL, sys.maxsize))
        separator = "\t" if ".tsv" in storage.base(self.files[0]).lower() else ","
        reader = None
        try:
            with storage.plain(self.files[0]) as stream:
                text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
                reader = csv.reader(text, delimiter=separator, strict=True)
                yield from self._rows(reader)
        except UnicodeDecodeError as error:
            raise part.damaged(self, f"no UTF-8, {error.reason}", reason="invalid UTF-8") from None
        except csv.Error as error:
            at = reader.line_num if reader is not None else 0
            raise part.damaged(self, f"{error} in line {at}", reason="invalid CSV") from None
        except storage.UNREADABLE as error:
            raise part.damaged(self, storage.condensed(error)) from None

    def _rows(self, reader) -> part.Rows:  # type: ignore[no-untyped-def]
        header: list[str] = next(reader, [])
        names = [name.strip() for name in header]
        if len(set(names)) < len(names) or "" in names:
            raise records.problem(
                "header", "name every column once", ", ".join(names)[:120] or "nothing",
                file=self.where, line=1, advice="Give each column a name.", reason="header",
            )  # fmt: skip
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(names):
                yield line, dict(zip(names, cells, strict=True))
            elif cells:
                yield line, records.problem(
                    "row", f"have {len(names)} cells as the header has", str(len(cells)),
                    file=self.where, line=line, reason="cells",
                    advice="Quote cells that hold the separator.",
                )  # fmt: skip
            line = reader.line_num + 1

"""Parquet files, and the Arrow folders of `datasets.save_to_disk`, by pyarrow."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from alignjax.core import untrusted
from alignjax.data import records, storage
from alignjax.data.containers import part

BATCH = 512  # rows decoded at a time


class Parquet(part.Part):
    """A .parquet file; reading may begin at any of its row groups."""

    def rows_from(self, start: part.Start = part.FIRST) -> part.Rows:
        """(row, fields or DataError), from the row group `start.key` on."""
        number = start.row
        with storage.opened(self.files[0]) as stream:
            file = self._file(stream)
            _check_columns(self, file.schema_arrow)
            for group in range(start.key, file.num_row_groups):
                for batch in self._batches(file, group):
                    for fields in batch.to_pylist():
                        yield number, records.row(fields, self.where, number)
                        number += 1

    def starts(self) -> tuple[part.Start, ...]:
        """Every row group."""
        starts, row = [], 1
        with storage.opened(self.files[0]) as stream:
            metadata = self._file(stream).metadata
            for group in range(metadata.num_row_groups):
                starts.append(part.Start(row, group))
                row += metadata.row_group(group).num_rows
        return tuple(starts) or (part.FIRST,)

    def schema(self) -> Mapping[str, str]:
        """{column: type}."""
        with storage.opened(self.files[0]) as stream:
            schema = self._file(stream).schema_arrow
        return {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}

    def _file(self, stream: Any) -> Any:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(stream, pre_buffer=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise part.damaged(self, f"no Parquet, {storage.condensed(error)}") from None

    def _batches(self, file: Any, group: int) -> Iterator[Any]:
        import pyarrow as pa

        try:
            yield from file.iter_batches(batch_size=BATCH, row_groups=[group])
        except (pa.ArrowException, OSError, ValueError) as error:
            got = f"{storage.condensed(error)} in row group {group + 1}"
            raise part.damaged(self, got) from None


class Arrow(part.Part):
    """One file of a `save_to_disk` folder: record batches as a stream."""

    def rows_from(self, start: part.Start = part.FIRST) -> part.Rows:
        """(row, fields or DataError)."""
        import pyarrow as pa

        number = 1
        with storage.opened(self.files[0]) as stream:
            try:
                reader = pa.ipc.open_stream(stream)
                _check_columns(self, reader.schema)
                for batch in reader:
                    for fields in batch.to_pylist():
                        yield number, records.row(fields, self.where, number)
                        number += 1
            except (pa.ArrowException, OSError, EOFError) as error:
                got = f"{storage.condensed(error)} after row {number - 1}"
                raise part.damaged(self, got) from None

    def schema(self) -> Mapping[str, str]:
        """{column: type}."""
        import pyarrow as pa

        with storage.opened(self.files[0]) as stream:
            try:
                schema = pa.ipc.open_stream(stream).schema
            except (pa.ArrowException, OSError, EOFError) as error:
                raise part.damaged(self, f"no Arrow, {storage.condensed(error)}") from None
        return {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}


def saved_parts(folder: str) -> list[part.Part] | None:
    """The files of a `save_to_disk` folder, of one data set or of its splits; None of another."""
    if storage.exists(storage.join(folder, "dataset_dict.json")):
        splits = _read(folder, "dataset_dict.json", "splits")
        parts = []
        for split in splits:
            parts += _saved(storage.join(folder, str(split)), f"{split}/")
        return parts
    if storage.exists(storage.join(folder, "state.json")):
        return _saved(folder, "")
    return None


def _saved(folder: str, prefix: str) -> list[part.Part]:
    parts: list[part.Part] = []
    for entry in _read(folder, "state.json", "_data_files"):
        name = entry.get("filename", "") if isinstance(entry, dict) else ""
        file = storage.join(folder, name)
        if not name or pathlib.PurePosixPath(name).name != name or not storage.exists(file):
            raise _incomplete(folder, "state.json", f"{name!r}, which is not there")
        parts.append(Arrow(f"{prefix}{name}", file, (file,)))
    return parts


def _read(folder: str, name: str, entry: str) -> list[Any]:
    try:
        with storage.opened(storage.join(folder, name)) as stream:
            text = untrusted.take(stream, untrusted.CONFIG, name)
        value = untrusted.parse_json(text, name)[entry]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, records.DataError):
            raise
        raise _incomplete(folder, name, f"a file without {entry}") from None
    if not isinstance(value, list):
        raise _incomplete(folder, name, f"a {records.kind(value)} as {entry}")
    return value


def _incomplete(folder: str, name: str, got: str) -> records.DataError:
    return records.problem(
        name, "list the files of a save_to_disk folder", got, file=folder, reason="Arrow folder",
        advice="Save the data set again.",
    )  # fmt: skip


def _check_columns(own: part.Part, schema: Any) -> None:
    names = list(schema.names)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise records.problem(
            f"column {twice[0]}", "be given once", "two of the name", file=own.where,
            advice="Rename one.", reason="header",
        )  # fmt: skip

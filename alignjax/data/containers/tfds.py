"""TFDS data sets in array_record format, by folder or by name, read without TensorFlow.

Only this format is readable without TensorFlow; the others are refused by name before
tensorflow_datasets could try to import it.
"""

import dataclasses
import difflib
import os
from typing import Any

from alignjax.core import untrusted
from alignjax.data import records, storage
from alignjax.data.containers import part

INFO = "dataset_info.json"
BLOCK = 4096  # records between places where reading may begin
DEFAULT = "~/tensorflow_datasets"


@dataclasses.dataclass(frozen=True)
class Split(part.Part):
    """A split of a prepared folder: record number from 1, fields."""

    folder: str = ""
    unit = "record"

    def rows_from(self, start: part.Start = part.FIRST) -> part.Rows:
        """(record, fields or DataError); bytes are decoded as UTF-8."""
        source = self._source()
        for index in range(start.row - 1, len(source)):
            try:
                record = source[index]
            except Exception as error:  # array_record reports damage by several types
                got = f"{type(error).__name__} at record {index + 1}"
                raise _problem(self.folder, "be readable to its end", got) from None
            yield index + 1, records.row(record, self.where, index + 1, self.unit)

    def starts(self) -> tuple[part.Start, ...]:
        """Every some thousand records: any can be read by its number."""
        count = len(self._source())
        return tuple(part.Start(row) for row in range(1, count + 1, BLOCK)) or (part.FIRST,)

    def _source(self) -> Any:
        import tensorflow_datasets

        try:
            builder = tensorflow_datasets.builder_from_directory(self.folder)
            return builder.as_data_source(split=self.name)
        except Exception as error:  # whatever TFDS raises, the user's data is at fault
            got = storage.condensed(error)
            raise _problem(self.folder, "load as a TFDS data source", got) from None


def parts(folder: str) -> list[part.Part]:
    """The splits of a prepared folder.

    Raises:
      DataError: another format, a folder that does not load, or a link that leaves it.
    """
    try:
        with storage.opened(storage.join(folder, INFO)) as stream:
            text = untrusted.take(stream, untrusted.CONFIG, INFO)
        info = untrusted.parse_json(text, INFO)
        stored = info.get("fileFormat", "tfrecord")
        names = [split["name"] for split in info["splits"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _problem(
            storage.join(folder, INFO), "be the information of a TFDS folder", "something else"
        ) from None
    if stored != "array_record":
        raise _problem(folder, "be prepared with file_format='array_record'", stored)
    files = tuple(path for path in storage.listed(folder) if not storage.is_folder(path))
    storage.check_links(folder, files)
    return [Split(name, storage.join(folder, name), files, folder) for name in names]


def named(name: str) -> str:
    """The folder of a data set NAME[/CONFIG][:VERSION] in TFDS_DATA_DIR, its newest version.

    Raises:
      DataError: it is not there; the nearest names of those that are, are listed.
    """
    root = os.environ.get("TFDS_DATA_DIR") or os.path.expanduser(DEFAULT)
    wanted, _, version = name.partition(":")
    there = _prepared(root) if storage.is_folder(root) else {}
    if wanted not in there and f"{wanted}/default" not in there:
        single = [known for known in there if known.partition("/")[0] == wanted]
        wanted = single[0] if len(single) == 1 else wanted
    versions = there.get(wanted, {})
    if versions and not version:
        return versions[max(versions, key=_order)]
    if version in versions:
        return versions[version]
    known = [f"{n}:{v}" for n, own in sorted(there.items()) for v in sorted(own, key=_order)]
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.3) or known[:5]
    raise records.problem(
        "data.tfds", "name a prepared data set of TFDS_DATA_DIR", repr(name), file=root,
        reason="TFDS", advice=f"Nearest: {', '.join(near)}." if near else
        "There is none: set TFDS_DATA_DIR, and prepare with file_format='array_record'.",
    )  # fmt: skip


def _prepared(root: str) -> dict[str, dict[str, str]]:
    """{NAME or NAME/CONFIG: {version: folder}} of the data sets below a folder."""
    found: dict[str, dict[str, str]] = {}

    def visit(folder: str, names: tuple[str, ...]) -> None:
        if len(names) > 1 and storage.exists(storage.join(folder, INFO)):
            found.setdefault("/".join(names[:-1]), {})[names[-1]] = folder
        elif len(names) < 3:
            for path in storage.listed(folder):
                if storage.is_folder(path):
                    visit(path, (*names, storage.base(path)))

    visit(root, ())
    return found


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(digit) if digit.isdigit() else -1 for digit in version.split("."))


def _problem(path: str, rule: str, got: str) -> records.DataError:
    return records.problem(
        "TFDS folder", rule, got, file=path, reason="TFDS",
        advice="Prepare it again, or give .jsonl files.",
    )  # fmt: skip

"""One file of rows: a header, the places of the records, the records.

Every record carries a checksum that is compared whenever it is read, the header one of its own, and
the whole file a sha256 that `verify` recomputes.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from alignjax.core import untrusted
from alignjax.data import cache_files, codec, records, tables

FORMAT = 1
MAGIC = b"ALIGNJAX ROWS 1\n"
_PLACES = struct.Struct("<QQ")  # where a record begins, and the next one
_HEAD = struct.Struct("<II")  # bytes of the header, and its checksum
CHECKED = 64  # rows of a shard that are read back and compared before it is written


class Info(NamedTuple):
    """What a table's manifest says of a shard."""

    name: str
    rows: int
    bytes: int
    sha256: str


def write(path: epath.Path, table: tables.Table, spec: codec.Spec) -> Info:
    """Writes the rows of a table as a shard.

    Raises:
      ValueError: the table is not laid out as it would be read. DataError: the file cannot be
        written.
    """
    own = codec.spec_of(table, vocab_size=1 << 15 if not spec.wide else 1 << 31, pad=spec.pad)
    if own.columns != spec.columns:
        raise ValueError(
            f"every shard must have the columns {spec.columns}; got {own.columns} (data)."
        )
    entries = codec.encode(table, spec)
    codec.check_lossless({n: x[:CHECKED] for n, x in table.items()}, entries[:CHECKED], spec)
    return write_records(path, entries, spec)


def write_records(path: epath.Path, bodies: Sequence[bytes], spec: codec.Spec) -> Info:
    """Writes records as a shard."""
    entries = codec.checked(bodies)
    places = np.zeros(len(entries) + 1, "<u8")
    np.cumsum([len(entry) for entry in entries], out=places[1:])
    body = places.tobytes() + b"".join(entries)
    header = json.dumps(
        {"format": FORMAT, "rows": len(entries), "bytes": len(body), "spec": codec.as_json(spec),
         "sha256": cache_files.digest(body)}
    ).encode()  # fmt: skip
    header += b" " * (-(len(MAGIC) + _HEAD.size + len(header)) % 64)
    content = MAGIC + _HEAD.pack(len(header), zlib.crc32(header)) + header + body
    cache_files.write(path, content)
    return Info(path.name, len(entries), len(content), cache_files.digest(content))


class Shard:
    """A shard that is open for reading.

    Rows are read by place, not mapped: the system maps many pages around each that is touched, so
    that with random rows the memory of the process would grow to that of the files.

    Raises:
      DataError: the file is not there, cut, or something else.
    """

    def __init__(self, path: epath.Path):
        self.path = path
        try:
            untrusted.check_regular(cache_files.at_hand(path))
            self._file = os.open(cache_files.at_hand(path), os.O_RDONLY)
        except OSError as error:
            raise damaged(path, error.strerror or type(error).__name__) from None
        header, start = self._header()
        self.rows: int = header["rows"]
        self.spec = codec.from_json(header["spec"])
        self._places, self._start = start, start + 8 * (self.rows + 1)

    def close(self) -> None:
        """Closes the file; no row is read after it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.close()

    def _header(self) -> tuple[Mapping[str, Any], int]:
        begin = len(MAGIC) + _HEAD.size
        head = os.pread(self._file, begin, 0)
        if len(head) < begin or head[: len(MAGIC)] != MAGIC:
            raise damaged(self.path, "another kind of file")
        size, crc = _HEAD.unpack(head[len(MAGIC) :])
        text = os.pread(self._file, size, begin)
        if zlib.crc32(text) != crc:
            raise damaged(self.path, "a damaged header")
        header = untrusted.parse_json(text, str(self.path))
        whole = os.fstat(self._file).st_size
        if whole != begin + size + header["bytes"]:
            raise damaged(self.path, f"{whole} bytes, as if it were cut")
        self._size = whole
        return header, begin + size

    def record(self, row: int) -> memoryview:
        """The record of a row, by its number in the shard.

        Raises:
          DataError: it does not have its checksum.
        """
        begin, stop = _PLACES.unpack(os.pread(self._file, 16, self._places + 8 * row))
        if not codec.CRC < stop - begin <= self._size:
            raise damaged(self.path, f"a damaged place of row {row}")
        entry = os.pread(self._file, stop - begin, self._start + begin)
        body = memoryview(entry)[codec.CRC :]
        if zlib.crc32(body, row) != int.from_bytes(entry[: codec.CRC], "little"):
            raise damaged(self.path, f"a damaged row {row}")
        return body


def verify(path: epath.Path, info: Info) -> str:
    """What is wrong with a shard's file; "" for nothing. Reads all of it."""
    total = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    except OSError as error:
        return error.strerror or type(error).__name__
    return "" if total.hexdigest() == info.sha256 else "another content than was written"


def damaged(path: epath.Path, got: str) -> records.DataError:
    """The error of a shard that cannot be used."""
    return records.problem(
        "shard", "hold what prepare wrote", got, file=str(path), reason="damaged shard",
        advice="Delete the file, and run the same command again: it is made anew.",
    )  # fmt: skip

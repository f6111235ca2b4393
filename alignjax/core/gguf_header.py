"""The header of a GGUF file (llama.cpp's format): every length checked before it is believed."""

import os
from typing import Any, BinaryIO

import numpy as np

from alignjax.core import untrusted

VERSIONS = (2, 3)
KEYS = 2**16  # of the metadata
ITEMS = 2**24  # of one list in it; the largest vocabularies have 2^18
HEADER_LIMIT = 256 * 2**20  # bytes
NUMBERS = {
    **{0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4"},
    **{6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"},
}  # types of metadata
TEXT, ARRAY = 8, 9


class Cursor:
    """Reads a file forward; what is asked for is checked against what is left of a header.

    Attributes:
      size: bytes of the file.
      place: bytes read so far.
    """

    def __init__(self, file: BinaryIO, path: untrusted.File):
        self.file, self.path, self.place = file, path, 0
        self.size = os.fstat(file.fileno()).st_size
        self.left = min(self.size, HEADER_LIMIT)

    def fail(self, rule: str, value: Any) -> ValueError:
        return untrusted.Refused(f"{rule}; got {value!r:.200} ({self.path}).")

    def take(self, size: int, what: str) -> bytes:
        if size > self.left:
            raise self.fail(f"{what} must fit into the {self.left} bytes left", size)
        self.left -= size
        self.place += size
        return self.file.read(size)

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def text(self, what: str) -> str:
        raw = self.take(self.number(8, what), what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.fail(f"{what} must be UTF-8", raw[:80]) from None

    def count(self, least: int, what: str, most: int = ITEMS) -> int:
        """A number of items that take at least so many bytes each."""
        size = self.number(8, what)
        if size > self.left // least:
            raise self.fail(f"{what} must fit into the {self.left} bytes left", size)
        if size > most:
            raise self.fail(f"{what} must be at most {most} items", size)
        return size

    def value(self, key: str) -> Any:
        """A metadata value: a number, text, array of numbers, or list of texts."""
        what = f"metadata {key!r:.200}"
        kind = self.number(4, what)
        if kind == TEXT:
            return self.text(what)
        if kind != ARRAY:
            return self.numbers(kind, 1, what)[0].item()
        kind = self.number(4, what)
        if kind == TEXT:
            return [self.text(what) for _ in range(self.count(8, what))]
        return self.numbers(kind, self.count(1, what), what)

    def numbers(self, kind: int, count: int, what: str) -> np.ndarray:
        if kind not in NUMBERS:
            raise self.fail(f"{what} must be numbers, text or a list of one of them", kind)
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize, what), dtype)


def begin(cursor: Cursor) -> tuple[int, dict[str, Any]]:
    """(number of tensors, metadata) of a file of version 2 or 3, little-endian.

    Raises:
      ValueError: the header is not what it claims to be; one line that names file and field.
    """
    magic = cursor.take(min(4, cursor.left), "the magic number")
    if magic != b"GGUF":
        raise cursor.fail("a GGUF file must begin with b'GGUF'", magic)
    version = cursor.number(4, "the version")
    if version not in VERSIONS:
        raise cursor.fail("the version must be 2 or 3, little-endian", version)
    count = cursor.count(24, "the number of tensors")
    metadata: dict[str, Any] = {}
    for _ in range(cursor.count(13, "the number of metadata", KEYS)):
        key = cursor.text("a metadata key")
        if key in metadata:
            raise cursor.fail("metadata keys must be unique", key)
        metadata[key] = cursor.value(key)
    return count, metadata

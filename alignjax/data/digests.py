"""Questions about the digests of very many rows, answered at flat memory by buckets on disk."""

import contextlib
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u8")])
BUCKET = 1 << 18  # entries that a bucket should hold; all of them are in memory at once
MOST = 512  # buckets, each an open file


class Buckets:
    """Entries (digest, row number) in files by their digests' leading bits, in ascending order.

    columns: of numbers that an entry has beside. Used as a context; the files are gone after it.
    """

    def __init__(self, expected: int, columns: int = 0):
        self._entry = np.dtype([*ENTRY.descr, ("values", "<f8", (columns,))]) if columns else ENTRY
        count = min(max(expected // BUCKET, 1), MOST)
        self._bits = (count - 1).bit_length()

    def __enter__(self) -> "Buckets":
        self._stack = contextlib.ExitStack()
        self._folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="alignjax-"))
        names = [os.path.join(self._folder, str(i)) for i in range(1 << self._bits)]
        self._files: list[Any] = []
        for name in names:
            self._files.append(self._stack.enter_context(open(name, "w+b")))
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def add(self, digests: np.ndarray, rows: np.ndarray, values: np.ndarray | None = None) -> None:
        """Adds digests [n, 16] of rows [n], with values [n, columns]; those of zeros stand for none
        and are left out."""
        there = digests.any(axis=1)
        halves = np.ascontiguousarray(digests[there]).view(">u8").astype("<u8")
        entries = np.empty(len(halves), self._entry)
        entries["high"], entries["low"], entries["row"] = halves[:, 0], halves[:, 1], rows[there]
        if values is not None:
            entries["values"] = values[there]
        if not self._bits:
            self._files[0].write(entries.tobytes())
            return
        which = entries["high"] >> np.uint64(64 - self._bits)
        order = np.argsort(which, kind="stable")
        bounds = np.searchsorted(which[order], np.arange(len(self._files) + 1))
        for number, file in enumerate(self._files):
            own = order[bounds[number] : bounds[number + 1]]
            if len(own):
                file.write(entries[own].tobytes())

    def sorted(self) -> Iterator[np.ndarray]:
        """The entries of each bucket, by digest and then by row; buckets ascend."""
        for file in self._files:
            file.seek(0)
            entries = np.frombuffer(file.read(), self._entry)
            yield entries[np.lexsort((entries["row"], entries["low"], entries["high"]))]


def _is_new(entries: np.ndarray) -> np.ndarray:
    """Whether each sorted entry's digest differs from that of the one before."""
    new = np.ones(len(entries), bool)
    high, low = entries["high"], entries["low"]
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return new


def repeated(parts: Iterable[tuple[np.ndarray, np.ndarray]], expected: int) -> Iterator[np.ndarray]:
    """Row numbers of all but the first row of each digest; parts: (digests [n, 16], rows [n])."""
    with Buckets(expected) as buckets:
        for digests, rows in parts:
            buckets.add(digests, rows)
        for entries in buckets.sorted():
            yield entries["row"][~_is_new(entries)].astype(np.int64)


def groups(
    parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], expected: int, columns: int
) -> Iterator[np.ndarray]:
    """The entries of each digest that several rows have, in the rows' order.

    parts: (digests [n, 16], rows [n], values [n, columns]).
    """
    with Buckets(expected, columns) as buckets:
        for digests, rows, values in parts:
            buckets.add(digests, rows, values)
        for entries in buckets.sorted():
            bounds = np.append(np.flatnonzero(_is_new(entries)), len(entries))
            for place in np.flatnonzero(np.diff(bounds) > 1):
                yield entries[bounds[place] : bounds[place + 1]]


def smallest(parts: Iterable[tuple[np.ndarray, np.ndarray]], expected: int, share: float) -> bytes:
    """The largest of the smallest `share`, rounded up, of the distinct digests; b"" for none."""
    with Buckets(expected) as buckets:
        for digests, rows in parts:
            buckets.add(digests, rows)
        total = sum(int(_is_new(entries).sum()) for entries in buckets.sorted())
        wanted = math.ceil(share * total)
        for entries in buckets.sorted():
            own = entries[_is_new(entries)]
            if 0 < wanted <= len(own):
                last = own[wanted - 1]
                return b"".join(int(last[n]).to_bytes(8, "big") for n in ("high", "low"))
            wanted -= len(own)
    return b""


def below(share: float) -> bytes:
    """The largest digest among this share of all numbers, from the smallest; b"" for none."""
    count = math.ceil(share * 2**64)
    return (count - 1).to_bytes(8, "big") + b"\xff" * 8 if count else b""


def at_most(digests: np.ndarray, bound: bytes) -> np.ndarray:
    """Whether each digest [n, 16] is at most `bound`, as big-endian numbers; b"" is below all."""
    if not bound:
        return np.zeros(len(digests), bool)
    halves = np.ascontiguousarray(digests).view(">u8")
    high, low = (int.from_bytes(bound[i : i + 8], "big") for i in (0, 8))
    return (halves[:, 0] < high) | ((halves[:, 0] == high) & (halves[:, 1] <= low))

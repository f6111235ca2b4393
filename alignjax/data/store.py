"""A table on disk: shards of rows in a folder that is named after all that decides them."""

import collections
import hashlib
import json
import resource
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from alignjax.data import cache_files, codec, lazy, shard

MANIFEST = "table.json"
OPEN = 4096  # shards that are open at once, where the system allows as many files


class Manifest(NamedTuple):
    """What a finished table's folder says of itself.

    identity: all that its content depends on. shards: in the order of rows. counts: sums over the
    shards, for the log. notes: lines for it.
    """

    identity: Mapping[str, Any]
    spec: codec.Spec
    shards: tuple[shard.Info, ...]
    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(info.rows for info in self.shards)


def write_manifest(folder: epath.Path, manifest: Manifest) -> None:
    """Declares a table finished: written after all its shards."""
    values = manifest._asdict()
    values |= {"spec": codec.as_json(manifest.spec), "shards": [list(x) for x in manifest.shards]}
    cache_files.write_json(folder / MANIFEST, values)


def read_manifest(folder: epath.Path) -> Manifest | None:
    """The manifest of a finished table; None where it is not finished, or the file is damaged."""
    values = cache_files.read_json(folder / MANIFEST)
    if values is None:
        return None
    return Manifest(
        values["identity"],
        codec.from_json(values["spec"]),
        tuple(shard.Info(*info) for info in values["shards"]),
        values["counts"],
        tuple(values["notes"]),
    )


def read_whole(folder: epath.Path) -> Manifest | None:
    """The manifest of a finished table all of whose shards are there, by their sizes."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    whole = all(cache_files.size(folder / info.name) == info.bytes for info in manifest.shards)
    return manifest if whole else None


def content(table: Mapping[str, Any]) -> str:
    """A digest of all columns of a table: of a stored one by its shards' own digests."""
    total = hashlib.sha256()
    for name, column in table.items():
        total.update(f"{name} {np.dtype(column.dtype).str} {list(column.shape)}\n".encode())
        source = getattr(column, "source", None)
        if isinstance(source, Stored):
            shards = [[info.rows, info.sha256] for info in source.manifest.shards]
            total.update(f"{column.name} {json.dumps(shards)}\n".encode())
            continue
        for start in range(0, len(column), lazy.PORTION):
            rows = np.arange(start, min(start + lazy.PORTION, len(column)))
            total.update(np.ascontiguousarray(column[rows]).tobytes())
    return total.hexdigest()


class Stored:
    """The rows of a finished table; a `lazy.Source`.

    A row is read from its shard alone, and its checksum compared. Memory does not grow with rows.
    """

    def __init__(self, folder: epath.Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self.rows = manifest.rows
        shapes = manifest.spec.shapes.items()
        self.shapes = {name: lazy.Shape(tail, kind) for name, (tail, kind) in shapes}
        self._starts = np.cumsum([0, *(info.rows for info in manifest.shards)])
        self._open: collections.OrderedDict[int, shard.Shard] = collections.OrderedDict()
        self._limit = _open_files(len(manifest.shards))

    def read(self, rows: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of rows, each [B, ...].

        Raises:
          DataError: a shard is not there, or a row of it is damaged; the file is named.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.rows:
            raise IndexError(f"rows must lie in 0..{self.rows - 1}; got {rows.min()}..{rows.max()}")
        which = np.searchsorted(self._starts, rows, "right") - 1
        inner = (rows - self._starts[which]).tolist()
        entries = [
            self._shard(number).record(row)
            for number, row in zip(which.tolist(), inner, strict=True)
        ]
        return codec.decode(entries, self.manifest.spec, names)

    def record(self, row: int) -> memoryview:
        """The record of one row.

        Raises:
          DataError: as of `read`.
        """
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        return self._shard(number).record(row - int(self._starts[number]))

    def _shard(self, number: int) -> shard.Shard:
        own = self._open.get(number)
        if own is None:
            info = self.manifest.shards[number]
            own = shard.Shard(self.folder / info.name)
            if own.rows != info.rows or own.spec != self.manifest.spec:
                raise shard.damaged(own.path, "the shard of another table")
            self._open[number] = own
            if len(self._open) > self._limit:
                self._open.popitem(last=False)[1].close()
        return own


def _open_files(wanted: int) -> int:
    """How many shards can be open at once; the process's limit of files is raised for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = 256
    needed = min(wanted, OPEN) + spare
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return OPEN if soft == resource.RLIM_INFINITY else max(min(OPEN, soft - spare), 1)


def verify(folder: epath.Path, manifest: Manifest) -> list[str]:
    """Lines on the shards that are damaged, each with its file; every byte is read."""
    found = []
    for info in manifest.shards:
        problem = shard.verify(folder / info.name, info)
        if problem:
            found.append(f"{folder / info.name}: {problem}")
    return found

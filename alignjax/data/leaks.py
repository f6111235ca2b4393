"""Rows for evaluation that stand among those for training: counted, and refused above a share.

Where file names say which rows are for evaluation nothing else keeps the two apart; a hold-out
never has the opening of a training row, and needs no count.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from alignjax.data import cache_files, records

if TYPE_CHECKING:
    from alignjax.data import source_rows

NUMBER = np.dtype(">u8")  # of a row: the first 8 bytes of its digest
FILE = "rows-{:05d}.told"  # of a scanned source, in the order of its rows
ROWS = 1 << 20  # in a file
FEW = 10  # rows that are counted and never refused: of so few no share can be told


def number(digest: bytes) -> int:
    """A row's number, of the digest of all that it says."""
    return int.from_bytes(digest[: NUMBER.itemsize], "big")


def write(folder: epath.Path, parts: Iterable[np.ndarray]) -> int:
    """Writes the digests [n, 16] of a source's rows, part by part; returns how many files it took.

    By chance one of 10^5 rows has the number of one of 10^7 others with probability 5e-8.
    """
    count, held, rows = 0, list[bytes](), 0
    for part in parts:
        held.append(np.ascontiguousarray(part[:, : NUMBER.itemsize]).tobytes())
        rows += len(part)
        if rows >= ROWS:
            cache_files.write(folder / FILE.format(count), b"".join(held))
            count, held, rows = count + 1, [], 0
    if rows:
        cache_files.write(folder / FILE.format(count), b"".join(held))
        count += 1
    return count


def read(folder: epath.Path, files: int, rows: int = 1 << 62) -> Iterator[np.ndarray]:
    """The numbers of a source's first rows, file by file."""
    for count in range(files):
        if rows > 0:
            own = np.memmap(cache_files.at_hand(folder / FILE.format(count)), NUMBER, "r")[:rows]
            rows -= len(own)
            yield own


def of_sources(
    scanned: Mapping[str, "source_rows.Source"], limit: float, place: str, most: Mapping[str, int]
) -> tuple[str, ...]:
    """As of `said`, for the scanned sources of both splits; most: rows of each that are used, or 0.

    The count is kept beside the eval split's scan.
    """
    train, held = scanned["train"], scanned["eval"]
    if not (train.selection.told and held.selection.told):
        return ()
    rows = {split: own.selection.kept[split] for split, own in scanned.items()}
    rows = {split: min(count, most[split] or count) for split, count in rows.items()}
    key = cache_files.key_of({"train": train.identity, "rows": rows})
    file = held.folder / f"leaked-{key}.json"
    note = cache_files.read_json(file)
    if note is None:
        own = np.concatenate([*read(held.folder, held.selection.told, rows["eval"])])
        note = {"rows": _shared(read(train.folder, train.selection.told, rows["train"]), own)}
        cache_files.write_json(file, note)
    return said(int(note["rows"]), rows["eval"], limit, place)


def of_rows(
    rows: Mapping[str, Iterable[Any]], digest: Callable[[Any], bytes], limit: float, place: str
) -> tuple[str, ...]:
    """As of `said`, for the rows of both splits in memory; digest: of all that a row says."""
    train, held = (
        np.array([number(digest(row)) for row in rows[split]], np.uint64)
        for split in ("train", "eval")
    )
    return said(_shared([train], held), len(held), limit, place)


def _shared(train: Iterable[np.ndarray], held: np.ndarray) -> int:
    """How many of `held` stand among the numbers of training rows."""
    distinct, again = np.unique(held, return_inverse=True)
    there = np.zeros(len(distinct), bool)
    for rows in train:
        there |= np.isin(distinct, rows)
    return int(there[again].sum())


def said(count: int, total: int, limit: float, place: str | os.PathLike[str]) -> tuple[str, ...]:
    """A line that counts eval rows which stand among training rows; none where none does.

    Raises:
      DataError: they are `FEW` or more, and above `limit`, a share of all eval rows.
    """
    if count >= FEW and count > limit * total:
        raise records.problem(
            "eval rows",
            f"be others than the training rows, up to a share of max_leaked_share = {limit:g}",
            f"{count} of {total} that stand there too", file=os.fspath(place), reason="leaked",
            advice="Take them out of the training files, or raise data.max_leaked_share.",
        )  # fmt: skip
    return (f"leaked: {count} of {total} eval rows stand among training rows",) if count else ()

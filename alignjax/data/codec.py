"""Rows of a table as records of bytes without padding, and back, bit for bit.

A record is: the entries of fixed size; for every sequence of the row its number of documents, their
lengths and its tokens; then what further columns say of those tokens. The top bit of a token's word
is its loss mask. Segments, positions and padding follow from the lengths.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.data import tables

GROUP = ("tokens", "loss_mask", "segments", "positions")
PROMPTS = ("prompts", "lengths")
CRC = 4  # bytes of checksum before a record


class Spec(NamedTuple):
    """How the rows of a table are stored.

    columns: name -> (shape of a row's entry, dtype), in the table's order. sequences: the columns
    of token ids, "tokens" or "prompts"; "" where there are none. beside: columns with an entry for
    each token. wide: whether words have 32 bits. pad: the token that fills rows up.
    """

    columns: tuple[tuple[str, tuple[int, ...], str], ...]
    sequences: str
    beside: tuple[str, ...]
    wide: bool
    pad: int

    @property
    def word(self) -> Any:
        return np.dtype("<u4" if self.wide else "<u2")

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        return {name: (tuple(tail), np.dtype(kind)) for name, tail, kind in self.columns}

    @property
    def fixed(self) -> Any:
        """The dtype of a record's fixed part."""
        group = {"tokens": GROUP, "prompts": PROMPTS, "": ()}[self.sequences]
        fields = [
            (name, kind.newbyteorder("<"), tail)
            for name, (tail, kind) in self.shapes.items()
            if name not in group and name not in self.beside
        ]
        return np.dtype(fields)


def spec_of(table: tables.Table, *, vocab_size: int, pad: int) -> Spec:
    """How to store tables like this one; a function of shapes and dtypes alone."""
    columns = tuple((name, tuple(x.shape[1:]), x.dtype.str) for name, x in table.items())
    sequences, beside, length = "", tuple[str, ...](), 0
    if all(name in table for name in GROUP):
        sequences, tail = "tokens", table["tokens"].shape[1:]
        length = tail[-1]
        beside = tuple(n for n, x in table.items() if n not in GROUP and x.shape[1:] == tail)
    elif all(name in table for name in PROMPTS):
        sequences, length = "prompts", table["prompts"].shape[-1]
    wide = vocab_size > 1 << 15 or length >= 1 << 16
    return Spec(columns, sequences, beside, wide, pad)


BYTES = Spec((), "", (), False, 0)  # of records that no table is made of


def encode(table: tables.Table, spec: Spec) -> list[bytes]:
    """The records of a table's rows."""
    rows = tables.count(table)
    fixed = np.zeros(rows, spec.fixed)
    for name in spec.fixed.names or ():
        fixed[name] = table[name]
    size = spec.fixed.itemsize
    body = fixed.tobytes()
    heads = [body[row * size : (row + 1) * size] for row in range(rows)]
    if not spec.sequences:
        return heads
    if spec.beside:
        return [b"".join([heads[row], *_beside(table, spec, row)]) for row in range(rows)]
    stream, ends = _stream(table, spec)
    starts = [0, *ends.tolist()]
    return [heads[row] + stream[starts[row] : starts[row + 1]] for row in range(rows)]


def _stream(table: tables.Table, spec: Spec) -> tuple[bytes, np.ndarray]:
    """(the sequences of all rows one after another, where each row ends in bytes [N])."""
    words = table[spec.sequences].reshape(-1, table[spec.sequences].shape[-1]).astype(spec.word)
    count, length = words.shape
    if spec.sequences == "prompts":
        documents = np.array(table["lengths"], np.int64).reshape(-1, 1)
    else:
        segments = table["segments"].reshape(count, length)
        top = np.asarray(1 << (31 if spec.wide else 15), spec.word)
        words |= table["loss_mask"].reshape(count, length).astype(spec.word) * top
        most = max(int(segments.max(initial=0)), 1)
        keys = segments + np.arange(count, dtype=np.int64)[:, None] * (most + 1)
        found = np.bincount(keys.ravel(), minlength=count * (most + 1))
        documents = found.reshape(count, most + 1)[:, 1:]
    numbers = (documents > 0).sum(axis=1)
    if spec.sequences == "prompts":
        numbers = np.ones_like(numbers)
    sizes = documents.sum(axis=1)
    whole = np.concatenate(
        [numbers[:, None].astype(spec.word), documents.astype(spec.word), words], 1
    )
    there = np.ones(whole.shape, bool)
    most = documents.shape[1]
    there[:, 1 : 1 + most] = np.arange(most) < numbers[:, None]
    there[:, 1 + most :] = np.arange(length) < sizes[:, None]
    per_row = there.sum(axis=1).reshape(tables.count(table), -1).sum(axis=1)
    return whole[there].tobytes(), np.cumsum(per_row) * spec.word.itemsize


def _beside(table: tables.Table, spec: Spec, row: int) -> list[bytes]:
    """The sequences of a row with what further columns say of their tokens."""
    parts = []
    length = table["tokens"].shape[-1]
    columns = {name: table[name][row].reshape(-1, length) for name in (*GROUP, *spec.beside)}
    for number, segments in enumerate(columns["segments"]):
        size = int(np.count_nonzero(segments))
        documents = np.bincount(segments[:size])[1:].astype(spec.word)
        top = np.asarray(1 << (31 if spec.wide else 15), spec.word)
        words = columns["tokens"][number, :size].astype(spec.word)
        words |= columns["loss_mask"][number, :size].astype(spec.word) * top
        head = np.array([len(documents)], spec.word)
        parts += [head.tobytes(), documents.tobytes(), words.tobytes()]
        parts += [columns[name][number, :size].tobytes() for name in spec.beside]
    return parts


def checked(records: Sequence[bytes]) -> list[bytes]:
    """Records after their checksums, in which their numbers are."""
    return [
        zlib.crc32(body, row & 0xFFFFFFFF).to_bytes(CRC, "little") + body
        for row, body in enumerate(records)
    ]


def decode(
    records: Sequence[memoryview], spec: Spec, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Columns, by default all, of records without their checksums."""
    names = [name for name, _, _ in spec.columns] if names is None else names
    size = spec.fixed.itemsize
    found: dict[str, np.ndarray] = {}
    own = [name for name in names if name in (spec.fixed.names or ())]
    if own:
        fixed = np.frombuffer(b"".join([record[:size] for record in records]), spec.fixed)
        found = {name: fixed[name].astype(spec.shapes[name][1]) for name in own}
    if len(own) < len(names):
        found |= _decode_sequences(records, spec, size)
    return {name: found[name] for name in names}


def _decode_sequences(
    records: Sequence[memoryview], spec: Spec, skip: int
) -> dict[str, np.ndarray]:
    """The columns of token ids and those beside them.

    Padding is put between the records' own bytes, so that one array holds all rows at once.
    """
    tail, _ = spec.shapes[spec.sequences]
    length, per_row = tail[-1], int(np.prod(tail[:-1], dtype=np.int64))
    kinds = {name: spec.shapes[name][1] for name in spec.beside}
    heads = _heads_beside if spec.beside else _heads
    counts, documents, sizes, places, whole = heads(records, spec, skip, per_row)
    padding, zeros = np.full(length, spec.pad, spec.word).tobytes(), bytes(length * 8)
    pieces: list[bytes | memoryview] = []
    beside: dict[str, list[bytes | memoryview]] = {name: [] for name in kinds}
    width = spec.word.itemsize
    for size, place in zip(sizes.tolist(), places.tolist(), strict=True):
        stop = place + size * width
        pieces += (whole[place:stop], padding[size * width :])
        for name, kind in kinds.items():
            place, stop = stop, stop + size * kind.itemsize
            beside[name] += (whole[place:stop], zeros[: (length - size) * kind.itemsize])
    words = np.frombuffer(b"".join(pieces), spec.word)
    if spec.sequences == "prompts":
        found = {"prompts": words.astype(np.int32), "lengths": sizes.astype(np.int32)}
    else:
        ends = np.cumsum(counts)
        slots = np.arange(len(documents)) + np.repeat(np.arange(len(counts)), counts)
        rest = ends + np.arange(len(counts))  # of the padding, after a sequence's documents
        lengths = np.empty(len(documents) + len(counts), np.int64)
        lengths[slots], lengths[rest] = documents, length - sizes
        numbers = np.zeros(len(lengths), np.int32)
        numbers[slots] = np.arange(1, len(documents) + 1) - np.repeat(ends - counts, counts)
        found = _lay_out(words, lengths, numbers, spec.wide)
    found |= {name: np.frombuffer(b"".join(beside[name]), kinds[name]) for name in kinds}
    return {n: x.reshape(len(records), *spec.shapes[n][0]) for n, x in found.items()}


# Of sequences [S]: documents in each [S], lengths of all documents [D], tokens [S], the byte of the
# first token [S], and the bytes.
Heads = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, memoryview]


def _heads(records: Sequence[memoryview], spec: Spec, skip: int, per_row: int) -> Heads:
    """The sequences of records that are words alone after their fixed part."""
    tails = [record[skip:] for record in records]
    whole = b"".join(tails)
    words, width = np.frombuffer(whole, spec.word), spec.word.itemsize
    ends = np.cumsum([len(tail) for tail in tails]) // width
    place = np.concatenate([[0], ends[:-1]])
    shape = (len(records), per_row)
    counts, sizes, places = (np.empty(shape, np.int64) for _ in range(3))
    for number in range(per_row):
        counts[:, number] = words[place]
        sizes[:, number] = _sums(words, place + 1, counts[:, number])
        places[:, number] = place + 1 + counts[:, number]
        place = places[:, number] + sizes[:, number]
    documents = words[_ranges((places - counts).ravel(), counts.ravel())]
    return (
        counts.ravel(), documents, sizes.ravel(), places.ravel() * width, memoryview(whole)
    )  # fmt: skip


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of so many numbers, for each start."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(int(sizes.sum()))


def _sums(words: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Sums of so many words from each start."""
    if (sizes == 1).all():
        return words[starts].astype(np.int64)
    total = np.concatenate([[0], np.cumsum(words[_ranges(starts, sizes)], dtype=np.int64)])
    ends = np.cumsum(sizes)
    found: np.ndarray = total[ends] - total[ends - sizes]
    return found


def _heads_beside(records: Sequence[memoryview], spec: Spec, skip: int, per_row: int) -> Heads:
    """The sequences of records with columns beside the tokens."""
    width, beside = spec.word.itemsize, sum(spec.shapes[n][1].itemsize for n in spec.beside)
    counts, documents, sizes, places = list[int](), list[int](), list[int](), list[int]()
    start = 0
    for record in records:
        place = skip
        for _ in range(per_row):
            count = int(np.frombuffer(record, spec.word, 1, place)[0])
            own = np.frombuffer(record, spec.word, count, place + width).tolist()
            place += (1 + count) * width
            counts.append(count)
            documents += own
            sizes.append(sum(own))
            places.append(start + place)
            place += sizes[-1] * (width + beside)
        start += len(record)
    one, two, three, four = (
        np.array(values, np.int64) for values in (counts, documents, sizes, places)
    )
    return one, two, three, four, memoryview(b"".join(records))


def _lay_out(
    words: np.ndarray, sizes: np.ndarray, numbers: np.ndarray, wide: bool
) -> dict[str, np.ndarray]:
    """The group's columns, flat, as `packing.lay_out` makes them."""
    top = words.dtype.type(1 << (31 if wide else 15))
    starts = (sizes.cumsum() - sizes).astype(np.int32)
    segments = np.repeat(numbers, sizes)
    positions = np.arange(len(words), dtype=np.int32)
    positions -= np.repeat(starts, sizes)
    positions *= segments > 0
    return {
        "tokens": (words & (top - words.dtype.type(1))).astype(np.int32),
        "loss_mask": words >= top,
        "segments": segments,
        "positions": positions,
    }


def check_lossless(table: tables.Table, records: Sequence[bytes], spec: Spec) -> None:
    """Raises ValueError where records do not give the table back, bit for bit."""
    back = decode([memoryview(record) for record in records], spec)
    for name, column in table.items():
        if (
            back[name].dtype != column.dtype
            or back[name].tobytes() != np.ascontiguousarray(column).tobytes()
        ):
            raise ValueError(
                f"column {name} must be laid out as packing.lay_out does, or it cannot be stored; "
                "got other padding, segments or positions (data)."
            )


def with_columns(spec: Spec, shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> Spec:
    """A spec for tables of one kind that have these columns."""
    columns = tuple(
        (name, tuple(tail), np.dtype(kind).str) for name, (tail, kind) in shapes.items()
    )
    return spec._replace(columns=columns)


def as_json(spec: Spec) -> Mapping[str, Any]:
    """For the header of a file."""
    return spec._asdict()


def from_json(values: Mapping[str, Any]) -> Spec:
    """The spec that `as_json` wrote."""
    columns = tuple((name, tuple(tail), kind) for name, tail, kind in values["columns"])
    return Spec(columns, values["sequences"], tuple(values["beside"]), values["wide"],
                values["pad"])  # fmt: skip

"""Several documents in one row of fixed length: deterministic best-fit-decreasing packing.

Segment ids number the documents of a row from 1, positions restart at 0 in each, and padding
is segment 0. Nothing here cuts a document: a longer one than the row is refused.
"""

import bisect
import collections.abc

import numpy as np


def _check(lengths: collections.abc.Sequence[int], capacity: int) -> None:
    for index, size in enumerate(lengths):
        if not 1 <= size <= capacity:
            raise ValueError(
                f"document length must lie in 1..{capacity}; got {size} (document {index}). "
                "Truncate or split it before packing."
            )


def best_fit(lengths: collections.abc.Sequence[int], capacity: int) -> list[list[int]]:
    """Returns rows of document indices, each row's lengths summing to at most `capacity`.

    Documents are placed longest first (ties in input order) into the row with the least room
    that still suffices. The result depends on the lengths only: documents stand in input order
    within a row, and rows in order of their first document. Cost: O(n log n + n capacity/64).

    Raises: ValueError for a length outside 1..capacity.
    """
    _check(lengths, capacity)
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]  # room -> rows with that room
    rooms = 0  # bit r is set when some row has room r
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        size = lengths[index]
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms &= ~(1 << room)
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        left = room - size
        if left:
            open_rows[left].append(row)
            rooms |= 1 << left
    return sorted(sorted(row) for row in rows)


def best_fit_of_groups(
    lengths: collections.abc.Sequence[int],
    trunks: collections.abc.Sequence[int],
    groups: collections.abc.Sequence[int],
    capacity: int,
) -> list[list[int]]:
    """The same of documents that share a beginning: it stands once in each row that has some.

    Args:
      lengths: of whole documents, trunk included. trunks: [N], tokens of the beginning, the same in
        a group and less than the length. groups: [N], a number of each document's group.

    The group of the most tokens is placed first, and of a group the longest: into a row that has
    its trunk if there is room, else like any other, with its trunk. Cost: O(n log n + n rows).

    Returns rows of document indices: those of a group side by side, groups and documents in input
    order. Raises: ValueError as `best_fit`.
    """
    _check(lengths, capacity)
    own = [size - trunk for size, trunk in zip(lengths, trunks, strict=True)]
    total: dict[int, int] = {}
    for group, size in zip(groups, own, strict=True):
        total[group] = total.get(group, 0) + size
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room, row), in order
    having: dict[int, list[int]] = {}  # group -> rows with its trunk
    left: list[int] = []

    def put(row: int, index: int, size: int) -> None:
        del rooms[bisect.bisect_left(rooms, (left[row], row))]
        left[row] -= size
        bisect.insort(rooms, (left[row], row))
        rows[row].append(index)

    for index in sorted(range(len(own)), key=lambda i: (-total[groups[i]], groups[i], -own[i], i)):
        size, having_it = own[index], having.setdefault(groups[index], [])
        fitting = [row for row in having_it if left[row] >= size]
        if fitting:
            put(min(fitting, key=lambda row: (left[row], row)), index, size)
            continue
        # A row that has the trunk has less room than its document needs without it.
        at = bisect.bisect_left(rooms, (lengths[index], -1))
        if at == len(rooms):
            rooms.append((capacity, len(rows)))
            left.append(capacity)
            rows.append([])
        row = rooms[at][1]
        put(row, index, lengths[index])
        having_it.append(row)
    return sorted(sorted(row, key=lambda i: (groups[i], i)) for row in rows)


def lay_out(
    documents: collections.abc.Sequence[tuple[collections.abc.Sequence[int], ...]],
    length: int,
    *,
    pad_id: int,
    rows: collections.abc.Sequence[collections.abc.Sequence[int]] | None = None,
) -> dict[str, np.ndarray]:
    """Returns the table of the documents: tokens, loss_mask, segments, positions, each [N, T].

    Args:
      documents: (ids, mask) of each; mask is True where the token is a target of the loss.
      length: T, tokens in a row.
      pad_id: token of the padding; masks and segments come from lengths, never from this id.
      rows: document indices of each row, as from `best_fit`; one document a row if None.
    Returns: tokens int32, loss_mask bool (False on the first token of every segment: nothing
      predicts it), segments int32 (0 = padding), positions int32 (0 on padding).
    """
    if rows is None:
        rows = [[index] for index in range(len(documents))]
    order = [index for members in rows for index in members]
    ids = [np.asarray(documents[index][0], np.int32) for index in order]
    masks = [np.asarray(documents[index][1], bool) for index in order]
    segments = [segment for members in rows for segment in range(1, len(members) + 1)]
    where = np.repeat(np.arange(len(rows)), [len(members) for members in rows])
    return scatter(
        ids, masks, np.array([len(own) for own in ids], np.int64), where,
        np.array(segments, np.int32), (len(rows), length), pad_id=pad_id,
    )  # fmt: skip


def scatter(
    ids: collections.abc.Sequence[np.ndarray],
    masks: collections.abc.Sequence[np.ndarray],
    sizes: np.ndarray,
    rows: np.ndarray,
    segments: np.ndarray,
    shape: tuple[int, int],
    *,
    pad_id: int,
) -> dict[str, np.ndarray]:
    """Returns what `lay_out` does, for documents one after another in ascending rows.

    Args:
      ids, masks: of the documents, in any pieces. sizes, rows, segments: of each document [D].
    """
    count, length = shape
    total = int(sizes.sum())
    before = np.cumsum(sizes) - sizes  # of all tokens
    first = np.searchsorted(rows, np.arange(count))  # document of each row
    offsets = np.append(before, total)
    starts = before - offsets[first][rows]  # in its row
    if len(sizes) and int((starts + sizes).max()) > length:
        raise ValueError(f"documents must fit rows of {length} tokens; got more (lay_out).")
    places = np.repeat(rows * length + starts - before, sizes)
    places += np.arange(total)
    table = {
        "tokens": np.full(count * length, pad_id, np.int32),
        "loss_mask": np.zeros(count * length, bool),
        "segments": np.zeros(count * length, np.int32),
        "positions": np.zeros(count * length, np.int32),
    }
    if total:
        table["tokens"][places] = np.concatenate(ids)
        table["loss_mask"][places] = np.concatenate(masks)
        table["segments"][places] = np.repeat(segments, sizes)
        table["positions"][places] = np.arange(total) - np.repeat(before, sizes)
        table["loss_mask"][(rows * length + starts)[sizes > 0]] = False
    return {name: column.reshape(shape) for name, column in table.items()}


def unpack(table: collections.abc.Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (ids, loss_mask) of every document of a table, row by row, segment by segment."""
    documents = []
    for tokens, mask, segments in zip(
        table["tokens"], table["loss_mask"], table["segments"], strict=True
    ):
        for segment in range(1, int(segments.max(initial=0)) + 1):
            where = segments == segment
            documents.append((tokens[where], mask[where]))
    return documents

"""Several documents in one row of fixed length: deterministic best-fit-decreasing packing.

Segment ids number the documents of a row from 1, positions restart at 0 in each, and padding
is segment 0. Nothing here cuts a document: a longer one than the row is refused.
"""

import collections.abc

import numpy as np


def best_fit(lengths: collections.abc.Sequence[int], capacity: int) -> list[list[int]]:
    """Returns rows of document indices, each row's lengths summing to at most `capacity`.

    Documents are placed longest first (ties in input order) into the row with the least room
    that still suffices. The result depends on the lengths only: documents stand in input order
    within a row, and rows in order of their first document. Cost: O(n log n + n capacity/64).

    Raises: ValueError for a length outside 1..capacity.
    """
    for index, size in enumerate(lengths):
        if not 1 <= size <= capacity:
            raise ValueError(
                f"document length must lie in 1..{capacity}; got {size} (document {index}). "
                "Truncate or split it before packing."
            )
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
    shape = (len(rows), length)
    table = {
        "tokens": np.full(shape, pad_id, np.int32),
        "loss_mask": np.zeros(shape, bool),
        "segments": np.zeros(shape, np.int32),
        "positions": np.zeros(shape, np.int32),
    }
    count = np.arange(length, dtype=np.int32)
    for row, members in enumerate(rows):
        start = 0
        for segment, index in enumerate(members, start=1):
            ids, mask = documents[index]
            stop = start + len(ids)
            table["tokens"][row, start:stop] = ids
            table["loss_mask"][row, start:stop] = mask
            table["loss_mask"][row, start] = False
            table["segments"][row, start:stop] = segment
            table["positions"][row, start:stop] = count[: len(ids)]
            start = stop
    return table


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

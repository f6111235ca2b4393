"""Decisions between chunks of decoding, of lengths alone: which rows stand where, how wide it is.

Pure functions on the host. Slots are [D, S / D], of each of D shards of the mesh's batch axes. A
shard keeps to its own rows, the R / D from d R / D on, so no cache row ever moves to another
device. A slot holds a row's number, or FREE.
"""

from typing import NamedTuple

import numpy as np

FREE = -1
FEWEST_ROWS = 8  # below, a step costs as much with fewer rows
FEWEST_NEW = 64  # new tokens of the shortest cache: shorter ones save nothing


class Rungs(NamedTuple):
    """The sizes of compiled programs.

    rows: slots of a shard, falling. lengths: slots of a row's cache that are read, rising.
    """

    rows: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def programs(self) -> int:
        """How many programs decode and move rows: one a pair of sizes, one a halving of rows."""
        return len(self.rows) * len(self.lengths) + len(self.rows) - 1


def rungs(rows: int, shards: int, prompt: int, new: int, chunk: int, count: int) -> Rungs:
    """At most `count` sizes of each kind, every one half of the one before.

    rows: slots of all shards. prompt, new: tokens of a row at most. chunk: steps of a program.
    """
    sizes, lengths = [rows // shards], [new]
    while len(sizes) < count and _half(sizes[-1]) * shards >= FEWEST_ROWS and sizes[-1] > 1:
        sizes.append(_half(sizes[-1]))
    while len(lengths) < count and _half(lengths[0]) >= max(FEWEST_NEW, chunk):
        lengths.insert(0, _half(lengths[0]))
    return Rungs(tuple(sizes), tuple(prompt + length for length in lengths))


def _half(count: int) -> int:
    return -(-count // 2)


def read_length(lengths: tuple[int, ...], written: int, chunk: int) -> int:
    """The shortest cache for another chunk behind `written` slots; the longest is always enough."""
    return next((length for length in lengths if length >= written + chunk), lengths[-1])


def start(rows: int, shards: int) -> np.ndarray:
    """Slots where every row has one."""
    return np.arange(rows).reshape(shards, -1)


def released(slots: np.ndarray, live: np.ndarray) -> np.ndarray:
    """The slots without the rows that have ended; live: [R] bool."""
    return np.where((slots != FREE) & live[slots], slots, FREE)


def compact(slots: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray | None:
    """[D, S' / D] places within its shard of what each slot of the next size holds; None to wait.

    Live rows come first, in order; the fullest shard decides for all. One size at a time.
    """
    smaller = [size for size in sizes if size < slots.shape[1]]
    if not smaller or (slots != FREE).sum(axis=1).max() > smaller[0]:
        return None
    return np.argsort(slots == FREE, axis=1, kind="stable")[:, : smaller[0]]


class Queue(NamedTuple):
    """Rows that wait for a slot, in order.

    first: [D] the next row of each shard, counted within it. rows: of a shard. group: rows of one
    prompt. stock: [D] the first prompt of each shard whose prefill is at hand, of `held`; a shard's
    prompts are counted within it.
    """

    first: np.ndarray
    rows: int
    group: int
    stock: np.ndarray
    held: int

    @property
    def prompts(self) -> np.ndarray:
        """[D] the prompt of each shard's next row."""
        return self.first // self.group

    @property
    def waits(self) -> np.ndarray:
        """[D] bool: shards with a row that has had no slot."""
        return self.first < self.rows


def queue(rows: int, shards: int, group: int, held: int) -> Queue:
    """All rows wait, and no prefill is at hand."""
    nothing = np.full(shards, -held)
    return Queue(np.zeros(shards, int), rows // shards, group, nothing, held)


def needs_stock(slots: np.ndarray, waiting: Queue) -> bool:
    """Whether a shard has a free slot and a row for it whose prompt is not at hand."""
    ready = (slots == FREE).any(axis=1) & waiting.waits
    missing = waiting.prompts >= waiting.stock + waiting.held
    return bool((ready & missing).any())


def next_stock(waiting: Queue) -> tuple[np.ndarray, Queue]:
    """(prompts [D, held] to read next, the queue with them at hand).

    Every shard's stock begins with its next row's prompt. Behind the last prompt it is repeated.
    """
    last = waiting.rows // waiting.group - 1
    first = np.minimum(waiting.prompts, last)
    own = np.minimum(first[:, None] + np.arange(waiting.held), last)
    shards = np.arange(len(first))[:, None] * (last + 1)
    return own + shards, waiting._replace(stock=first)


class Fill(NamedTuple):
    """Rows that get slots: the first pairs[d] pairs of shard d.

    to: [D, S / D] slots within the shard; source: places in its stock; pairs: [D].
    """

    to: np.ndarray
    source: np.ndarray
    pairs: np.ndarray


def fill(slots: np.ndarray, waiting: Queue) -> tuple[np.ndarray, Fill, Queue]:
    """(slots with the next rows whose prompts are at hand, which went where, the rest)."""
    slots, first = slots.copy(), waiting.first.copy()
    to, source = np.zeros_like(slots), np.zeros_like(slots)
    pairs = np.zeros(len(slots), int)
    for shard, row in enumerate(slots):
        for place in np.flatnonzero(row == FREE):
            prompt = first[shard] // waiting.group - waiting.stock[shard]
            if first[shard] >= waiting.rows or prompt >= waiting.held:
                break
            to[shard, pairs[shard]], source[shard, pairs[shard]] = place, prompt
            row[place] = shard * waiting.rows + first[shard]
            first[shard] += 1
            pairs[shard] += 1
    return slots, Fill(to, source, pairs), waiting._replace(first=first)

"""The order of rows: endless shuffled streams as pure functions of (seed, position).

Nothing is saved and nothing grows with the number of rows: position k of a stream is computed from
k alone, whatever came before it, so that a run goes on at any step on any number of hosts.
"""

import math
from collections.abc import Sequence

import numpy as np

LISTED = 1 << 20  # rows up to which an epoch's order is one array, at most 8 MiB
CYCLE = 10_000  # slots over which the shares of a mixture are exact
ROUNDS = 6  # of the Feistel network; from 5 on no test of tests/data/test_order.py fails
_TAG = 0x6F726465
_ODD = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64
_HALF = np.uint64(32)


class Order:
    """One permutation of the rows after another, each of its own (seed, epoch).

    Up to LISTED rows a permutation is NumPy's own; above that a keyed one that is computed entry by
    entry in O(1) memory.

    part: number of the table in a mixture, whose tables have orders of their own; 0 is a single
    table.
    """

    def __init__(self, rows: int, seed: int, part: int = 0):
        self.rows = rows
        self._seed, self._part = seed & 0xFFFFFFFF, part
        self._epoch, self._order = -1, np.empty(0, np.int64)  # the rows, or keys of them

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Row numbers, int64, at positions >= 0 of the stream."""
        epochs, offsets = np.divmod(np.asarray(positions, np.int64), self.rows)
        found = np.empty(len(offsets), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = self._epoch_rows(int(epoch), offsets[here])
        return found

    def _epoch_rows(self, epoch: int, offsets: np.ndarray) -> np.ndarray:
        is_listed = self.rows <= LISTED
        if epoch != self._epoch:
            part = [self._part] if self._part else []
            random = np.random.default_rng([self._seed, _TAG, epoch, *part])
            self._epoch = epoch
            self._order = (
                random.permutation(self.rows)
                if is_listed
                else random.integers(1 << 63, size=ROUNDS)
            )
        return self._order[offsets] if is_listed else permuted(offsets, self.rows, self._order)


def permuted(values: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """The image of values in 0..size-1 under a bijection of 0..size-1 that the keys choose.

    A Feistel network on pairs (l, r) with l < width, r < height and width * height barely above
    `size`: each round adds a hash of one half to the other, modulo its range. What falls outside
    goes through again ("cycle walking"): under 2 in sqrt(size) values do. Reference: Black and
    Rogaway 2002, methods 2 and 3.

    Args:
      values: [N] integers. size: from 2 to 2^62. keys: [rounds] integers >= 0.
    """
    width = math.isqrt(size - 1) + 1
    height = -(-size // width)
    rounds = keys.astype(np.uint64)
    found = _feistel(values.astype(np.uint64), width, height, rounds)
    outside = np.flatnonzero(found >= size)
    while len(outside):
        found[outside] = _feistel(found[outside], width, height, rounds)
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


def _feistel(values: np.ndarray, width: int, height: int, keys: np.ndarray) -> np.ndarray:
    left, right = np.divmod(values, np.uint64(height))
    for number, key in enumerate(keys):
        if number % 2:
            _add_hash(right, left, key, height)
        else:
            _add_hash(left, right, key, width)
    left *= np.uint64(height)
    left += right
    return left


def _add_hash(target: np.ndarray, source: np.ndarray, key: np.uint64, modulus: int) -> None:
    """target = (target + hash(source, key)) mod modulus, in place."""
    mixed, size = source ^ key, np.uint64(modulus)
    for odd in _ODD:
        mixed *= odd
        mixed ^= mixed >> _HALF
    mixed >>= _HALF
    mixed *= size
    mixed >>= _HALF  # the hash in [0, 1), times the modulus: far cheaper than a remainder
    target += mixed
    np.minimum(target, target - size, out=target)  # a difference below 0 wraps to a huge number


class Mixture:
    """A stream over several tables with fixed shares, each table in epochs of its own.

    Slot k belongs to one table, by a schedule that repeats after at most CYCLE slots: in the first
    n slots, for every n, each table has its share of n to within one row, and in any window to
    within two. Shares are the weights rounded to 1 / CYCLE.

    Raises:
      ValueError: a weight is no positive number, or so small that its table never comes.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int):
        self._schedule, self._counts = schedule(weights)
        self._cycle = len(self._schedule)
        self._ranks = np.empty(self._cycle, np.int64)
        for table in range(len(sizes)):
            own = self._schedule == table
            self._ranks[own] = np.arange(int(own.sum()))
        self._orders = [Order(rows, seed, part) for part, rows in enumerate(sizes, 1)]

    def at(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(table, row of it), each int64, at slots >= 0 of the stream."""
        cycles, offsets = np.divmod(np.asarray(slots, np.int64), self._cycle)
        which = self._schedule[offsets]
        positions = cycles * self._counts[which] + self._ranks[offsets]
        rows = np.empty(len(which), np.int64)
        for table, order in enumerate(self._orders):
            own = which == table
            if own.any():
                rows[own] = order.at(positions[own])
        return which, rows


def schedule(weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(table of each slot of a cycle, slots of each table in it), both int64.

    Each slot goes to the table whose deadline is first among those that may have it, so that no
    prefix is off by a whole row. Reference: Tijdeman 1980, The chairman assignment problem.

    Raises:
      ValueError: a weight is no positive number, or rounds to no slot of a cycle.
    """
    given = np.asarray(weights, np.float64)
    if not len(given) or not (np.isfinite(given) & (given > 0)).all():
        raise ValueError(
            f"weights of a mixture must be positive numbers; got {list(weights)} (data). Leave a "
            "table of weight 0 out."
        )
    exact = given / given.sum() * CYCLE
    counts = np.floor(exact).astype(np.int64)
    for table in np.argsort(counts - exact, kind="stable")[: CYCLE - counts.sum()]:
        counts[table] += 1
    if (counts == 0).any():
        raise ValueError(
            f"a weight of a mixture must be at least 1/{CYCLE} of their sum; got {list(weights)} "
            "(data). Raise it, or leave the table out."
        )
    counts //= math.gcd(*counts.tolist())
    if len(counts) == 1:
        return np.zeros(1, np.int64), counts
    return _assign(counts), counts


def _assign(counts: np.ndarray) -> np.ndarray:
    total, tables = int(counts.sum()), len(counts)
    share, slack = counts / total, 1 / (2 * tables - 2)
    had, chosen = np.zeros(tables), np.empty(total, np.int64)
    for slot in range(total):
        lag = share * (slot + 1) - had
        deadline = np.where(lag >= slack - 1e-9, (1 - slack - lag) / share, np.inf)
        chosen[slot] = np.argmin(deadline)
        had[chosen[slot]] += 1
    return chosen

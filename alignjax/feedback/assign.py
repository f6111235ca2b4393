"""Who sees what, and in which order: pure functions of a seed and of what was seen before."""

import hashlib
import math
from collections.abc import Collection

from alignjax.feedback import project as projects

ORDINARY, GOLD, REPEAT = "ordinary", "gold", "repeat"
BETWEEN = 5  # items that a rater judges between an item and its repetition


def number(*said: object) -> int:
    """A number below 2^64, by a hash of values."""
    return int.from_bytes(hashlib.sha256(repr(said).encode()).digest()[:8], "big")


def shuffle(seed: int, item: str) -> float:
    """The place of an item among all, in [0, 1)."""
    return (number("shuffle", seed, item) >> 11) / 2**53


def target(own: projects.Project, item: str) -> int:
    """How many raters are to judge an item."""
    share = (number("overlap", own.seed, item) >> 11) / 2**53
    return own.raters if share < own.overlap else 1


def order(
    seed: int, item: str, rater: int, repeat: int, size: int, before: int, firsts: Collection[int]
) -> tuple[int, ...]:
    """The answers' numbers in the order in which a rater sees them.

    In every `size` items of so many answers that a rater sees, each answer stands once at each
    place; which comes when is a hash of the first four arguments. Two such rounds go through the
    answers in opposite directions, so that no answer always follows the same other.

    Args:
      before: items with as many answers that the rater had before. firsts: the answers that stood
        first in the last `before % size` of them.
    """
    free = [place for place in range(size) if place not in firsts]
    first = free[number("order", seed, item, rater, repeat) % len(free)]
    step = 1 if (before // size + number("direction", seed, rater)) % 2 else -1
    return tuple((first + step * i) % size for i in range(size))


def sort_of(own: projects.Project, rater: int, before: int) -> str:
    """What a rater's next item should be: ordinary, gold, or a repetition.

    In any n items a share has floor(n * share) or one more.

    Args:
      before: items that the rater had.
    """
    for name, share in ((GOLD, own.gold), (REPEAT, own.repeats)):
        start = (number(name, own.seed, rater) >> 11) / 2**53
        if math.floor((before + 1) * share + start) > math.floor(before * share + start):
            return name
    return ORDINARY

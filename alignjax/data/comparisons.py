"""Which answers of a ranking are compared, and votes on the same two answers joined."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from alignjax.data import rows

BEST_WORST, BEST_RANDOM, ALL = "best-worst", "best-random", "all"
RULES = (BEST_WORST, BEST_RANDOM, ALL)


class Chosen(NamedTuple):
    """answers: places of those that take part. compared: (better, worse) among these.
    preference: of each comparison, the probability that its first is better, at least 0.5."""

    answers: tuple[int, ...]
    compared: tuple[tuple[int, int], ...]
    preference: tuple[float, ...]


def best(row: rows.Answers) -> int:
    """The place of the best answer, the first of equals."""
    if row.ranks is None:
        return 0 if row.preference is None or row.preference >= 0.5 else 1
    return min(range(len(row.answers)), key=row.ranks.__getitem__)


def choose(row: rows.Answers, rule: str) -> Chosen | None:
    """The answers to compare; None where all are tied.

    Of two answers both, whatever the rule, and a tie only where a preference says so. Of more:
    best-worst the first best with the last worst, best-random the best with one that is worse, by a
    hash of the row, all every two of different rank. Where one alone is ranked, as the best of K,
    it is compared once whatever the rule, as by best-random: what lost is not told apart, and K - 1
    pairs would count one judgement as many.
    """
    if row.preference is not None:
        order = (0, 1) if row.preference >= 0.5 else (1, 0)
        return Chosen(order, ((0, 1),), (max(row.preference, 1 - row.preference),))
    if row.ranks is None or len(set(row.ranks)) == 1:
        return None
    ranks = row.ranks
    if len(ranks) > 2 and sum(map(math.isfinite, ranks)) == 1:
        rule = BEST_RANDOM
    if rule == ALL and len(ranks) > 2:
        places = range(len(ranks))
        compared = tuple((i, j) for i in places for j in places if ranks[i] < ranks[j])
        return Chosen(tuple(places), compared, (1.0,) * len(compared))
    first = best(row)
    worse = [i for i in range(len(ranks)) if ranks[i] > ranks[first]]
    if rule == BEST_RANDOM:
        second = worse[int.from_bytes(digest(row)[:8], "big") % len(worse)]
    else:
        second = max(worse, key=lambda i: (ranks[i], i))
    return Chosen((first, second), ((0, 1),), (1.0,))


def digest(row: rows.Row) -> bytes:
    """sha256 of what a row says, whatever its place, weight and columns."""
    plain = dataclasses.replace(row, columns={}, weight=1.0, file="", line=0)
    return hashlib.sha256(repr(plain).encode()).digest()


def told(row: rows.Row) -> bytes:
    """sha256 of what must not stand in training and evaluation: two answers in either order, with
    their prompt, whichever is better; of other rows all that they say."""
    own = vote(row)
    return own[0] if own else digest(row)


def prompt_digest(row: rows.Row) -> bytes:
    """sha256 of a row's prompt."""
    return hashlib.sha256(repr((rows.prompt_of(row), row.tools)).encode()).digest()


def vote_key(row: rows.Answers) -> tuple[bytes, bool]:
    """(digest of prompt, group and the two answers in either order, whether that is reversed).

    Votes of two groups are thus never joined.
    """
    one, two = (repr(answer) for answer in row.answers)
    turned = one > two
    said = [repr((row.prompt, row.tools)), *((two, one) if turned else (one, two))]
    group = rows.group_of(row)
    said += [group] if group else []
    return hashlib.sha256("\0".join(said).encode()).digest(), turned


def preference(row: rows.Answers) -> float:
    """The probability that the first of two answers is better; 0.5 where their ranks are tied."""
    if row.preference is not None:
        return row.preference
    first, second = row.ranks or (0.0, 0.0)
    return 0.5 if first == second else float(first < second)


class Vote(NamedTuple):
    """What a row says of its two answers: see `vote_key` and `preference`."""

    weight: float
    preference: float
    turned: bool


def joined(votes: Sequence[Vote]) -> tuple[float, float]:
    """(share of votes that prefer the first answer of the first row, their summed weight)."""
    total = share = 0.0
    for weight, own, turned in votes:
        total += weight
        share += weight * (own if turned == votes[0].turned else 1 - own)
    return share / total, total


def with_votes(row: rows.Answers, preference: float, weight: float) -> rows.Answers:
    """A row with the votes of all rows on its two answers; all else of it stays."""
    ranks = (0.0, 0.0) if preference == 0.5 else (0.0, 1.0) if preference > 0.5 else (1.0, 0.0)
    return dataclasses.replace(row, preference=preference, ranks=ranks, weight=weight)


def vote(row: rows.Row) -> tuple[bytes, Vote] | None:
    """(digest of what the votes are on, the vote) of a row of two answers; None of another."""
    if not isinstance(row, rows.Answers) or len(row.answers) != 2:
        return None
    key, turned = vote_key(row)
    return key, Vote(row.weight, preference(row), turned)


def merged(entries: Iterable[rows.Row]) -> tuple[list[rows.Row], int]:
    """(the rows, each pair once with its votes joined, in the order of the first; rows merged)."""
    kept: list[rows.Row] = []
    places: dict[bytes, int] = {}
    votes: dict[int, list[Vote]] = {}
    for row in entries:
        found = vote(row)
        if found is None:
            kept.append(row)
            continue
        place = places.setdefault(found[0], len(kept))
        votes.setdefault(place, []).append(found[1])
        if place == len(kept):
            kept.append(row)
    for place, own in votes.items():
        first = kept[place]
        if len(own) > 1 and isinstance(first, rows.Answers):
            kept[place] = with_votes(first, *joined(own))
    return kept, sum(len(own) - 1 for own in votes.values())

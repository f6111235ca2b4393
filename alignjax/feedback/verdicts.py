"""What a judge says of an item: every two answers in both orders, as one judgement.

{"pairs": [{"answers": [i, j], "logits": [x, y]}]}, of all pairs i < j of the answers' numbers: x is
the logit that i is better where i stands first, y the same where j does; null could not be read. A
verdict that could not be read is stored as that: it is no tie, and no missing judgement.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.feedback import content, database, payloads
from alignjax.rewards import judge
from alignjax.text import chat

SPEAKERS = {chat.HUMAN: "Human", chat.ASSISTANT: "Assistant", chat.SYSTEM: "System"}


class Pair(NamedTuple):
    """Two answers of an item by number, and the logits that `one` is better; NaN: unreadable."""

    one: int
    two: int
    one_first: float
    two_first: float

    @property
    def logit(self) -> float:
        """The mean of both orders, 0 for a tie; NaN unless both could be read."""
        return (self.one_first + self.two_first) / 2

    @property
    def chance(self) -> float:
        """That `one` is better, in [0, 1]; NaN where unreadable."""
        return 0.5 + 0.5 * math.tanh(self.logit / 2)


def pairs_of(answers: int) -> list[tuple[int, int]]:
    """Every two numbers of so many answers."""
    return list(itertools.combinations(range(answers), 2))


def payload(pairs: Sequence[Pair]) -> payloads.Payload:
    """What is stored.

    Raises:
      Refusal: an infinite logit.
    """
    for pair in pairs:
        if math.isinf(pair.one_first) or math.isinf(pair.two_first):
            raise content.Refusal(
                f"a judge's logits must be finite, or NaN where unreadable; got {pair.one_first}, "
                f"{pair.two_first}. Bound its scores."
            )
    return {
        "pairs": [
            {"answers": [own.one, own.two], "logits": [_or_null(x) for x in own[2:]]}
            for own in pairs
        ]
    }


def _or_null(logit: float) -> float | None:
    return None if math.isnan(logit) else float(logit)


def read(said: Mapping[str, Any]) -> Iterator[Pair]:
    """The pairs of a stored payload."""
    for own in said["pairs"]:
        logits = (math.nan if x is None else float(x) for x in own["logits"])
        yield Pair(*own["answers"], *logits)


def asked(turns: Sequence[tuple[str, str]]) -> str:
    """A prompt as a judge reads it: one human turn as it is, else every turn behind its speaker."""
    if len(turns) == 1 and turns[0][0] == chat.HUMAN:
        return turns[0][1]
    return "\n\n".join(f"{SPEAKERS[role]}: {text}" for role, text in turns)


class Count(NamedTuple):
    """verdicts: of both orders. unread: those of them that could not be read."""

    verdicts: int = 0
    unread: int = 0

    def plus(self, pairs: Sequence[Pair]) -> "Count":
        """The sum with those of pairs."""
        unread = sum(math.isnan(x) for own in pairs for x in own[2:])
        return Count(self.verdicts + 2 * len(pairs), self.unread + unread)


def judge_items(own: judge.Judge, items: Sequence[content.Item]) -> list[list[Pair]]:
    """The pairs of each item, in the order of `pairs_of`, by one question to the judge."""
    rows = [
        (asked(item.turns), item.candidates[i].text, item.candidates[j].text, i, j)
        for item in items
        for i, j in pairs_of(len(item.candidates))
    ]
    prompts, one, two, _, _ = (list(column) for column in zip(*rows, strict=True))
    found = own.pair(prompts, one, two)
    pairs = (
        Pair(i, j, float(x), float(y))
        for (*_, i, j), x, y in zip(rows, found.a_first, found.b_first, strict=True)
    )
    return [list(itertools.islice(pairs, len(pairs_of(len(item.candidates))))) for item in items]


def judge_all(
    db: database.Database,
    own: judge.Judge,
    rater: int,
    *,
    limit: int = 0,
    size: int = 8,
    log: Callable[[str], None] = lambda line: None,
) -> int:
    """How many items were judged: those of a database that the rater has not, `limit` at most.

    Each `size` items are one transaction: what `log` was told is on disk, and whoever calls again
    goes on with the rest. All pairs of an item are one judgement.

    Raises:
      Refusal: an infinite logit; and whatever the judge raises.
    """
    from alignjax.feedback.store import queries
    from alignjax.feedback.store import verdicts as stored

    clock = database.Clock(db.read(queries.latest))
    asked_for = db.read(queries.settings)
    names = db.read(stored.unjudged, rater)
    names = names[: limit or None]
    count = db.read(stored.count, rater)
    for start in range(0, len(names), size):
        part = [(name, db.read(queries.item, name)) for name in names[start : start + size]]
        begun = time.monotonic()
        judged = judge_items(own, [item for _, item in part])
        seconds = (time.monotonic() - begun) / len(part)
        rows = [
            stored.Verdict(name, len(item.candidates), payload(pairs))
            for (name, item), pairs in zip(part, judged, strict=True)
        ]
        db.write(stored.add, rater, rows, asked_for, seconds, clock.now())
        for pairs in judged:
            count = count.plus(pairs)
        log(
            f"judged: {start + len(part)} of {len(names)} items; {count.unread} of "
            f"{count.verdicts} verdicts could not be read"
        )
    return len(names)

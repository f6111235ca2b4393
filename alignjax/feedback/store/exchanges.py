"""Exchanges in the store: recorded with the probability of their review, counted, purged."""

import collections
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from alignjax.feedback import exchanges
from alignjax.feedback.schema import EXCHANGE, TRAFFIC, VERDICT
from alignjax.feedback.store import items

HOUR = 3600
PAGE = 1000


Key = tuple[int, str, str, str, str]  # hour, language, stage, stratum, category


class Count(NamedTuple):
    """How many exchanges of a kind an hour had. category: that blocked; "" counts each once."""

    hour: int
    language: str
    stage: str
    stratum: str
    category: str
    size: int


def record(
    c: sa.Connection,
    new: Sequence[exchanges.Exchange],
    plan: exchanges.Plan,
    now: float,
    *,
    keep_text: bool = False,
    rng: random.Random | None = None,
) -> list[int]:
    """The ids of those exchanges that were taken for review; all are counted.

    keep_text: whether their text is stored; without it nobody can judge them. rng: of the choice,
    by default the system's.
    """
    rng = rng or random.SystemRandom()
    counts: collections.Counter[Key] = collections.Counter()
    taken = []
    for own in new:
        stratum = plan.stratum(own)
        blocking = own.blocking if own.blocked else []
        for name in ("", *blocking):
            counts[int(now) // HOUR, own.language, own.stage, stratum, name] += 1
        probability = plan.probability(stratum)
        if rng.random() < probability:
            taken.append(_row(own, stratum, probability, now, keep_text, rng.random()))
    for key, count in counts.items():
        _add(c, key, count)
    return [items.new_id(c.execute(EXCHANGE.insert().values(**row))) for row in taken]


def _row(
    own: exchanges.Exchange,
    stratum: str,
    probability: float,
    now: float,
    keep_text: bool,
    shuffle: float,
) -> dict[str, Any]:
    scores = {name: None if math.isnan(x) else x for name, x in own.scores.items()}
    return {
        "digest": own.digest, "turns": [list(t) for t in own.turns] if keep_text else None,
        "language": own.language, "stage": own.stage, "scores": scores, "blocked": own.blocked,
        "error": own.error, "stratum": stratum, "probability": probability, "guard": own.guard,
        "shuffle": shuffle, "is_open": keep_text, "lease": 0.0, "created": now,
    }  # fmt: skip


def _add(c: sa.Connection, key: Key, count: int) -> None:
    own = dict(zip(Count._fields[:-1], key, strict=True))
    there = sa.and_(*(TRAFFIC.c[name] == value for name, value in own.items()))
    more = TRAFFIC.c["count"] + count
    changed = c.execute(TRAFFIC.update().where(there).values(count=more))
    if not changed.rowcount:
        c.execute(TRAFFIC.insert().values(**own, count=count))


def counts(c: sa.Connection, since: float = 0.0) -> list[Count]:
    """Counts of all hours from the one that holds `since`."""
    chosen = sa.select(TRAFFIC).where(TRAFFIC.c.hour >= int(since) // HOUR).order_by(TRAFFIC.c.hour)
    return [Count(*row) for row in c.execute(chosen)]


def reviewed(c: sa.Connection, since: float = 0.0) -> Iterator[exchanges.Reviewed]:
    """Every exchange that was taken for review, in the order of time, with what was said of it."""
    labels = _labels(c)
    chosen = sa.select(EXCHANGE).where(EXCHANGE.c.created >= since).order_by(EXCHANGE.c.id)
    for row in c.execution_options(yield_per=PAGE).execute(chosen):
        turns = row.turns and tuple((role, text) for role, text in row.turns)
        scores = {name: math.nan if x is None else x for name, x in row.scores.items()}
        yield exchanges.Reviewed(
            row.id, turns, row.language, row.stage, scores, row.blocked, row.stratum,
            row.probability, row.guard, row.created, labels.get(row.id),
        )  # fmt: skip


def _labels(c: sa.Connection) -> dict[int, dict[str, float]]:
    """{exchange: {category: share of raters whose verdict stands}}."""
    later = VERDICT.alias()
    chosen = (
        sa.select(VERDICT.c.exchange, VERDICT.c.labels)
        .join(later, later.c.supersedes == VERDICT.c.id, isouter=True)
        .where(later.c.id.is_(None), VERDICT.c.labels.is_not(None))
    )
    votes: dict[int, list[Mapping[str, bool]]] = {}
    for number, own in c.execute(chosen):
        votes.setdefault(number, []).append(own)
    found: dict[int, dict[str, float]] = {}
    for number, given in votes.items():
        names = {name for one in given for name in one}
        said = {name: [one[name] for one in given if name in one] for name in names}
        found[number] = {name: sum(own) / len(own) for name, own in sorted(said.items())}
    return found


def waiting(c: sa.Connection) -> int:
    """How many exchanges wait for a verdict."""
    chosen = sa.select(sa.func.count()).select_from(EXCHANGE).where(EXCHANGE.c.is_open)
    return int(c.execute(chosen).scalar_one())


def purge(c: sa.Connection, before: float) -> int:
    """How many exchanges older than a time lost their text; digests, scores and verdicts stay.

    A file of SQLite overwrites what is deleted.
    """
    if c.dialect.name == "sqlite":
        c.exec_driver_sql("PRAGMA secure_delete = ON")
    old = (EXCHANGE.c.created < before) & EXCHANGE.c.turns.is_not(None)
    changed = c.execute(EXCHANGE.update().where(old).values(turns=None, is_open=False))
    return int(changed.rowcount)

"""Judges' verdicts: which items lack one, and one stored for an item."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from alignjax.feedback import content, project, verdicts
from alignjax.feedback.schema import ASSIGNMENT, CANDIDATE, ITEM, JUDGEMENT, RATER
from alignjax.feedback.store import assignments, items


class Verdict(NamedTuple):
    """An item, how many answers it has, and what is stored of it."""

    item: str
    answers: int
    payload: dict[str, Any]


def rater(c: sa.Connection, name: str, attributes: dict[str, Any], now: float) -> int:
    """The id of the judge with this name, who is made if not there.

    Raises:
      Refusal: the name is another kind of rater's.
    """
    there = c.execute(sa.select(RATER.c.id, RATER.c.kind).where(RATER.c.name == name)).first()
    if there is None:
        return items.add_rater(c, name, now, kind=items.JUDGE, attributes=attributes, consent=True)
    if there.kind != items.JUDGE:
        raise content.Refusal(
            f"a judge's name must be its own; got {name}, a rater of kind {there.kind}. Name "
            "another."
        )
    return int(there.id)


def seen(c: sa.Connection, judge: int) -> set[str]:
    """Items that a judge has judged."""
    chosen = sa.select(ASSIGNMENT.c.item).where(ASSIGNMENT.c.rater == judge)
    return set(c.execute(chosen).scalars())


def _several() -> Any:
    """The select of items with two answers or more."""
    return sa.select(CANDIDATE.c.item).where(CANDIDATE.c.number == 1)


def unjudged(c: sa.Connection, judge: int) -> list[str]:
    """Items of two answers or more that a judge has not judged, in their shuffled order."""
    seen = sa.exists().where(ASSIGNMENT.c.item == ITEM.c.id, ASSIGNMENT.c.rater == judge)
    chosen = sa.select(ITEM.c.id).where(ITEM.c.id.in_(_several()), ~seen)
    return list(c.execute(chosen.order_by(ITEM.c.shuffle, ITEM.c.id)).scalars())


def alone(c: sa.Connection) -> int:
    """How many items have one answer, which nothing can be compared with."""
    chosen = sa.select(sa.func.count()).where(ITEM.c.id.not_in(_several()))
    return int(c.execute(chosen).scalar_one())


def add(
    c: sa.Connection,
    judge: int,
    rows: Sequence[Verdict],
    own: project.Project,
    seconds: float,
    now: float,
    kind: str = project.VERDICT,
) -> None:
    """Stores the verdicts on items that the judge has not judged; seconds: of each. kind: what else
    than verdicts the payloads are."""
    for row in rows:
        held = {
            "item": row.item, "rater": judge, "repeat": 0, "shown": list(range(row.answers)),
            "size": row.answers, "state": assignments.JUDGED, "lease": 0.0, "finished": now,
            "draft": None, "note": "",
        }  # fmt: skip
        number = items.new_id(c.execute(ASSIGNMENT.insert().values(**held)))
        said = {
            "assignment": number, "submission": f"{judge}:{row.item}", "kind": kind,
            "payload": row.payload, "reason": "", "seconds": seconds,
            "guideline_sha": own.guideline_sha, "created": now, "supersedes": None,
        }  # fmt: skip
        c.execute(JUDGEMENT.insert().values(**said))


def count(c: sa.Connection, judge: int) -> verdicts.Count:
    """All verdicts of a judge, and those that could not be read."""
    chosen = (
        sa.select(JUDGEMENT.c.payload)
        .join(ASSIGNMENT, ASSIGNMENT.c.id == JUDGEMENT.c.assignment)
        .where(ASSIGNMENT.c.rater == judge, JUDGEMENT.c.kind == project.VERDICT)
    )
    found = verdicts.Count()
    for said in c.execute(chosen).scalars():
        found = found.plus(list(verdicts.read(said)))
    return found

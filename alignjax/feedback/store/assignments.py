"""Items for raters: kept by leases, given up, finished, opened again."""

from typing import Any, NamedTuple

import sqlalchemy as sa

from alignjax.feedback import assign, content, payloads, project
from alignjax.feedback.content import Refusal
from alignjax.feedback.schema import ASSIGNMENT, CANDIDATE, ITEM
from alignjax.feedback.store import items

OPEN, DONE, SKIPPED, LOST = "open", "done", "skipped", "lost"
JUDGED = "judged"  # by a judge, which takes no rater's place
COUNT = sa.func.count()


class Assignment(NamedTuple):
    """An item for a rater. shown: the answers' numbers in the order in which they are shown."""

    id: int
    item: str
    rater: int
    repeat: int
    shown: tuple[int, ...]
    state: str
    lease: float
    draft: Any


def select(*where: Any) -> Any:
    """The select of assignments, in order."""
    columns = [ASSIGNMENT.c[name] for name in Assignment._fields]
    return sa.select(*columns).where(*where).order_by(ASSIGNMENT.c.id)


def of_row(row: Any) -> Assignment:
    """A row of `select`."""
    return Assignment(**{**row._mapping, "shown": tuple(row.shown)})


def of_rater(c: sa.Connection, number: Any, rater: int) -> Assignment:
    """A rater's assignment by its id.

    Raises:
      Refusal: there is none, or it is another's.
    """
    right = isinstance(number, int) and not isinstance(number, bool) and 0 < number < 2**31
    row = c.execute(select(ASSIGNMENT.c.id == number)).first() if right else None
    if row is None or row.rater != rater:
        raise Refusal(f"assignment must be one of yours; got {number!r:.40}.", 404)
    return of_row(row)


def _taken(item: Any, now: float) -> Any:
    """How many raters have judged an item, or hold it."""
    held = (ASSIGNMENT.c.state == OPEN) & (ASSIGNMENT.c.lease > now)
    return (
        sa.select(COUNT)
        .where(ASSIGNMENT.c.item == item, ASSIGNMENT.c.repeat == 0)
        .where((ASSIGNMENT.c.state == DONE) | held)
        .scalar_subquery()
    )


def is_free(c: sa.Connection, held: Assignment, now: float) -> bool:
    """Whether an assignment without a lease may go on: its item still lacks a rater."""
    if held.repeat:
        return True
    item = c.execute(
        sa.select(ITEM.c.gold, ITEM.c.target, _taken(ITEM.c.id, now)).where(ITEM.c.id == held.item)
    ).one()
    return item[0] is not None or item[2] < item[1]


def open_for(rater: int, now: float) -> Any:
    """The select of items that a rater may be asked about, in order."""
    seen = sa.exists().where(ASSIGNMENT.c.item == ITEM.c.id, ASSIGNMENT.c.rater == rater)
    return (
        sa.select(ITEM.c.id)
        .where(ITEM.c.is_open, ~seen, _taken(ITEM.c.id, now) < ITEM.c.target)
        .order_by(ITEM.c.shuffle)
    )


def next_for(c: sa.Connection, rater: int, own: project.Project, now: float) -> Assignment | None:
    """The item that a rater holds, else another one, kept for the rater; None where none is left.

    A lease that ran out is renewed unless somebody else has the item meanwhile.
    """
    until = now + own.lease_minutes * 60
    for row in c.execute(select(ASSIGNMENT.c.rater == rater, ASSIGNMENT.c.state == OPEN)).all():
        held = of_row(row)
        if held.lease > now or is_free(c, held, now):
            change(c, held.id, lease=until)
            return held._replace(lease=until)
        change(c, held.id, state=LOST)
        items.incident(c, "lease lost", f"assignment {held.id}", now)
    ordinary = c.execute(open_for(rater, now).limit(1)).scalar()
    if ordinary is None:
        return None
    before = c.execute(sa.select(COUNT).where(ASSIGNMENT.c.rater == rater)).scalar_one()
    wanted = assign.sort_of(own, rater, before)
    other = None
    if wanted == assign.GOLD:
        other = _gold(c, rater)
    elif wanted == assign.REPEAT:
        other = _repeatable(c, rater)
    repeat = int(wanted == assign.REPEAT and other is not None)
    return _assign(c, other or ordinary, rater, repeat, own, until)


def _gold(c: sa.Connection, rater: int) -> str | None:
    """An item with a known answer that the rater has not seen."""
    seen = sa.exists().where(ASSIGNMENT.c.item == ITEM.c.id, ASSIGNMENT.c.rater == rater)
    known = sa.select(ITEM.c.id).where(ITEM.c.gold.is_not(None), ~seen)
    return c.execute(known.order_by(ITEM.c.shuffle).limit(1)).scalar()


def _repeatable(c: sa.Connection, rater: int) -> str | None:
    """The oldest item that the rater has judged once, and some others after it."""
    again, first = ASSIGNMENT.alias(), ASSIGNMENT
    mine = (first.c.rater == rater, first.c.state == DONE, first.c.repeat == 0)
    recent = sa.select(first.c.id).where(*mine).order_by(first.c.id.desc())
    border = c.execute(recent.offset(assign.BETWEEN - 1).limit(1)).scalar()
    if border is None:
        return None
    repeated = sa.exists().where(
        again.c.item == first.c.item, again.c.rater == rater, again.c.repeat > 0
    )
    return c.execute(
        sa.select(first.c.item)
        .join(ITEM, ITEM.c.id == first.c.item)
        .where(*mine, first.c.id < border, ITEM.c.gold.is_(None), ~repeated)
        .order_by(first.c.id)
        .limit(1)
    ).scalar()


def _assign(
    c: sa.Connection, item: str, rater: int, repeat: int, own: project.Project, until: float
) -> Assignment:
    """A new assignment with its order."""
    count = sa.select(COUNT).where(CANDIDATE.c.item == item)
    size = c.execute(count).scalar_one()
    alike = (ASSIGNMENT.c.rater == rater, ASSIGNMENT.c.size == size)
    before = c.execute(sa.select(COUNT).where(*alike)).scalar_one()
    latest = sa.select(ASSIGNMENT.c.shown).where(*alike).order_by(ASSIGNMENT.c.id.desc())
    firsts = [shown[0] for shown in c.execute(latest.limit(before % size)).scalars()]
    shown = assign.order(own.seed, item, rater, repeat, size, before, firsts)
    row = {
        "item": item, "rater": rater, "repeat": repeat, "shown": list(shown), "size": size,
        "state": OPEN, "lease": until, "draft": None, "note": "",
    }  # fmt: skip
    number = items.new_id(c.execute(ASSIGNMENT.insert().values(**row)))
    return Assignment(number, item, rater, repeat, shown, OPEN, until, None)


def change(c: sa.Connection, number: int, **columns: Any) -> None:
    """Sets columns of an assignment."""
    c.execute(ASSIGNMENT.update().where(ASSIGNMENT.c.id == number).values(**columns))


def still(c: sa.Connection, number: Any, rater: int, now: float) -> Assignment:
    """An assignment that its rater may go on with.

    Raises:
      Refusal: it is another's, finished, or was given away after its lease.
    """
    held = of_rater(c, number, rater)
    if held.state in (DONE, SKIPPED):
        raise Refusal(f"assignment {held.id} must be open; got one that is {held.state}.", 409)
    if held.state == LOST or (held.lease <= now and not is_free(c, held, now)):
        raise Refusal(
            f"assignment {held.id} must be within its lease; got one that went to another rater. "
            "Take the next item.", 409,
        )  # fmt: skip
    return held


def heartbeat(
    c: sa.Connection, number: Any, rater: int, own: project.Project, now: float, draft: Any = None
) -> float:
    """Until when the rater now keeps the item, seconds; a draft is stored with it."""
    held = still(c, number, rater, now)
    until = now + own.lease_minutes * 60
    change(c, held.id, lease=until, **({} if draft is None else {"draft": draft}))
    return until


def finish(c: sa.Connection, held: Assignment, state: str, now: float, **columns: Any) -> None:
    """Ends an assignment as done or skipped."""
    change(c, held.id, state=state, finished=now, **columns)
    _count_raters(c, held.item)


def resume(c: sa.Connection, held: Assignment, until: float) -> Assignment:
    """The assignment, open again."""
    change(c, held.id, state=OPEN, lease=until, finished=None)
    _count_raters(c, held.item)
    return held._replace(state=OPEN, lease=until)


def _count_raters(c: sa.Connection, item: str) -> None:
    """Notes whether an item still lacks a rater."""
    done = (
        sa.select(COUNT)
        .where(ASSIGNMENT.c.item == item, ASSIGNMENT.c.repeat == 0, ASSIGNMENT.c.state == DONE)
        .scalar_subquery()
    )
    lacks = sa.and_(ITEM.c.gold.is_(None), done < ITEM.c.target)
    c.execute(ITEM.update().where(ITEM.c.id == item).values(is_open=lacks))


def skip(c: sa.Connection, number: Any, rater: int, note: str, now: float) -> None:
    """Gives an item up: that is no judgement, and another rater gets it."""
    held = still(c, number, rater, now)
    note = content.check_text("reason", note, limit=payloads.NOTE_BYTES, empty=True)
    finish(c, held, SKIPPED, now, note=note)

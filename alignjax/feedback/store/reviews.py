"""Reviews: an exchange for a rater, the verdict on it, and the way back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from alignjax.core import values
from alignjax.feedback import content
from alignjax.feedback.content import Refusal
from alignjax.feedback.schema import EXCHANGE, VERDICT
from alignjax.feedback.store import items

NOTE = 2500  # bytes
LEASE = 30 * 60.0  # seconds that an exchange is kept for a rater
DAY = 86_400.0


class Held(NamedTuple):
    """An exchange as its rater may see it: no score, which would tell what the guard thinks."""

    id: int
    turns: tuple[tuple[str, str], ...]
    language: str
    stage: str


def next_for(c: sa.Connection, rater: int, now: float) -> Held | None:
    """The exchange that a rater holds, else an open one at random; None where nothing is open.

    Within a kind the order is random, so that those judged so far are a fair sample of the kind.
    """
    own = EXCHANGE.c.holder == rater
    free = (EXCHANGE.c.holder.is_(None)) | (EXCHANGE.c.lease < now)
    for rule in (own & (EXCHANGE.c.lease >= now), free):
        chosen = sa.select(EXCHANGE).where(EXCHANGE.c.is_open, rule)
        row = c.execute(chosen.order_by(EXCHANGE.c.shuffle).limit(1)).first()
        if row is not None:
            return _hold(c, row, rater, now)
    return None


def _hold(c: sa.Connection, row: Any, rater: int, now: float) -> Held:
    where = EXCHANGE.c.id == row.id
    c.execute(EXCHANGE.update().where(where).values(holder=rater, lease=now + LEASE, is_open=True))
    return Held(row.id, tuple((role, text) for role, text in row.turns), row.language, row.stage)


def submit(
    c: sa.Connection,
    number: Any,
    rater: int,
    key: Any,
    labels: Any,
    now: float,
    *,
    categories: Mapping[str, str] | tuple[str, ...],
    note: Any = "",
    seconds: Any = None,
) -> int:
    """The id of the stored verdict; the same submission, sent twice, is stored once.

    labels: {category: whether it holds}, of all categories.

    Raises:
      Refusal: the exchange is not the rater's, or labels are none.
    """
    key = f"{rater}:{content.check_text('key', key, limit=100)}"
    there = c.execute(sa.select(VERDICT).where(VERDICT.c.submission == key)).first()
    if there is not None:
        if there.exchange != number:
            raise Refusal("key must be another for every submission; got one seen before.", 409)
        return int(there.id)
    named = _checked(labels, tuple(categories))
    content.check_text("note", note, limit=NOTE, empty=True)
    if seconds is not None:
        seconds = _seconds(seconds)
    _check_held(c, number, rater, now)
    c.execute(EXCHANGE.update().where(EXCHANGE.c.id == number).values(is_open=False))
    return _insert(c, number, rater, key, named, now, note=note, seconds=seconds)


def _insert(
    c: sa.Connection, number: int, rater: int, key: str, labels: Any, now: float, **more: Any
) -> int:
    """Adds a row to the chain of a rater's verdicts on an exchange."""
    latest = sa.select(VERDICT.c.id).where(VERDICT.c.exchange == number, VERDICT.c.rater == rater)
    before = c.execute(latest.order_by(VERDICT.c.id.desc()).limit(1)).scalar()
    row = {
        "exchange": number, "rater": rater, "submission": key, "labels": labels, "created": now,
        "supersedes": before, "note": "", **more,
    }  # fmt: skip
    return items.new_id(c.execute(VERDICT.insert().values(**row)))


def _checked(labels: Any, categories: tuple[str, ...]) -> dict[str, bool]:
    right = isinstance(labels, dict) and set(labels) == set(categories)
    if not right or not all(isinstance(value, bool) for value in labels.values()):
        raise Refusal(
            f"labels must say true or false of {', '.join(categories)}; got {labels!r:.80}."
        )
    return {name: labels[name] for name in categories}


def _seconds(seconds: Any) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise Refusal(f"seconds must be a number; got {seconds!r:.40}.")
    try:
        return float(values.check_number("seconds", seconds, minimum=0, maximum=DAY))
    except ValueError as error:
        raise Refusal(str(error)) from None


def _check_held(c: sa.Connection, number: Any, rater: int, now: float) -> None:
    whole = isinstance(number, int) and not isinstance(number, bool)
    row = c.execute(sa.select(EXCHANGE).where(EXCHANGE.c.id == number)).first() if whole else None
    if row is None:
        raise Refusal(f"an exchange must be there; got {number!r:.40}.", 404)
    if not row.is_open or row.holder != rater or row.lease < now:
        raise Refusal(
            "the exchange must be yours to judge; got one that is judged, purged or another's. "
            "Take the next one.", 409,
        )  # fmt: skip


def undo(c: sa.Connection, rater: int, now: float) -> Held | None:
    """The exchange of the rater's last verdict, open again; the verdict is taken back.

    None where there is none, or its text is purged.
    """
    later = VERDICT.alias()
    latest = (
        sa.select(VERDICT)
        .join(later, later.c.supersedes == VERDICT.c.id, isouter=True)
        .where(VERDICT.c.rater == rater, later.c.id.is_(None), VERDICT.c.labels.is_not(None))
    )
    own = c.execute(latest.order_by(VERDICT.c.id.desc()).limit(1)).first()
    if own is None:
        return None
    row = c.execute(sa.select(EXCHANGE).where(EXCHANGE.c.id == own.exchange)).one()
    if row.turns is None:
        return None
    _insert(c, row.id, rater, f"undo {own.id}", None, now)
    return _hold(c, row, rater, now)


def progress(c: sa.Connection, rater: int) -> tuple[int, int]:
    """(exchanges that a rater judged, exchanges that wait for a verdict)."""
    later = VERDICT.alias()
    live = (
        sa.select(sa.func.count())
        .select_from(VERDICT)
        .join(later, later.c.supersedes == VERDICT.c.id, isouter=True)
        .where(VERDICT.c.rater == rater, later.c.id.is_(None), VERDICT.c.labels.is_not(None))
    )
    left = sa.select(sa.func.count()).select_from(EXCHANGE).where(EXCHANGE.c.is_open)
    return int(c.execute(live).scalar_one()), int(c.execute(left).scalar_one())

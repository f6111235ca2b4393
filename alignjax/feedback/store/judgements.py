"""Submissions, stored once and never changed, and taken back by further rows."""

from typing import Any, NamedTuple

import sqlalchemy as sa

from alignjax.core import values
from alignjax.feedback import content, payloads, project
from alignjax.feedback.content import Refusal
from alignjax.feedback.schema import ASSIGNMENT, CANDIDATE, JUDGEMENT
from alignjax.feedback.store import assignments, items

DAY = 86400.0


class Sent(NamedTuple):
    """A submission. key: a text of the sender's that is another for every submission."""

    key: str
    judgements: Any
    seconds: float | None = None
    draft: Any = None


def submit(
    c: sa.Connection, number: Any, rater: int, sent: Sent, own: project.Project, now: float
) -> list[dict[str, Any]]:
    """The stored rows of a submission; the same one, sent twice, is stored once.

    Raises:
      Refusal: the assignment is not the rater's to judge, or a judgement is none.
    """
    key = f"{rater}:{content.check_text('key', sent.key, limit=100)}"
    there = c.execute(sa.select(JUDGEMENT).where(JUDGEMENT.c.submission == key)).all()
    if there:
        if any(row.assignment != number for row in there):
            raise Refusal("key must be another for every submission; got one seen before.", 409)
        return [dict(row._mapping) for row in there]
    held = assignments.still(c, number, rater, now)
    answers = sa.select(CANDIDATE.c.text).where(CANDIDATE.c.item == held.item)
    texts = tuple(c.execute(answers.order_by(CANDIDATE.c.number)).scalars())
    judged = payloads.submission(sent.judgements, payloads.Shown(held.shown, texts, own))
    heads = _heads(c, held.id)
    shared = {
        "assignment": held.id, "submission": key, "seconds": _seconds(sent.seconds),
        "guideline_sha": own.guideline_sha, "created": now,
    }  # fmt: skip
    stored = [
        _insert(c, {**shared, **one._asdict(), "supersedes": heads.get(one.kind)}) for one in judged
    ]
    assignments.finish(c, held, assignments.DONE, now, draft=sent.draft)
    return stored


def _seconds(seconds: Any) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise Refusal(f"seconds must be a number; got {seconds!r:.40}.")
    try:
        return float(values.check_number("seconds", seconds, minimum=0, maximum=DAY))
    except ValueError as error:
        raise Refusal(str(error)) from None


def _insert(c: sa.Connection, row: dict[str, Any]) -> dict[str, Any]:
    return {"id": items.new_id(c.execute(JUDGEMENT.insert().values(**row))), **row}


def _heads(c: sa.Connection, assignment: int) -> dict[str, int]:
    """{kind: the last row of its chain of revisions}."""
    rows = c.execute(
        sa.select(JUDGEMENT.c.kind, JUDGEMENT.c.id)
        .where(JUDGEMENT.c.assignment == assignment)
        .order_by(JUDGEMENT.c.id)
    )
    return {row.kind: row.id for row in rows}


def undo(
    c: sa.Connection, rater: int, own: project.Project, now: float
) -> assignments.Assignment | None:
    """The item that the rater finished last, open again; its judgements are taken back.

    None where there is none.

    Raises:
      Refusal: it was skipped, and went to another rater.
    """
    finished = ASSIGNMENT.c.state.in_((assignments.DONE, assignments.SKIPPED))
    latest = assignments.select(ASSIGNMENT.c.rater == rater, finished).order_by(None)
    row = c.execute(
        latest.order_by(ASSIGNMENT.c.finished.desc(), ASSIGNMENT.c.id.desc()).limit(1)
    ).first()
    if row is None:
        return None
    held = assignments.of_row(row)
    if held.state == assignments.SKIPPED and not assignments.is_free(c, held, now):
        raise Refusal("the item that was skipped must be free; got one of another rater.", 409)
    live = c.execute(
        sa.select(JUDGEMENT.c.id, JUDGEMENT.c.kind)
        .where(JUDGEMENT.c.id.in_(list(_heads(c, held.id).values())))
        .where(JUDGEMENT.c.payload.is_not(None))
    ).all()
    for one in live:
        _insert(c, {
            "assignment": held.id, "submission": f"undo {one.id}", "kind": one.kind,
            "payload": None, "reason": "", "guideline_sha": own.guideline_sha, "created": now,
            "supersedes": one.id,
        })  # fmt: skip
    return assignments.resume(c, held, now + own.lease_minutes * 60)

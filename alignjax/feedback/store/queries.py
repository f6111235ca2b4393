"""What is read of a database, by functions of any connection."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from alignjax.feedback import content, project, schema
from alignjax.feedback.schema import ASSIGNMENT, CANDIDATE, ITEM, JUDGEMENT, RATER
from alignjax.feedback.store import assignments, items

COUNT = sa.func.count()
PAGE = 1000  # rows that are held at once


class Judged(NamedTuple):
    """A judgement with what it is on and whose it is. payload: None where one is taken back.

    shown: the answers' numbers in the order of the page. is_live: whether it stands: no later row
    supersedes it, and it takes nothing back. is_gold: whether the item's answer is known.
    """

    id: int
    assignment: int
    item: str
    rater: int
    repeat: int
    shown: tuple[int, ...]
    kind: str
    payload: Mapping[str, Any] | None
    reason: str
    seconds: float | None
    guideline_sha: str
    created: float
    supersedes: int | None
    is_live: bool
    is_gold: bool


class Rater(NamedTuple):
    """A rater. attributes: those that may leave the database, {} without consent."""

    id: int
    name: str
    kind: str
    attributes: Mapping[str, Any]


class Progress(NamedTuple):
    """done, skipped: a rater's items. left: those that the rater may be asked about, up to 1000."""

    done: int
    skipped: int
    left: int


def settings(c: sa.Connection) -> project.Project:
    """The project's latest settings."""
    latest = sa.select(schema.PROJECT.c.settings).order_by(schema.PROJECT.c.id.desc()).limit(1)
    text = c.execute(latest).scalar()
    return project.Project() if text is None else project.parsed(text, "the database")


def rater_of(c: sa.Connection, token: str) -> int | None:
    """The id of the rater with this token."""
    return c.execute(
        sa.select(RATER.c.id).where(RATER.c.token_hash == items.hash_of(token))
    ).scalar()


def raters(c: sa.Connection) -> dict[int, Rater]:
    """All raters by id."""
    return {
        row.id: Rater(row.id, row.name, row.kind, row.attributes if row.consent else {})
        for row in c.execute(sa.select(RATER).order_by(RATER.c.id))
    }


def item(c: sa.Connection, name: str) -> content.Item:
    """An item with its answers."""
    row = c.execute(sa.select(ITEM).where(ITEM.c.id == name)).one()
    answers = sa.select(CANDIDATE).where(CANDIDATE.c.item == name).order_by(CANDIDATE.c.number)
    return content.Item(
        turns=tuple((role, text) for role, text in row.turns),
        candidates=tuple(
            content.Candidate(one.text, one.model, one.logprob) for one in c.execute(answers)
        ),
        language=row.language,
        gold=row.gold,
        source=row.source,
    )


def progress(c: sa.Connection, rater: int, now: float) -> Progress:
    """How far a rater is."""
    counts: dict[str, int] = dict(
        c.execute(
            sa.select(ASSIGNMENT.c.state, COUNT)
            .where(ASSIGNMENT.c.rater == rater)
            .group_by(ASSIGNMENT.c.state)
        )
        .tuples()
        .all()
    )
    left = sa.select(COUNT).select_from(assignments.open_for(rater, now).limit(PAGE).subquery())
    return Progress(
        done=counts.get(assignments.DONE, 0),
        skipped=counts.get(assignments.SKIPPED, 0),
        left=c.execute(left).scalar_one() + counts.get(assignments.OPEN, 0),
    )


def latest(c: sa.Connection) -> float:
    """The latest time that was written down, seconds; 0 in an empty database."""
    columns = (
        JUDGEMENT.c.created, ASSIGNMENT.c.finished, ITEM.c.created, RATER.c.created,
        schema.EXCHANGE.c.created, schema.VERDICT.c.created,
    )  # fmt: skip
    found = [c.execute(sa.select(sa.func.max(column))).scalar() for column in columns]
    return max((value for value in found if value is not None), default=0.0)


def judgements(c: sa.Connection) -> Iterator[Judged]:
    """Every judgement in the order of writing, those that no longer stand among them."""
    later = JUDGEMENT.alias()
    columns = [JUDGEMENT.c[n] for n in Judged._fields if n in JUDGEMENT.c]
    chosen = (
        sa.select(
            *columns, ASSIGNMENT.c.item, ASSIGNMENT.c.rater, ASSIGNMENT.c.repeat,
            ASSIGNMENT.c.shown, later.c.id.label("later"), ITEM.c.gold,
        )
        .join(ASSIGNMENT, ASSIGNMENT.c.id == JUDGEMENT.c.assignment)
        .join(ITEM, ITEM.c.id == ASSIGNMENT.c.item)
        .join(later, later.c.supersedes == JUDGEMENT.c.id, isouter=True)
        .order_by(JUDGEMENT.c.id)
    )  # fmt: skip
    for row in c.execution_options(yield_per=PAGE).execute(chosen):
        own = dict(row._mapping)
        gold, after = own.pop("gold"), own.pop("later")
        own |= {"shown": tuple(row.shown), "is_gold": gold is not None}
        yield Judged(**own, is_live=after is None and row.payload is not None)


def counts(c: sa.Connection) -> dict[str, int]:
    """{kind: live judgements that may train: of first sight, on items without a known answer}."""
    later = JUDGEMENT.alias()
    rows = c.execute(
        sa.select(JUDGEMENT.c.kind, COUNT)
        .join(ASSIGNMENT, ASSIGNMENT.c.id == JUDGEMENT.c.assignment)
        .join(ITEM, ITEM.c.id == ASSIGNMENT.c.item)
        .where(JUDGEMENT.c.payload.is_not(None), ITEM.c.gold.is_(None), ASSIGNMENT.c.repeat == 0)
        .where(~sa.exists().where(later.c.supersedes == JUDGEMENT.c.id))
        .group_by(JUDGEMENT.c.kind)
    )
    return dict(rows.tuples().all())


def totals(c: sa.Connection) -> dict[str, int]:
    """Rows of each table that people ask about."""
    tables = (ITEM, RATER, ASSIGNMENT, JUDGEMENT, schema.INCIDENT)
    return {t.name: c.execute(sa.select(COUNT).select_from(t)).scalar_one() for t in tables}

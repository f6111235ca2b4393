"""A project's settings, items and raters."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from alignjax.core import values
from alignjax.feedback import assign, content, project, schema
from alignjax.feedback.schema import CANDIDATE, ITEM, RATER

BATCH = 500  # items of one commit of an import
PERSON, JUDGE = "person", "judge"
RATER_KINDS = (PERSON, JUDGE, "rule", "simulated")


def hash_of(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def set_project(c: sa.Connection, own: project.Project, now: float) -> None:
    """Stores the settings, unless they are the latest already."""
    latest = sa.select(schema.PROJECT.c.settings).order_by(schema.PROJECT.c.id.desc()).limit(1)
    if c.execute(latest).scalar() != own.as_json():
        c.execute(
            schema.PROJECT.insert().values(
                settings=own.as_json(), guideline_sha=own.guideline_sha, created=now
            )
        )


def add_items(
    c: sa.Connection, items: Iterable[content.Item], own: project.Project, now: float
) -> int:
    """How many items were new; one that is there already stays as it is."""
    new = {item.id: item for item in items}
    there = set(c.execute(sa.select(ITEM.c.id).where(ITEM.c.id.in_(list(new)))).scalars())
    fresh = {name: item for name, item in new.items() if name not in there}
    if not fresh:
        return 0
    rows = [
        {
            "id": name, "turns": [list(turn) for turn in item.turns], "language": item.language,
            "gold": item.gold, "source": item.source, "target": assign.target(own, name),
            "is_open": item.gold is None, "shuffle": assign.shuffle(own.seed, name), "created": now,
        }
        for name, item in fresh.items()
    ]  # fmt: skip
    answers = [
        {"item": name, "number": number, **candidate._asdict()}
        for name, item in fresh.items()
        for number, candidate in enumerate(item.candidates)
    ]
    c.execute(ITEM.insert(), rows)
    c.execute(CANDIDATE.insert(), answers)
    return len(fresh)


def add_rater(
    c: sa.Connection,
    name: str,
    now: float,
    *,
    kind: str = PERSON,
    token: str = "",
    attributes: Mapping[str, Any] | None = None,
    consent: bool = False,
) -> int:
    """The id of the rater with this name, who is made or gets this token and these attributes."""
    content.check_text("a rater's name", name, limit=200)
    values.check_choice("a rater's kind", kind, RATER_KINDS)
    own = {
        "kind": kind, "token_hash": hash_of(token) if token else None,
        "attributes": dict(attributes or {}), "consent": consent,
    }  # fmt: skip
    there = c.execute(sa.select(RATER.c.id).where(RATER.c.name == name)).scalar()
    if there is not None:
        c.execute(RATER.update().where(RATER.c.id == there).values(**own))
        return int(there)
    return new_id(c.execute(RATER.insert().values(name=name, created=now, **own)))


def rater_named(c: sa.Connection, name: str, now: float) -> int:
    """The id of the rater with this name, who is made if not there, and else stays as is."""
    there = c.execute(sa.select(RATER.c.id).where(RATER.c.name == name)).scalar()
    return add_rater(c, name, now) if there is None else int(there)


def new_id(result: Any) -> int:
    """The id of the row that a statement inserted."""
    return int(result.inserted_primary_key[0])


def revoke(c: sa.Connection, kept: Iterable[str]) -> None:
    """Takes the tokens from all people but those with these names."""
    people = (RATER.c.kind == PERSON) & RATER.c.name.not_in(list(kept))
    c.execute(RATER.update().where(people).values(token_hash=None))


def incident(c: sa.Connection, kind: str, detail: str, now: float) -> None:
    """Notes something that should not happen."""
    c.execute(schema.INCIDENT.insert().values(kind=kind, detail=detail, created=now))

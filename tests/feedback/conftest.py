"""A database of a few items, and raters."""

import pathlib
import sqlite3

import pytest

from alignjax.feedback import content, database, project
from alignjax.feedback.store import assignments, items, judgements

ALONE = project.Project(overlap=0.0, gold=0.0, repeats=0.0)  # one rater an item, nothing twice


def item(number: int, answers: int = 2, **fields) -> content.Item:
    texts = [f"answer {letter} to {number}" for letter in "abcdefghi"[:answers]]
    candidates = tuple(content.Candidate(t, f"model-{i}") for i, t in enumerate(texts))
    return content.Item((("human", f"question {number}"),), candidates, **fields)


class Desk:
    """A database at a time that tests set, and short names for what raters do."""

    def __init__(self, db: database.Database, own: project.Project = ALONE) -> None:
        self.db, self.project, self.time, self.keys = db, own, 1000.0, 0
        db.write(items.set_project, own, self.time)

    def add(self, *given: content.Item) -> int:
        return self.db.write(items.add_items, given, self.project, self.time)

    def rater(self, name: str, **options) -> int:
        return self.db.write(items.add_rater, name, self.time, **options)

    def next(self, rater: int) -> assignments.Assignment | None:
        return self.db.write(assignments.next_for, rater, self.project, self.time)

    def submit(self, number: int, rater: int, payload=None, kind="choice", key="", more=(), **sent):
        self.keys += 1
        payload = payload or {"choice": "first"}
        judged = [{"kind": kind, "payload": payload}, *more]
        one = judgements.Sent(key or f"key {self.keys}", judged, **sent)
        return self.db.write(judgements.submit, number, rater, one, self.project, self.time)

    def judge(self, rater: int, payload=None, **options):
        held = self.next(rater)
        return held, self.submit(held.id, rater, payload, **options)

    def undo(self, rater: int):
        return self.db.write(judgements.undo, rater, self.project, self.time)


@pytest.fixture
def place(tmp_path) -> str:
    return str(tmp_path / "feedback.db")


@pytest.fixture
def desk(place):
    with database.opened(place, new=True) as db:
        yield Desk(db)


@pytest.fixture
def desk_items(place):
    """A database of six items: of two answers, one of three, one of one."""
    with database.opened(place, new=True) as db:
        desk = Desk(db)
        desk.add(*[item(i) for i in range(4)], item(4, 3), item(5, 1))
    return place


def rows(place: str | pathlib.Path, query: str) -> list[tuple]:
    """What another program reads of the file."""
    connection = sqlite3.connect(place)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()

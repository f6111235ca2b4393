"""Exchanges of a guard: kinds, known probabilities, verdicts, the way back, and what is kept."""

import math
import random

import numpy as np
import pytest

from alignjax.feedback import content, database, exchanges
from alignjax.feedback.store import exchanges as stored
from alignjax.feedback.store import items, reviews
from tests.feedback.conftest import rows

LIMITS = {"a": 0.5, "b": 0.9}
SECRET = "a text that nobody is to keep"


def exchange(a=0.1, b=0.1, text="hello", **more):
    blocked = a > 0.5 or b > 0.9
    own = exchanges.Exchange((("human", text),), {"a": a, "b": b}, LIMITS, blocked, language="en")
    return own._replace(**more)


@pytest.fixture
def place(tmp_path):
    return str(tmp_path / "review.db")


@pytest.mark.parametrize(
    ("own", "stratum"),
    [
        (exchange(), "allowed"),
        (exchange(a=0.55), "uncertain"),
        (exchange(a=0.45), "uncertain"),
        (exchange(a=0.99), "blocked"),
        (exchange(b=0.86), "uncertain"),
        (exchange(a=1.0, b=0.0), "blocked"),
        (exchange(a=math.nan, blocked=True), "failed"),
        (exchange(error="down", blocked=True), "failed"),
    ],
)
def test_the_kind_of_an_exchange(own, stratum):
    assert exchanges.Plan(band=0.5).stratum(own) == stratum


def test_every_kind_must_be_reviewed_sometimes():
    with pytest.raises(ValueError, match=r"review.allowed must be finite and > 0"):
        exchanges.Plan(allowed=0.0).validate()
    exchanges.Plan().validate()


def test_exchanges_are_taken_at_their_probabilities_and_all_are_counted(place):
    plan = exchanges.Plan(blocked=0.3, allowed=0.1)
    given = [exchange()] * 4000 + [exchange(a=0.99, b=0.95)] * 2000 + [exchange(a=0.5)] * 50
    with database.opened(place, new=True) as db:
        ids = db.write(stored.record, given, plan, 7200.0, rng=random.Random(0))
        found = list(db.read(lambda c: list(stored.reviewed(c))))
        counts = db.read(stored.counts)
    assert [one.id for one in found] == ids
    kinds = {name: [one for one in found if one.stratum == name] for name in exchanges.STRATA}
    for name, size, p in (("allowed", 4000, 0.1), ("blocked", 2000, 0.3), ("uncertain", 50, 1.0)):
        assert abs(len(kinds[name]) - size * p) <= 4 * math.sqrt(size * p * (1 - p))
        assert {one.probability for one in kinds[name]} == {p}
    told = {(one.hour, one.stratum, one.category): one.size for one in counts}
    assert told == {
        (2, "allowed", ""): 4000, (2, "blocked", ""): 2000, (2, "uncertain", ""): 50,
        (2, "blocked", "a"): 2000, (2, "blocked", "b"): 2000,
    }  # fmt: skip


def raters(db):
    return [db.write(items.rater_named, name, 1.0) for name in ("one", "two")]


def test_verdicts_are_stored_once_taken_back_and_counted(place):
    with database.opened(place, new=True) as db:
        one, two = raters(db)
        db.write(stored.record, [exchange(a=0.5, text=f"t{i}") for i in range(3)],
                 exchanges.Plan(), 10.0, keep_text=True)  # fmt: skip
        held = db.write(reviews.next_for, one, 20.0)
        assert held._fields == ("id", "turns", "language", "stage")
        assert db.write(reviews.next_for, one, 21.0) == held  # a reload
        other = db.write(reviews.next_for, two, 21.0)
        assert other.id != held.id

        def submit(rater, number, key, labels=None, now=30.0, **more):
            labels = {"a": True, "b": False} if labels is None else labels
            return db.write(reviews.submit, number, rater, key, labels, now,
                            categories=("a", "b"), **more)  # fmt: skip

        first = submit(one, held.id, "k", seconds=2)
        assert submit(one, held.id, "k") == first
        assert db.read(reviews.progress, one) == (1, 2)
        for wrong, match in (
            (lambda: submit(two, held.id, "x"), "must be yours"),
            (lambda: submit(two, other.id, "x", {"a": True}), "true or false of a, b"),
            (lambda: submit(two, other.id, "x", {"a": 1, "b": 0}), "true or false of a, b"),
            (lambda: submit(two, 99, "x"), "must be there"),
            (lambda: submit(two, other.id, "x", now=1e9), "must be yours"),
            (lambda: submit(one, other.id, "k"), "key must be another"),
            (lambda: submit(two, other.id, "x", seconds="2"), "seconds must be a number"),
        ):
            with pytest.raises(content.Refusal, match=match):
                wrong()
        back = db.write(reviews.undo, one, 40.0)
        assert back.id == held.id
        assert all(one.labels is None for one in db.read(lambda c: list(stored.reviewed(c))))
        submit(one, held.id, "k2", {"a": False, "b": False})
        found = {one.id: one.labels for one in db.read(lambda c: list(stored.reviewed(c)))}
        assert found[held.id] == {"a": 0.0, "b": 0.0}
        assert db.write(reviews.undo, two, 50.0) is None
        # An expired lease goes to another.
        assert db.write(reviews.next_for, one, 60.0).id not in (held.id, other.id)
        later = 60.0 + reviews.LEASE + 1
        ids = {db.write(reviews.next_for, two, later).id}
        assert ids != {held.id}
    chain = rows(place, "select labels is null, supersedes from verdict order by id")
    assert chain == [(0, None), (1, 1), (0, 2)]
    with pytest.raises(Exception, match="append-only"), database.opened(place) as db:
        db.write(lambda c: c.exec_driver_sql("UPDATE verdict SET note = 'x'"))


def test_the_text_is_kept_only_if_asked_and_a_purge_leaves_no_trace_of_it(place, tmp_path):
    with database.opened(place, new=True) as db:
        db.write(stored.record, [exchange(a=0.5, text=SECRET)], exchanges.Plan(), 10.0)
        assert db.read(stored.waiting) == 0
    assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.iterdir())
    assert len(rows(place, "select digest from exchange")[0][0]) == 64
    with database.opened(place) as db:
        for now in (20.0, 30.0):
            own = exchange(a=0.5, text=f"{SECRET} {now}")
            db.write(stored.record, [own], exchanges.Plan(), now, keep_text=True)
        (one, _) = raters(db)
        assert db.read(stored.waiting) == 2
        assert db.write(stored.purge, 25.0) == 1
        assert db.read(stored.waiting) == 1
        assert db.write(reviews.next_for, one, 40.0).turns == (("human", f"{SECRET} 30.0"),)
        assert db.write(stored.purge, 1e9) == 1
        assert db.write(reviews.next_for, one, 50.0) is None
    assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.iterdir())


def test_reviewers_see_each_kind_in_random_order(place):
    """The order of judging tells nothing of the order of time."""
    with database.opened(place, new=True) as db:
        (one, _) = raters(db)
        given = [exchange(a=0.5, text=str(i)) for i in range(60)]
        db.write(stored.record, given, exchanges.Plan(), 1.0, keep_text=True)
        order = []
        for i in range(60):
            held = db.write(reviews.next_for, one, 2.0)
            order.append(held.id)
            db.write(reviews.submit, held.id, one, str(i), {"a": True}, 2.0, categories=("a",))
    assert abs(np.corrcoef(order, range(60))[0, 1]) < 0.5

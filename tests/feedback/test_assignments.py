"""Who gets what: leases, overlap, gold and repeated items, blind and balanced orders."""

import collections
import itertools

import pytest

from alignjax.feedback import assign, content, project
from alignjax.feedback.store import assignments, queries
from tests.feedback.conftest import item, rows

MINUTE = 60.0


def _project(**fields) -> project.Project:
    return project.Project(**{"overlap": 0.0, "gold": 0.0, "repeats": 0.0, **fields})


def _finish(desk, rater, limit=1000):
    """All that a rater is asked, judged."""
    held = []
    while len(held) < limit and (own := desk.next(rater)) is not None:
        kind, payload = "choice", {"choice": "first"}
        if len(own.shown) > 2:
            kind, payload = "ranking", {"ranks": [1, *[None] * (len(own.shown) - 1)]}
        desk.submit(own.id, rater, payload, kind=kind)
        held.append(own)
    return held


def test_one_rater_an_item_is_one(desk):
    desk.add(item(1))
    one, two = desk.rater("one"), desk.rater("two")
    held = desk.next(one)
    assert desk.next(one) == held._replace(lease=held.lease)  # a reload gets the same
    assert desk.next(two) is None


def test_a_lease_that_ran_out_goes_to_another(desk, place):
    desk.add(item(1))
    one, two = desk.rater("one"), desk.rater("two")
    held = desk.next(one)
    assert held.lease == desk.time + 30 * MINUTE
    desk.time += 30 * MINUTE - 1
    assert desk.next(two) is None
    desk.time += 2
    theirs = desk.next(two)
    assert theirs.item == held.item
    for act in (
        lambda: desk.submit(held.id, one),
        lambda: desk.db.write(assignments.heartbeat, held.id, one, desk.project, desk.time),
        lambda: desk.db.write(assignments.skip, held.id, one, "", desk.time),
    ):
        with pytest.raises(content.Refusal, match="went to another rater") as caught:
            act()
        assert caught.value.status == 409
    assert desk.next(one) is None
    desk.submit(theirs.id, two)
    assert rows(place, "select state from assignment order by id") == [("lost",), ("done",)]
    assert rows(place, "select kind, detail from incident") == [("lease lost", "assignment 1")]


def test_a_late_judgement_counts_while_nobody_else_has_the_item(desk):
    desk.add(item(1))
    rater = desk.rater("one")
    held = desk.next(rater)
    desk.time += 31 * MINUTE
    assert desk.next(rater).id == held.id
    desk.time += 31 * MINUTE
    assert desk.submit(held.id, rater)[0]["kind"] == "choice"


def test_a_heartbeat_keeps_the_item_and_the_draft(desk):
    desk.add(item(1))
    one, two = desk.rater("one"), desk.rater("two")
    held = desk.next(one)
    for _ in range(5):
        desk.time += 20 * MINUTE
        draft = {"choice": "second", "minute": desk.time}
        until = desk.db.write(assignments.heartbeat, held.id, one, desk.project, desk.time, draft)
        assert until == desk.time + 30 * MINUTE
        assert desk.next(two) is None
    assert desk.next(one).draft == draft
    desk.db.write(assignments.heartbeat, held.id, one, desk.project, desk.time)
    assert desk.next(one).draft == draft


def test_a_skip_is_no_judgement_and_frees_the_item(desk, place):
    desk.add(item(1))
    one, two = desk.rater("one"), desk.rater("two")
    held = desk.next(one)
    desk.db.write(assignments.skip, held.id, one, "not my language", desk.time)
    assert desk.next(one) is None
    assert rows(place, "select count(*) from judgement") == [(0,)]
    assert rows(place, "select state, note from assignment") == [("skipped", "not my language")]
    assert desk.db.read(queries.progress, one, desk.time) == (0, 1, 0)
    desk.judge(two)
    with pytest.raises(content.Refusal, match="must be free"):
        desk.undo(one)


def test_undo_goes_back_one_by_one(desk):
    desk.add(*[item(i) for i in range(3)])
    rater = desk.rater("one")
    done = [desk.judge(rater)[0] for _ in range(2)]
    ahead = desk.next(rater)
    assert desk.undo(rater).id == done[1].id
    assert desk.undo(rater).id == done[0].id
    assert desk.undo(rater) is None
    assert [own.id for own in _finish(desk, rater)] == [done[0].id, done[1].id, ahead.id]


def test_an_undone_item_is_not_given_away(desk):
    desk.add(item(1))
    one, two = desk.rater("one"), desk.rater("two")
    desk.judge(one)
    desk.undo(one)
    assert desk.next(two) is None
    desk.time += 31 * MINUTE
    assert desk.next(two) is not None


def test_a_share_of_items_has_several_raters(desk):
    desk.project = _project(overlap=0.2, raters=3)
    desk.add(*[item(i) for i in range(200)])
    raters = [desk.rater(f"r{i}") for i in range(4)]
    counts = collections.Counter()
    for rater in raters:
        counts.update(own.item for own in _finish(desk, rater))
    assert set(counts) == {item(i).id for i in range(200)}
    targets = {name: assign.target(desk.project, name) for name in counts}
    assert counts == targets
    assert 0.1 < sum(n == 3 for n in counts.values()) / 200 < 0.3
    assert set(counts.values()) == {1, 3}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_orders_are_balanced_within_one_at_every_moment(desk, size):
    desk.project = _project(ask=() if size > 1 else ("flags",))
    desk.add(*[item(i, size) for i in range(30)])
    rater = desk.rater("r")
    counts = collections.Counter()
    orders = []
    for _ in range(30):
        held = desk.next(rater)
        assert sorted(held.shown) == list(range(size))
        flag = ("flags", {"flags": ["unsafe"]})
        kind, payload = flag if size == 1 else ("choice", {"choice": "tie"})
        if size > 2:
            kind, payload = "ranking", {"ranks": [1] * size}
        desk.submit(held.id, rater, payload, kind=kind)
        orders.append(held.shown)
        counts.update(enumerate(held.shown))
        for answer in range(size):
            at = [counts[place, answer] for place in range(size)]
            assert max(at) - min(at) <= 1
    if size > 2:  # no answer always follows the same other
        followers = {b for own in orders for a, b in itertools.pairwise(own) if a == 0}
        assert len(followers) > 1


def test_an_order_is_a_function_of_seed_item_rater_and_repeat():
    def order(*said, before=0, firsts=()):
        return assign.order(*said, 2, before, firsts)

    base = (0, "item", 1, 0)
    assert order(*base) == order(*base)
    varied = [
        [order(seed, "item", 1, 0) for seed in range(64)],
        [order(0, f"item {i}", 1, 0) for i in range(64)],
        [order(0, "item", rater, 0) for rater in range(64)],
        [order(0, "item", 1, repeat) for repeat in range(64)],
    ]
    for orders in varied:
        assert 16 < orders.count((0, 1)) < 48


def test_the_order_is_stored_and_judgements_are_of_answers(desk, place):
    desk.add(*[item(i) for i in range(8)])
    rater = desk.rater("r")
    for _ in range(8):
        held, (row,) = desk.judge(rater, {"choice": "second", "strength": 2})
        assert row["payload"] == {"choice": "second", "chosen": held.shown[1], "strength": 2}
    stored = {shown for (shown,) in rows(place, "select shown from assignment")}
    assert stored == {"[0, 1]", "[1, 0]"}


def test_gold_and_repeated_items_come_at_their_shares(desk, place):
    desk.project = _project(gold=0.1, repeats=0.1)
    known = [item(1000 + i, gold={"choice": {"chosen": 0}}) for i in range(30)]
    desk.add(*[item(i) for i in range(160)], *known)
    one, two = desk.rater("one"), desk.rater("two")
    first = _finish(desk, one, limit=100)
    second = _finish(desk, two)
    for held in (first, second):
        gold = [own for own in held if own.item in {i.id for i in known}]
        repeats = [own for own in held if own.repeat]
        for own in (gold, repeats):
            assert abs(len(own) - 0.1 * len(held)) <= 1
        assert len({own.item for own in gold}) == len(gold)
        for own in repeats:
            before = [o.item for o in held[: held.index(own)]]
            assert own.item in before
            assert len(before) - before.index(own.item) > assign.BETWEEN
    ordinary = [o.item for o in (*first, *second) if not o.repeat]
    assert {item(i).id for i in range(160)} <= set(ordinary)
    trainable = desk.db.read(queries.counts)["choice"]
    assert trainable == 160
    assert desk.next(one) is None  # the known ones are not asked for their own sake


def test_items_do_not_come_in_the_order_of_the_file(desk):
    desk.add(*[item(i) for i in range(20)])
    order = [own.item for own in _finish(desk, desk.rater("r"))]
    names = [item(i).id for i in range(20)]
    assert sorted(order) == sorted(names)
    assert order != names


def test_progress_counts_what_is_left(desk):
    desk.add(*[item(i) for i in range(3)])
    rater = desk.rater("r")
    assert desk.db.read(queries.progress, rater, desk.time) == (0, 0, 3)
    desk.next(rater)
    assert desk.db.read(queries.progress, rater, desk.time) == (0, 0, 3)
    desk.judge(rater)
    assert desk.db.read(queries.progress, rater, desk.time) == (1, 0, 2)

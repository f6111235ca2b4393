"""The queue of reviews after kill -9: what was acknowledged is there, with its probability."""

import random
import signal
import subprocess
import sys
import time

import pytest

from alignjax.feedback import database
from alignjax.feedback.store import exchanges as stored
from alignjax.feedback.store import reviews
from tests.commands import cli
from tests.feedback.conftest import rows

SCRIPT = """
import sys
from alignjax.feedback import database, exchanges
from alignjax.feedback.store import exchanges as stored, items, reviews

plan = exchanges.Plan(uncertain=1.0)
with database.opened(sys.argv[1], new=True) as db:
    rater = db.write(items.rater_named, "me", 1.0)
    for number in range(int(sys.argv[2]), 10**6):
        own = exchanges.Exchange((("human", f"text {number}"),), {"a": 0.5}, {"a": 0.5}, False)
        (id,) = db.write(stored.record, [own], plan, 10.0, keep_text=True)
        print("exchange", id, flush=True)
        if number % 2:
            held = db.write(reviews.next_for, rater, 20.0)
            verdict = db.write(reviews.submit, held.id, rater, str(held.id), {"a": True}, 20.0,
                               categories=("a",))
            print("verdict", verdict, flush=True)
"""


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9_at_any_moment(tmp_path):
    place, rng = str(tmp_path / "review.db"), random.Random(0)
    told = {"exchange": set(), "verdict": set()}
    for turn in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, place, str(1000 * turn)], stdout=subprocess.PIPE,
            text=True, cwd=cli.ROOT,
        )  # fmt: skip
        first = process.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.6))
        process.send_signal(signal.SIGKILL)
        lines = [first, *process.stdout.read().splitlines()]
        process.wait()
        for line in lines:
            kind, _, number = line.strip().partition(" ")
            if number:
                told[kind].add(int(number))
        for kind, known in told.items():
            assert known <= {number for (number,) in rows(place, f"select id from {kind}")}
    assert len(told["exchange"]) > 8
    with database.opened(place) as db:
        every = db.read(lambda c: list(stored.reviewed(c)))
        waiting = [one for one in every if one.labels is None]
        assert db.read(stored.waiting) == len(waiting) > 0
        assert {one.probability for one in every} == {1.0}
        assert sum(one.size for one in db.read(stored.counts)) == len(every)
        later = 20.0 + reviews.LEASE + 1
        assert db.write(reviews.next_for, 1, later).id in {one.id for one in waiting}

"""Judges' verdicts as training rows beside people's votes, and in the report beside people."""

import json
import math

import numpy as np
import pytest

from alignjax.evals import judging
from alignjax.evals import verdicts as judge_report
from alignjax.feedback import database, harvest, project, verdicts
from alignjax.feedback.store import queries
from alignjax.feedback.store import verdicts as stored
from alignjax.rewards import judge
from tests.commands.test_run import call
from tests.feedback.conftest import Desk, item
from tests.feedback.test_harvest import lines, read_back

NAN = math.nan


def judge_of(desk, name="model@1"):
    return desk.db.write(stored.rater, name, {"group": "machines"}, desk.time)


def say(desk, rater, own, *logits):
    """A verdict on an item by the pairs of logits of its pairs."""
    numbers = verdicts.pairs_of(len(own.candidates))
    pairs = [verdicts.Pair(*pair, *both) for pair, both in zip(numbers, logits, strict=True)]
    row = stored.Verdict(own.id, len(own.candidates), verdicts.payload(pairs))
    desk.db.write(stored.add, rater, [row], desk.project, 1.0, desk.time)


def chance(logit):
    return 1 / (1 + math.exp(-logit))


@pytest.fixture
def both(desk):
    """Item 1: a person and a judge; else the judge alone; 3 has three answers, 4 is unread."""
    own = [item(1), item(2), item(3, 3), item(4), item(5)]
    desk.add(own[0])
    person = desk.rater("a", attributes={"group": "north"}, consent=True)
    held = desk.next(person)
    desk.submit(held.id, person, {"choice": ("first", "second")[held.shown.index(1)]})
    desk.add(*own[1:])
    machine = judge_of(desk)
    say(desk, machine, own[0], (2.0, 0.0))
    say(desk, machine, own[1], (1.0, -3.0))
    say(desk, machine, own[2], (1.0, 1.0), (NAN, 2.0), (-2.0, -1.0))
    say(desk, machine, own[3], (NAN, 3.0))
    say(desk, machine, own[4], (2.0, -2.0))
    return desk


def test_a_judges_chance_is_one_vote_among_others(both, tmp_path):
    made = harvest.harvest(both.db.read, tmp_path / "out", holdout=0.0)
    assert made.judgements == {"choice": (1, 1), "verdict": (5, 4)}
    assert made.raw == 6
    one, two, tie = lines(tmp_path / "out", "pairs.train.jsonl")
    # The person took b, the judge has a at sigmoid(1).
    assert one["chosen"].endswith("answer b to 1")
    assert one["preference"] == pytest.approx((1 + 1 - chance(1)) / 2)
    assert (one["weight"], one["raters"]) == (2.0, ["rater-1", "rater-2"])
    assert (one["group"], one["agreement"]) == ("north", 0.5)
    assert two["chosen"].endswith("answer b to 2")
    assert two["preference"] == pytest.approx(chance(1))  # the mean of both orders is -1
    assert (two["weight"], two["raters"], two["group"]) == (1.0, ["rater-2"], None)
    assert (tie["preference"], tie["ties"]) == (0.5, 1.0)
    every = lines(tmp_path / "out", "comparisons.train.jsonl")
    assert len(every) == 3 + 2  # of three answers the pair that was half unread is left out
    three = sorted(row["preference"] for row in every if "question 3" in row["chosen"])
    assert three == pytest.approx([chance(1), chance(1.5)])
    back = read_back(tmp_path / "out", "comparisons.train.jsonl")
    assert [row.preference for row in back] == [row["preference"] for row in every]
    raw = [row for row in lines(tmp_path / "out", "judgements.jsonl") if row["kind"] == "verdict"]
    assert raw[3]["payload"] == {"pairs": [{"answers": [0, 1], "logits": [None, 3.0]}]}
    assert raw[0]["rater_kind"] == "judge"


@pytest.mark.parametrize(
    ("voices", "counts", "kept"),
    [
        ("people", {"choice": (1, 1), "verdict": (5, 0)}, [(1.0, 1.0)]),
        ("judges", {"choice": (1, 0), "verdict": (5, 4)},
         [(chance(1), 1.0), (chance(1), 1.0), (0.5, 1.0)]),
    ],
)  # fmt: skip
def test_people_or_judges_alone(both, tmp_path, voices, counts, kept):
    made = harvest.harvest(both.db.read, tmp_path / "out", voices=voices, holdout=0.0)
    assert made.judgements == counts
    assert made.raw == 6  # the raw file has all
    found = [(r["preference"], r["weight"]) for r in lines(tmp_path / "out", "pairs.train.jsonl")]
    assert found == [pytest.approx(row) for row in kept]


def test_answers_in_the_other_order_are_the_same_pair(desk, tmp_path):
    one = item(1)
    other = one._replace(candidates=one.candidates[::-1])
    desk.add(one, other)
    machine = judge_of(desk)
    say(desk, machine, one, (2.0, 0.0))
    say(desk, machine, other, (-1.0, -1.0))
    harvest.harvest(desk.db.read, tmp_path / "out", ("pairs",), holdout=0.0)
    (row,) = lines(tmp_path / "out", "pairs.train.jsonl")
    assert row["chosen"].endswith("answer a to 1")
    assert (row["preference"], row["weight"]) == (pytest.approx(chance(1)), 2.0)


def test_the_harvest_command_takes_raters(both, place, tmp_path, capsys):
    options = ("harvest", f"--database={place}", f"--to={tmp_path}/out")
    code, out, _ = call(capsys, *options, "--raters=judges")
    assert (code, "choice: 0 of 1 judgements become rows" in out) == (0, True)
    code, _, told = call(capsys, *options, "--raters=machines")
    assert (code, len(told)) == (2, 1)
    assert "--raters must be one of all, people, judges" in told[0]


@pytest.mark.parametrize("join", list(harvest.AGGREGATES))
def test_a_judge_changes_no_weight_of_people(place, tmp_path, join):
    """People's votes are joined as without the judge, whose chance is added to them."""
    own = project.Project(overlap=1.0, raters=3, gold=0.0, repeats=0.0)
    rng = np.random.default_rng(0)
    with database.opened(place, new=True) as db:
        desk = Desk(db, own)
        given = [item(i) for i in range(40)]
        desk.add(*given)
        for name, right in (("a", 0.95), ("b", 0.8), ("c", 0.6)):
            rater = desk.rater(name)
            while (held := desk.next(rater)) is not None:
                chosen = int(rng.random() > right)
                choice = ("first", "second")[held.shown.index(chosen)]
                desk.submit(held.id, rater, {"choice": choice})
        machine = judge_of(desk)
        for one in given:
            say(desk, machine, one, (1.0, 1.0))
        for voices in ("people", "all"):
            harvest.harvest(db.read, tmp_path / voices, ("pairs",), join=join, voices=voices,
                            holdout=0.0)  # fmt: skip
    people, every = (
        {row["chosen"].split("answer")[-1][3:]: first_of(row)
         for row in lines(tmp_path / voices, "pairs.train.jsonl")} for voices in ("people", "all")
    )  # fmt: skip
    assert len(people) == 40
    for name, share in people.items():
        assert every[name] == pytest.approx((3 * share + chance(1)) / 4)


def first_of(row):
    """How likely answer a is the better one."""
    is_first = "answer a" in row["chosen"]
    return row["preference"] if is_first else 1 - row["preference"]


# --- beside people ---
@pytest.fixture
def planted(place):
    """300 items, a better on even ones, else b; people right in 9 of 10, a judge in 8, biased."""
    own = project.Project(overlap=1.0, raters=2, gold=0.1, repeats=0.0)
    rng = np.random.default_rng(1)
    known = [item(1000 + i, gold={"choice": {"chosen": i % 2}}) for i in range(60)]
    ordinary = [item(i) for i in range(300)]
    better = {one.id: i % 2 for i, one in [*enumerate(ordinary), *enumerate(known)]}
    with database.opened(place, new=True) as db:
        desk = Desk(db, own)
        desk.add(*ordinary, *known)
        for name in ("a", "b"):
            rater = desk.rater(name)
            while (held := desk.next(rater)) is not None:
                chosen = better[held.item] ^ int(rng.random() > 0.9)
                choice = ("first", "second")[held.shown.index(chosen)]
                desk.submit(held.id, rater, {"choice": choice})
        noisy = judge.noisy(
            "noisy", lambda p, answers: np.array([
                ("answer a" in x) != int(x.split()[-1]) % 2 for x in answers
            ], float), accuracy=0.8, position=0.3,
        )  # fmt: skip
        verdicts.judge_all(db, noisy, judge_of(desk), size=100)
        yield desk, place


def test_planted_errors_of_a_judge_are_reported(planted, capsys):
    desk, place = planted
    read = desk.db.read
    judged = read(lambda c: list(queries.judgements(c)))
    (found,) = judge_report.report(judged, lambda n: read(queries.item, n), read(queries.raters))
    want = judging.expected(0.8, 0.3)
    assert (found["judge"], found["name"], found["pairs"], found["unread"]) == (
        "rater-3", "model@1", 360, 0,
    )  # fmt: skip
    for what, value in (("flips", want.flips), ("first", want.first)):
        assert abs(found[what]["value"] - value) < 3 * found[what]["se"], what
    logit = math.log(0.8 / 0.2)
    assert abs(found["position"]["value"] - 0.3 * logit) < 3 * found["position"]["se"]
    assert "stands first" in found["warnings"][0]
    beside = found["beside people"]
    assert beside["people_raw"]["low"] <= 0.82 <= beside["people_raw"]["high"]
    assert beside["people_raw"]["n"] == beside["raw"]["n"] == 300  # without the known items
    # Both orders agree on the right answer, on the wrong one, or cancel to a tie.
    q1, q2 = 0.3 + 0.7 * 0.8, 0.7 * 0.8
    right, wrong = q1 * q2, (1 - q1) * (1 - q2)
    expected = right * 0.9 + wrong * 0.1
    assert beside["raw"]["low"] <= expected <= beside["raw"]["high"]
    assert beside["kappa"]["value"] < beside["people_kappa"]["value"]
    known = found["right on known pairs"]
    assert known["n"] == 60
    assert known["low"] <= right <= known["high"]
    out = call(capsys, "agreement", f"--database={place}")[1]
    assert "rater-3 (judge model@1): 360 pairs of 360 items, 0 verdicts unread" in out
    for name in ("flip rate", "P(first)", "position", "raw, with people", "raw, people's own"):
        assert f"\n  {name:<24} " in out
    printed = json.loads(call(capsys, "agreement", f"--database={place}", "--json")[1])
    assert printed["judges"] == [found]
    assert [own["rater"] for own in printed["raters"]] == ["rater-1", "rater-2"]
    assert printed["agreement"]["choice"]["raw"] == pytest.approx(beside["people_raw"], abs=0.05)


def test_judges_without_people_have_no_agreement(desk, place, capsys):
    desk.add(item(1), item(2))
    for own, logits in ((item(1), (1.0, 2.0)), (item(2), (NAN, NAN))):
        say(desk, judge_of(desk), own, logits)
    found = json.loads(call(capsys, "agreement", f"--database={place}", "--json")[1])
    (own,) = found["judges"]
    assert (own["beside people"], own["right on known pairs"], own["unread"]) == (None, None, 2)
    assert own["first"] == {"value": 0.5, "se": 0.0, "n": 1}
    assert (found["agreement"], found["raters"]) == ({}, [])


def test_units_of_people():
    one, two, tie, bad = judge_report.ONE, judge_report.TWO, judge_report.TIE, judge_report.BOTH_BAD
    assert judge_report.units("choice", {"chosen": 1}, 2) == {(0, 1): two}
    assert judge_report.units("choice", {"chosen": 1}, 3) == {(0, 1): two, (1, 2): one}
    assert judge_report.units("choice", {"chosen": None, "choice": "tie"}, 2) == {(0, 1): tie}
    said = {"chosen": None, "choice": "both_bad"}
    assert judge_report.units("choice", said, 2) == {(0, 1): bad}
    ranks = {"ranks": [2, None, 1, None]}
    assert judge_report.units("ranking", ranks, 4) == {
        (0, 1): one, (0, 2): two, (0, 3): one, (1, 2): two, (2, 3): one,
    }  # fmt: skip
    assert judge_report.units("ranking", {"ranks": [1, 1]}, 2) == {(0, 1): tie}
    assert judge_report.units("score", {"scores": {}}, 2) == {}

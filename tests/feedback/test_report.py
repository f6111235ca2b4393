"""Raters with planted errors through the store: agreement, accuracies and biases come back."""

import json

import numpy as np
import pytest

from alignjax.feedback import agreement, content, database, project, report
from alignjax.feedback.store import queries
from tests.commands.test_run import call
from tests.feedback.conftest import Desk, item

NAMES = ("first", "second", "third", "fourth")


def made(desk):
    judged = desk.db.read(lambda c: list(queries.judgements(c)))
    raters = desk.db.read(queries.raters)
    return report.report(judged, lambda name: desk.db.read(queries.item, name), raters)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """200 items; answer 0 of model A is better in 70 %. Rater 1 errs in 10 %, rater 2 in 20 %;
    rater 3 takes what stands first in 40 % and never errs else. 20 known, some repeated."""
    own = project.Project(overlap=1.0, raters=3, gold=0.1, repeats=0.1)
    rng = np.random.default_rng(0)
    place = str(tmp_path_factory.mktemp("planted") / "feedback.db")
    with database.opened(place, new=True) as db:
        desk = Desk(db, own)
        truth = {}
        for i in range(200):
            pair = item(i)
            truth[pair.id] = int(rng.random() > 0.7)
            gold = {"choice": {"choice": "first", "chosen": truth[pair.id], "strength": None}}
            desk.add(pair if i < 180 else pair._replace(gold=gold))
        for name, errs, first in (("a", 0.1, 0.0), ("b", 0.2, 0.0), ("c", 0.0, 0.4)):
            rater = desk.rater(name)
            while (held := desk.next(rater)) is not None:
                right = truth[held.item]
                said = 1 - right if rng.random() < errs else right
                slot = 0 if rng.random() < first else held.shown.index(said)
                desk.submit(held.id, rater, {"choice": NAMES[slot]}, seconds=3.0)
        yield desk, place


def test_planted_errors_are_estimated(planted):
    found = made(planted[0])
    choice = found["agreement"]["choice"]
    assert choice["items"] == choice["overlapping"] == 180
    assert choice["raw"]["low"] < 0.9 * 0.8 + 0.1 * 0.2 < choice["raw"]["high"] + 0.05
    a, b, c = found["raters"]
    for own, right in ((a, 0.9), (b, 0.8), (c, 0.8)):
        on_gold = own["right on known items"]
        assert on_gold["n"] == pytest.approx(18, abs=4)
        assert on_gold["low"] <= right <= on_gold["high"]
        estimated = own["estimated accuracy"]
        assert estimated["low"] <= right <= estimated["high"]
        assert own["same on repeated items"]["n"] > 10
        assert own["seconds"] == 3.0
    assert abs(c["position bias"] - 0.4) < 3 * c["position bias se"]
    assert abs(a["position bias"]) < 3 * a["position bias se"]
    (models,) = found["models"]
    assert (models["model"], models["against"]) == ("model-0", "model-1")
    assert models["n"] == 540
    lines = report.lines(found)
    assert any(line.startswith("rater-3 (person): ") for line in lines)
    assert "choice: 180 of 180 units have several raters" in lines


def test_rankings_and_scores_agree_as_their_own_measures_say(place):
    own = project.Project(overlap=1.0, raters=2, gold=0.0, repeats=0.0, ask=("ranking", "score"))
    with database.opened(place, new=True) as db:
        desk = Desk(db, own)
        desk.add(*[item(i, 3) for i in range(6)])
        given = {}
        rng = np.random.default_rng(1)
        for name in "ab":
            rater = desk.rater(name)
            while (held := desk.next(rater)) is not None:
                ranks, scores = rng.permutation(3) + 1, rng.integers(1, 8, 3)
                given[name, held.item] = ranks, scores
                by_slot = [[int(x[n]) for n in held.shown] for x in (ranks, scores)]
                more = {"kind": "score", "payload": {"scores": {"helpfulness": by_slot[1]}}}
                desk.submit(held.id, rater, {"ranks": by_slot[0]}, kind="ranking", more=[more])
        found = made(desk)["agreement"]
    items = sorted({name for _, name in given})
    taus = [agreement.kendall(*(given[r, i][0].astype(float) for r in "ab")) for i in items]
    assert found["ranking"]["kendall"]["value"] == pytest.approx(np.mean(taus))
    values = np.array([[float(s) for i in items for s in given[r, i][1]] for r in "ab"])
    alpha = agreement.krippendorff(values, "ordinal")
    assert found["score: helpfulness"]["alpha"]["value"] == pytest.approx(alpha)
    assert found["ranking"]["items"] == 18
    same = np.mean([
        np.sign(given["a", i][0][x] - given["a", i][0][y])
        == np.sign(given["b", i][0][x] - given["b", i][0][y])
        for i in items for x, y in ((0, 1), (0, 2), (1, 2))])  # fmt: skip
    assert found["ranking"]["raw"]["value"] == pytest.approx(same)


def test_what_was_taken_back_or_skipped_counts_nowhere(desk):
    desk.project = project.Project(overlap=1.0, raters=2, gold=0.0, repeats=0.0)
    desk.add(item(1), item(2))
    a, b = desk.rater("a"), desk.rater("b")
    desk.judge(a)
    desk.judge(b)
    desk.undo(b)
    found = made(desk)
    assert found["agreement"]["choice"]["items"] == 1
    assert found["agreement"]["choice"]["overlapping"] == 0
    assert [own["judged"] for own in found["raters"]] == [1]


def test_a_tie_is_not_both_bad(desk):
    desk.project = project.Project(overlap=1.0, raters=2, gold=0.0, repeats=0.0)
    desk.add(item(1))
    for name, choice in (("a", "tie"), ("b", "both_bad")):
        desk.judge(desk.rater(name), {"choice": choice})
    assert made(desk)["agreement"]["choice"]["raw"]["value"] == 0


def test_the_command_prints_lines_or_json(planted, capsys):
    _, place = planted
    out = call(capsys, "agreement", f"--database={place}")[1]  # while it is open to write
    assert "  alpha" in out
    assert "model-0 against model-1: 540 choices" in out
    found = json.loads(call(capsys, "agreement", f"--database={place}", "--json")[1])
    assert {"agreement", "raters", "models", "judges"} == set(found)


def test_no_judgement_is_told_in_one_line(tmp_path, capsys):
    place = str(tmp_path / "f.db")
    with database.opened(place, new=True) as db:
        Desk(db).add(content.Item((("human", "q"),), (content.Candidate("a"),)))
    for command in (("agreement",), ("harvest", f"--to={tmp_path}/out")):
        code, _, error = call(capsys, *command, f"--database={place}")
        assert (code, len(error)) == (2, 1)
        assert "must hold judgements; got none" in error[0]

"""What a guard judged is stored and comes back as rates and rows that weigh; the commands."""

import json
import random

import numpy as np
import pytest

from alignjax.commands import guard as guard_command
from alignjax.commands import review as review_command
from alignjax.data import layouts
from alignjax.feedback import database, exchanges
from alignjax.feedback.store import exchanges as stored
from alignjax.feedback.store import items, reviews
from alignjax.serving import (
    calibration,
    described_guards,
    detectors,
    guards,
    moderation,
    review,
    thresholds,
)
from alignjax.text import chat
from alignjax.worlds import traffic

ONE = thresholds.Threshold(0.5, 100, 96, 0.05)


def guard_of(words=("bad",)):
    own = detectors.rule("words", {"a": detectors.Words(words)}, "f")
    return guards.Guard(own, thresholds.Thresholds("f", {"*": {"a": ONE}}), language=lambda t: "en")


def asked(text):
    return [chat.Turn(chat.HUMAN, text)]


def test_a_recorded_guard_says_the_same_and_every_end_is_recorded(tmp_path):
    place = str(tmp_path / "review.db")
    with database.opened(place, new=True) as db:
        plan = exchanges.Plan(blocked=1.0, allowed=1.0)
        own = review.Recorded(guard_of(), db, plan, database.Clock(0.0), keep_text=True)
        assert not own.before(asked("fine")).blocked
        assert own.before(asked("bad")).blocked
        assert not own.window(asked("fine"), "so far").blocked  # not the end
        verdict = own.window(asked("fine"), "so far so bad")
        assert verdict.blocked
        own.answered(asked("fine"), "all of it", guard_of().window(asked("fine"), "all of it"))
        found = db.read(lambda c: list(stored.reviewed(c)))
    assert [(one.stage, one.blocked, one.turns[-1][1]) for one in found] == [
        ("before", False, "fine"), ("before", True, "bad"), ("answer", True, "so far so bad"),
        ("answer", False, "all of it"),
    ]  # fmt: skip
    assert {(one.language, one.guard) for one in found} == {("en", "f")}
    assert len(found[2].turns) == 2  # the prompt too


def test_what_is_blocked_stays_blocked_where_it_can_not_be_recorded(tmp_path, monkeypatch):
    with database.opened(str(tmp_path / "review.db"), new=True) as db:
        own = review.Recorded(guard_of(), db, exchanges.Plan(), database.Clock(0.0))

        def fail(*args, **options):
            raise ValueError("the disk is full")

        monkeypatch.setattr(db, "write", fail)
        moderator = moderation.Moderation(guard=own, on_error=moderation.ALLOW)
        assert moderator.before(asked("bad"), "m").blocked
        assert moderator.answer(asked("fine"), "so far so bad", False, "m").blocked
        with pytest.raises(ValueError, match="the disk is full"):
            own.before(asked("fine"))


def judged(number, blocked, unsafe, probability, stratum, text="x"):
    return exchanges.Reviewed(
        number, (("human", text), ("assistant", "y")), "en", "answer", {"a": 0.5}, blocked, stratum,
        probability, "f", 1.0, None if unsafe is None else {"a": float(unsafe), "b": 0.0},
    )  # fmt: skip


def test_rates_and_rows_weigh_by_the_probability_of_their_review():
    given = [
        judged(1, True, True, 0.5, "blocked"),
        judged(2, True, False, 0.5, "blocked"),
        judged(3, False, False, 0.1, "allowed"),
        judged(4, False, True, 0.1, "allowed"),
        judged(5, False, None, 0.1, "allowed"),
    ]
    found = review.summarise(given, 100, 0.05)
    third = 0.1 * 2 / 3  # two of three allowed ones are judged so far
    assert found.rates.unsafe.value == pytest.approx((2 + 1 / third) / (4 + 2 / third))
    assert found.rates.false_positive.value == pytest.approx(2 / (2 + 1 / third))
    assert found.by["b"].unsafe.value == 0
    assert (found.judged, found.waiting) == (4, 1)
    assert any("unsafe in a: " in line for line in review.lines(found))
    rows_of = review.guard_rows(given)
    weights = np.array([row["weight"] for row in rows_of])
    np.testing.assert_allclose(weights / weights[0], [1, 1, 0.5 / third, 0.5 / third])
    assert weights.mean() == pytest.approx(1)
    typed = [
        layouts.LAYOUTS["guard"].row(layouts.Record(row, "f", 1), layouts.Options())
        for row in rows_of
    ]
    assert typed[3].labels == {"a": 1.0, "b": 0.0}
    assert typed[3].weight == pytest.approx(weights[3])
    assert typed[3].columns["language"] == "en"
    assert [turn.role for turn in typed[0].turns] == [chat.HUMAN, chat.ASSISTANT]


class Parsed:
    def __init__(self, command, **options):
        plain = {option.name: option.default for option in command.OPTIONS}
        self.options = {**plain, **options}


def write_rows(path, seed, count, unsafe=0.3):
    own = traffic.messages(seed, count, traffic.Rates(unsafe=unsafe))
    lines = [json.dumps({"text": m.text, "labels": m.labels, "language": m.language}) for m in own]
    path.write_text("\n".join(lines) + "\n")
    return own


def rule_file(path, novel):
    words = {
        name: {"words": [w for n in traffic.PLAIN for kind in novel
                         for w in traffic.planted(n, c, kind)]}
        for c, name in enumerate(traffic.CATEGORIES)
    }  # fmt: skip
    path.write_text(json.dumps({"kind": "rule", "name": path.stem, "categories": words}))
    return str(path)


def test_the_commands_calibrate_compare_and_ask(tmp_path, capsys):
    rows_of, frozen = tmp_path / "rows.jsonl", tmp_path / "frozen.jsonl"
    write_rows(rows_of, 1, 600)
    write_rows(frozen, 2, 1200)
    # A guard that knows no word of the traffic, and one that knows them.
    known = {"old": (True,), "new": (False,)}
    files = {name: rule_file(tmp_path / f"{name}.json", own) for name, own in known.items()}
    for name, path in files.items():
        guard_command.main(Parsed(
            guard_command, guard=path, rows=str(rows_of), calibrate=True, latency=4,
            max_false_positive=0.2, thresholds=str(tmp_path / f"{name}.t.json"),
        ))  # fmt: skip
    out = capsys.readouterr().out
    assert "latency of a text: p50" in out
    limits = thresholds.read(tmp_path / "new.t.json")
    assert set(limits.by) == {"de", "en", "*"}
    options = {"guard": files["new"], "rows": str(frozen), "against": files["old"],
               "thresholds": str(tmp_path / "new.t.json"), "margin": 0.2,
               "against_thresholds": str(tmp_path / "old.t.json")}  # fmt: skip
    guard_command.main(Parsed(guard_command, **options))
    assert "\npromoted: " in capsys.readouterr().out
    turned = {**options, "guard": files["old"], "against": files["new"],
              "thresholds": options["against_thresholds"],
              "against_thresholds": options["thresholds"]}  # fmt: skip
    with pytest.raises(Exception, match="a new guard must not be worse"):
        guard_command.main(Parsed(guard_command, **turned))
    word = traffic.planted("en", 0, False)[0]
    asked_of = {"guard": files["new"], "thresholds": options["thresholds"]}
    for text, said in ((f"the {word} here", "blocked"), ("the bread here", "allowed")):
        guard_command.main(Parsed(guard_command, **asked_of, text=text))
        assert capsys.readouterr().out.splitlines()[-1] == said
    with pytest.raises(ValueError, match="one of --calibrate, --against and --text"):
        guard_command.main(Parsed(guard_command, **asked_of))
    with pytest.raises(ValueError, match=r"safe rows must be at least 10000 .* got "):
        guard_command.main(Parsed(
            guard_command, guard=files["new"], rows=str(rows_of), calibrate=True,
            max_false_positive=1e-4, thresholds=str(tmp_path / "x.json"),
        ))  # fmt: skip
    assert not (tmp_path / "x.json").exists()


def test_the_review_command_prints_rates_writes_rows_and_purges(tmp_path, capsys):
    place = str(tmp_path / "review.db")
    with database.opened(place, new=True) as db:
        me, guard = db.write(items.rater_named, "me", 1.0), guard_of()
        given = [
            review.exchange_of(guard, asked(text), guard.before(asked(text)))
            for text in ["fine one", "fine two", "a bad one", "bad"] * 5
        ]
        plan, rng = exchanges.Plan(blocked=1.0, allowed=0.5), random.Random(0)
        db.write(stored.record, given, plan, 10.0, keep_text=True, rng=rng)
        while (held := db.write(reviews.next_for, me, 20.0)) is not None:
            labels = {"a": held.turns[0][1] == "bad"}
            db.write(reviews.submit, held.id, me, str(held.id), labels, 20.0, categories=("a",))
    options = {"database": place}
    review_command.main(Parsed(review_command, **options, rates=True, baseline=0.1))
    out = capsys.readouterr().out
    assert "of 20 exchanges; 0 wait" in out
    assert "drift: " in out
    rows_of = tmp_path / "rows.jsonl"
    review_command.main(Parsed(review_command, **options, rows=str(rows_of)))
    found = calibration.read(str(rows_of))
    assert sum(row.labels["a"] for row in found) == 5
    assert np.mean([row.weight for row in found]) == pytest.approx(1)
    with pytest.raises(ValueError, match="--rows must be a new file"):
        review_command.main(Parsed(review_command, **options, rows=str(rows_of)))
    review_command.main(Parsed(review_command, **options, purge_days=1.0))
    assert f"the text of {len(found)} exchanges" in capsys.readouterr().out
    with pytest.raises(ValueError, match="judged exchanges with text must be there"):
        review_command.main(Parsed(review_command, **options, rows=str(tmp_path / "more.jsonl")))
    with pytest.raises(ValueError, match="one of --rates, --rows and --purge_days"):
        review_command.main(Parsed(review_command, **options, rates=True, purge_days=1.0))
    with pytest.raises(ValueError, match="--database must name"):
        review_command.main(Parsed(review_command))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run of a guard of a few steps, and the rows that it was trained on."""
    from alignjax.experiments import guard as experiment_file
    from alignjax.runs import experiment, train

    config = experiment_file.get_config("micro")
    folder = tmp_path_factory.mktemp("guard") / "run"
    train.train(config, folder, name="guard", log=lambda line: None)
    assert isinstance(config, experiment.Experiment)
    return folder, config


@pytest.mark.slow
def test_a_trained_guard_is_calibrated_and_never_by_its_training_rows(trained, tmp_path, capsys):
    from alignjax.worlds import traffic_corpus

    folder, config = trained
    rows_of = tmp_path / "rows.jsonl"
    write_rows(rows_of, 77, 300)
    options = {"guard": str(folder), "calibrate": True, "max_false_positive": 0.1, "latency": 2,
               "thresholds": str(tmp_path / "t.json")}  # fmt: skip
    guard_command.main(Parsed(guard_command, **options, rows=str(rows_of)))
    assert "amber" in capsys.readouterr().out
    row = traffic_corpus.labelled(config.data, "train")[3]
    with rows_of.open("a") as file:
        file.write(json.dumps({"text": row.turns[0].text, "labels": {"amber": 0}}) + "\n")
    with pytest.raises(ValueError, match="must not be training rows; got 1 of 301"):
        guard_command.main(Parsed(guard_command, **options, rows=str(rows_of)))
    with described_guards.opened(described_guards.read(str(folder))) as own:
        limits = thresholds.read(tmp_path / "t.json")
        verdict = guards.Guard(own, limits).window(asked("the bread"), "x " * 200)
        assert set(verdict.categories) == set(traffic.CATEGORIES)
        assert verdict.error is None

"""Rounds of feedback: what raters see is what was sampled, and labels are the same for one seed."""

import json
import threading
import time

import numpy as np
import pytest

from alignjax.experiments import feedback_loop
from alignjax.experiments.common import feedback, labelling
from alignjax.feedback import client, project, raters
from alignjax.worlds import gold, review
from tests.commands import cli

WORLD = review.make_review_world(review.ReviewWorldConfig())
SEATS = feedback.FeedbackLifecycle().seats


def sampled(prompts: int, draws: int = 3) -> np.ndarray:
    """Documents in groups that share a prompt, [P, K, T]."""
    tokens, _ = review.sample_documents(WORLD, np.random.default_rng(0), prompts * draws)
    tokens = tokens.reshape(prompts, draws, -1)
    tokens[:, :, : WORLD.prompt_length] = tokens[:, :1, : WORLD.prompt_length]
    return tokens


def test_texts_are_read_back_as_the_tokens_that_were_sampled():
    tokens = sampled(20)
    for item, rows in zip(labelling.items_of(WORLD, tokens, {}), tokens, strict=True):
        texts = [f"{item.turns[0][1]} {candidate.text}" for candidate in item.candidates]
        again, lengths = labelling.rows_of(WORLD, texts)
        assert {row.tobytes() for row in again} == {row.tobytes() for row in rows}
        np.testing.assert_array_equal(lengths, (again != WORLD.pad).sum(axis=1))
    with pytest.raises(ValueError, match="must be words of the world; got 'novel'"):
        review.ids(WORLD, "film: the novel")


def test_a_rater_prefers_by_the_true_reward():
    """At temperature 0 the order of the true rewards, whatever the order shown; else not always."""
    item = labelling.items_of(WORLD, sampled(1), {})[0]
    texts = [candidate.text for candidate in item.candidates]
    shown = {
        "item": item.id, "turns": [{"role": "human", "text": item.turns[0][1]}],
        "ask": [project.RANKING],
    }  # fmt: skip
    sure = labelling.Seat("sure", raters.Rater(temperature=0.0))
    for order in ([0, 1, 2], [2, 0, 1]):
        answers = [texts[i] for i in order]
        (said,) = labelling.make_answer(WORLD, sure, 0)({**shown, "answers": answers})
        rows, lengths = labelling.rows_of(WORLD, [f"{item.turns[0][1]} {a}" for a in answers])
        rewards = gold.gold_reward(WORLD, rows, lengths)
        assert said["payload"]["ranks"] == (np.argsort(np.argsort(-rewards)) + 1).tolist()
    unread = labelling.Seat("first", raters.Rater(position_bias=1.0))
    (said,) = labelling.make_answer(WORLD, unread, 0)({**shown, "answers": texts})
    assert said["payload"] == {"ranks": [1, 2, 3]}


def test_labels_nearer_the_truth_are_better_by_their_standard_errors():
    rng = np.random.default_rng(1)
    tokens = sampled(400, 2)
    margin = rng.normal(size=400)
    golds = np.stack([margin, np.zeros(400)], axis=1)
    truth = 1 / (1 + np.exp(-margin))
    base = {"tokens": tokens, "gold": golds, "loss_mask": np.arange(24) >= WORLD.prompt_length}
    base["loss_mask"] = np.broadcast_to(base["loss_mask"], tokens.shape)

    def table(error):
        return {**base, "preference": (truth + error)[:, None]}

    near, far = table(rng.normal(0, 0.05, 400)), table(rng.normal(0, 0.2, 400))
    found = feedback.label_quality({"weighted": {"train": near}, "majority": {"train": far}}, 1.0)
    assert found["z"] > 3
    assert found["weighted"]["value"] == pytest.approx(0.05**2, rel=0.3)
    turned = feedback.label_quality({"weighted": {"train": far}, "majority": {"train": near}}, 1.0)
    assert turned["z"] == pytest.approx(-found["z"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seat": "carefull"}, "seat must be one of .*Did you mean 'careful'"),
        ({"rounds": 30}, "rounds x prompts must be at most data.prompts; got 30 x 800"),
        ({"careless": 1.5}, "careless must"),
        ({"candidates": 10}, "candidates must"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    config = feedback_loop.get_config()
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        config.validate()


def labelled(folder, seats=SEATS, log=print):
    folder.mkdir()
    own = project.Project(overlap=0.2)
    items = labelling.items_of(WORLD, sampled(24), {})
    tokens = labelling.store(folder / "feedback.db", items, seats, own)
    return tokens, lambda: labelling.annotate(
        folder / "feedback.db", WORLD, seats, tokens, len(items), 0, log
    )


@pytest.mark.slow
def test_a_person_takes_a_seat(tmp_path):
    """Programs leave the person's share alone, and the loop waits for it."""
    seats = (SEATS[0]._replace(person=True), *SEATS[1:])
    lines: list[str] = []
    tokens, run = labelled(tmp_path / "own", seats, lines.append)
    done: dict[str, int] = {}
    loop = threading.Thread(target=lambda: done.update(run()))
    loop.start()
    while not lines and loop.is_alive():
        time.sleep(0.1)
    address, _, token = lines[0].split("judge at ")[1].partition("?token=")
    assert token == tokens["careful"]
    person = client.Client(address, token)
    time.sleep(3)  # longer than the programs need
    assert person.progress()["left"] >= 8
    answer = labelling.make_answer(WORLD, SEATS[0], 9)
    while client.judge(person, answer):
        pass
    loop.join()
    assert done["careful"] >= 8
    assert min(done.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("person", [True, False])
def test_what_a_person_judged_outlives_a_run_that_was_killed(tmp_path, person):
    """Programs begin again, so that their labels are those of a run that was not killed."""
    seats = (SEATS[0]._replace(person=person), *SEATS[1:])
    tokens, _ = labelled(tmp_path / "own", seats)
    place, counts = tmp_path / "own" / "feedback.db", []
    for _ in range(2):
        with labelling.serving(place) as address:
            own = client.Client(address, tokens["careful"])
            counts.append(own.progress()["done"])
            for _ in range(3):
                assert client.judge(own, labelling.make_answer(WORLD, SEATS[0], 0))
            own.close()
        items = labelling.items_of(WORLD, sampled(24), {})
        tokens = labelling.store(place, items, seats, project.Project(overlap=0.2))
    assert counts == [0, 3 if person else 0]


@pytest.mark.slow
def test_one_seed_gives_the_same_labels(tmp_path):
    from alignjax.feedback import database
    from alignjax.feedback.store import queries

    said = []
    for name in ("one", "two"):
        labelled(tmp_path / name)[1]()
        with database.opened(str(tmp_path / name / "feedback.db")) as db:
            judged = db.read(lambda c: list(queries.judgements(c)))
        said.append([(own.item, own.rater, own.shown, own.payload) for own in judged])
    assert said[0] == said[1]


@pytest.mark.slow
def test_the_shortest_loop_runs_and_reports(tmp_path):
    work = tmp_path / "run"
    command = ["run", "--config=experiments/feedback_loop.py:micro", f"--workdir={work}"]
    cli.run(*command)
    found = json.loads((work / "results.json").read_text())
    stages = [row["stage"] for row in found["rows"]]
    assert stages == ["sft", "online-1", "online-2", "offline-2"]
    judged = json.loads((work / "labels" / "online-1" / "report.json").read_text())["judged"]
    assert set(judged) == set(feedback.SEATS)
    assert sum(judged.values()) >= 40
    cli.run(*command)  # finished: nothing is judged again

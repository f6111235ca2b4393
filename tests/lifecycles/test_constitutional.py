"""A constitution in ReviewWorld: exact critics and judges, AI labels as people's, refusals."""

import json

import numpy as np
import pytest

from alignjax.experiments import constitution as experiment
from alignjax.experiments.common import constitutional
from alignjax.lifecycles import lifecycle
from alignjax.rewards import constitution, judge
from alignjax.worlds import corpus as review_corpus
from alignjax.worlds import review

WORLD = review.make_review_world(review.ReviewWorldConfig())
PRINCIPLES = constitution.read(constitutional.shipped())
PROMPT = "film: the story is"


def test_what_each_principle_forbids():
    wow = review.words(WORLD, WORLD.kinds["wow"]).split()
    cases = {
        "grammar": ("good . the . <eos>", [3]),
        "shouting": (f"good {wow[0]} {wow[1]} {wow[0]} {wow[0]} . <eos>", [3, 4]),
        "stammering": ("very really good . <eos>", [1]),
    }
    critic = constitutional.exact_critic(WORLD)
    for own in PRINCIPLES:
        answer, places = cases[own.name]
        found = constitutional.broken(WORLD, own.name, PROMPT, answer)
        assert found.tolist() == places, own.name
        (said,) = critic([PROMPT], [answer], [own])
        assert said == f"word {places[0]}: {answer.split()[places[0]]}"
        assert critic([PROMPT], ["good . <eos>"], [own]) == [constitutional.NONE]


def test_the_illegal_bigrams_are_the_worlds_own():
    tokens, lengths = review.sample_documents(WORLD, np.random.default_rng(0), 50)
    noisy = review.corrupt(WORLD, np.random.default_rng(1), tokens, lengths, 1.0, 0.3)
    counts = []
    for row, end in zip(noisy, lengths, strict=True):
        prompt, answer = (review.words(WORLD, part) for part in (row[:6], row[6:end]))
        counts.append(len(constitutional.broken(WORLD, "grammar", prompt, answer)))
    want = review.illegal_rate(WORLD, noisy, lengths, 6) * (lengths - 6).sum()
    assert want > 0
    assert sum(counts) == pytest.approx(want)


def documents(count):
    tokens, lengths = review.sample_documents(WORLD, np.random.default_rng(3), 2 * count)
    noisy = review.corrupt(WORLD, np.random.default_rng(4), tokens, lengths, 0.5, 0.3)
    noisy[count:, :6] = noisy[:count, :6]
    sides = [(noisy[:count], lengths[:count]), (noisy[count:], lengths[count:])]
    start = [review.words(WORLD, row[:6]) for row in noisy[:count]]
    said = [
        [review.words(WORLD, row[6:end]) for row, end in zip(*side, strict=True)] for side in sides
    ]
    return sides, start, said


def test_labels_of_a_judge_that_is_always_right_are_those_of_people():
    """Bit for bit the same rows, so bit for bit the same run."""
    sides, prompts, (a, b) = documents(400)
    tables = []
    for accuracy in (1.0, None):
        truth = constitutional.exact_judge(WORLD, PRINCIPLES, 1.0, 0)
        if accuracy is None:  # people, who are simulated by the noisy judge without noise
            exact = constitutional.exact_scores(WORLD, PRINCIPLES)
            truth = judge.noisy("people", exact, accuracy=1.0)
        own = constitution.judged(truth, PRINCIPLES, seed=5)
        chances = own.pair(prompts, a, b).probabilities
        tables.append(constitutional.ai_pairs(*sides, chances, (), start=6))
    ours, people = tables
    assert 20 < len(ours["tokens"]) < 400
    for name, column in ours.items():
        np.testing.assert_array_equal(column, people[name], err_msg=name)
    assert (ours["preference"] == 1).all()


def test_a_clamp_keeps_soft_labels_and_a_noisy_judge_errs():
    sides, prompts, (a, b) = documents(400)
    found = {}
    for accuracy in (1.0, 0.8):
        exact = constitutional.exact_judge(WORLD, PRINCIPLES, accuracy, 0)
        found[accuracy] = constitution.judged(exact, PRINCIPLES).pair(prompts, a, b)
    differ = found[1.0].logits != 0
    wrong = np.sign(found[0.8].a_first[differ]) != np.sign(found[1.0].a_first[differ])
    assert wrong.mean() == pytest.approx(0.2, abs=4 * (0.16 / differ.sum()) ** 0.5)
    pairs = constitutional.ai_pairs(*sides, found[1.0].probabilities, (0.4, 0.6), start=6)
    np.testing.assert_allclose(pairs["preference"], 0.6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 4}, "rounds must be"),
        ({"draws": 1}, "draws must be"),
        ({"accuracy": 1.5}, "accuracy must be"),
        ({"clamp": (0.4,)}, "clamp must be a low and a high chance"),
        ({"clamp": (0.6, 0.4)}, "clamp of chances must be"),
        ({"compared": 99999}, "revisions and compared must be at most"),
        ({"principles": "nowhere.txt"}, "a constitution must be a file"),
        ({"principles": "experiments/constitutions/assistant.txt"}, "a principle .* must be one"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    config = experiment.get_config()
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        config.validate()


@pytest.mark.slow
def test_answers_are_revised_and_pairs_are_labelled_once(tmp_path):
    config = experiment.get_config("micro")
    assert lifecycle.run(config, tmp_path, print) == []
    effect = json.loads((tmp_path / "labels" / "revised.json").read_text())
    assert 0 <= effect["expected"] <= 1
    assert effect["off, se"] < 5
    table = review_corpus.read_pairs(str(tmp_path / "labels" / "revised.npz"), "train")
    assert len(table["tokens"]) == 64 - 8
    before = (tmp_path / "labels" / "pairs.npz").read_bytes()
    lines = []
    lifecycle.run(config, tmp_path, lines.append)
    assert sum("finished before, skipped" in line for line in lines) == 3
    assert (tmp_path / "labels" / "pairs.npz").read_bytes() == before

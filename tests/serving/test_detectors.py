"""Detectors and guards: whole words, pieces of long texts, options, failure is no permission."""

import json
import math

import jax
import numpy as np
import pytest

from alignjax.core import struct
from alignjax.models import transformer
from alignjax.models.config import TransformerConfig
from alignjax.rewards import option_judge
from alignjax.serving import described_guards, detectors, guarding, guards, thresholds
from alignjax.text import chat
from alignjax.worlds import traffic, traffic_corpus


def said(*texts):
    roles = (chat.HUMAN, chat.ASSISTANT)
    return [chat.Turn(roles[i % 2], text) for i, text in enumerate(texts)]


RULE = detectors.rule("words", {"a": detectors.Words(("class", "two words")),
                                "b": detectors.Words((), (r"\d{4}", "毒"))})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a Class act", (1, 0)),
        ("classic, subclass", (0, 0)),
        ("two  words", (0, 0)),
        ("(two words)", (1, 0)),
        ("ＣＬＡＳＳ", (1, 0)),
        ("cl\u200bass", (1, 0)),
        ("in 1984", (0, 1)),
        ("有毒的", (0, 1)),
        ("", (0, 0)),
    ],
)
def test_a_rule_finds_whole_words(text, found):
    np.testing.assert_array_equal(RULE.probabilities([said(text)]), [found])


def test_a_rule_reads_every_turn_and_none_across_turns():
    many = [said("class", "no", "no"), said("no", "class"), said("two", "words")]
    np.testing.assert_array_equal(RULE.probabilities(many)[:, 0], [1, 1, 0])
    with pytest.raises(ValueError, match="must be a regular expression"):
        detectors.rule("x", {"a": detectors.Words((), ("(",))})
    with pytest.raises(ValueError, match="must have words or patterns"):
        detectors.rule("x", {"a": detectors.Words()})


def test_pieces_overlap_by_half_and_lose_nothing():
    assert detectors.pieces(range(10), 10) == [list(range(10))]
    found = detectors.pieces(range(25), 10)
    assert found == [list(range(s, s + 10)) for s in (0, 5, 10, 15)]
    found = detectors.pieces(range(27), 10)
    assert found[-1] == list(range(17, 27))
    assert {i for piece in found for i in piece} == set(range(27))


@pytest.fixture(scope="module")
def small():
    """(model, params, speaker) whose head fires on the token that it was given by hand."""
    config = traffic_corpus.TrafficConfig(rows=64, eval_rows=16, vocab_size=300)
    speaker = traffic_corpus.make_corpus(config).speaker
    model = transformer.transformer(
        TransformerConfig(
            vocab_size=speaker.vocab_size,
            layers=1,
            width=16,
            heads=2,
            kv_heads=1,
            head_dim=8,
            ff=16,
        )
    )
    tree = jax.jit(model.init)(jax.random.key(0))
    head = jax.random.normal(jax.random.key(1), (16, 2))
    return model, struct.replace(model.with_scalar(tree, 2), scalar=head), speaker


def test_a_classifier_reads_long_texts_whole_whatever_stands_beside_them(small):
    model, params, speaker = small
    own = detectors.classifier("g", model, params, speaker, ("a", "b"), length=16, rows=4)
    texts = [said(" ".join(m.text for m in traffic.messages(i, 1 + i, traffic.Rates())))
             for i in range(5)]  # fmt: skip
    together = own.probabilities(texts)
    alone = np.concatenate([own.probabilities([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    whole, _ = chat.encode_chat(speaker, texts[4])
    parts = detectors.pieces(whole, 16)
    assert len(parts) > 4
    each = []
    places = {"positions": np.arange(16)[None], "segments": np.ones((1, 16), int)}
    score = jax.jit(lambda ids: model.scalar(params, model.hidden(params, ids, **places)[0]))
    for part in parts:
        each.append(np.asarray(score(np.array([part])))[0, -1])
    np.testing.assert_allclose(together[4], 1 / (1 + np.exp(-np.max(each, axis=0))), atol=1e-4)


def limits_of(detector, value=0.5):
    one = thresholds.Threshold(value, 100, 96, 0.05)
    by = {name: dict.fromkeys(detector.categories, one) for name in ("*", "de")}
    return thresholds.Thresholds(detector.fingerprint, by)


def failing(error=None, value=math.nan):
    def probabilities(conversations):
        if error:
            raise error
        return np.full((len(conversations), 1), value)

    return detectors.Detector("own", ("a",), probabilities, "f")


@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        (failing(RuntimeError("no\ndevice")), "own: no device"),
        (failing(KeyError()), "own: KeyError"),
        (failing(), "own could not tell a"),
    ],
)
def test_a_guard_that_fails_has_not_allowed(detector, reason):
    guard = guards.Guard(detector, limits_of(detector))
    for verdict in (guard.before(said("x")), guard.window(said("x"), "y")):
        assert (verdict.blocked, verdict.error) == (True, reason)


def test_a_guard_blocks_above_its_threshold_in_the_language_of_the_text():
    seen = []

    def probabilities(conversations):
        seen.extend(conversations)
        return np.array([[0.5]])

    own = detectors.Detector("own", ("a",), probabilities, "f")
    limits = limits_of(own, 0.5)
    lower = {**limits.by, "de": {"a": limits.by["*"]["a"]._replace(value=0.4)}}
    guard = guards.Guard(own, limits._replace(by=lower), language=lambda turns: turns[0].text)
    assert not guard.before(said("en")).blocked
    assert guard.before(said("de")).blocked
    verdict = guard.window(said("en"), "so far")
    assert seen[-1] == said("en", "so far")  # the prompt too, and the answer as one text
    assert verdict == guarding.Verdict(False, {"a": 0.5})
    assert len(guard.latencies) == 3
    with pytest.raises(ValueError, match="must be those of the guard"):
        guards.Guard(own._replace(fingerprint="other"), limits)
    with pytest.raises(ValueError, match="got none of b"):
        guards.Guard(own._replace(categories=("a", "b")), limits)


def test_what_is_sure_blocks_without_an_error_whatever_else_is_lost():
    """An error is what a server may allow."""
    own = detectors.Detector(
        "own", ("a", "b"), lambda given: np.array([[0.9, math.nan]] * len(given)), "f"
    )
    verdict = guards.Guard(own, limits_of(own)).before(said("x"))
    assert verdict.blocked
    assert verdict.error is None
    calm = guards.Guard(own, limits_of(own, value=0.95)).before(said("x"))
    assert calm.error == "own could not tell b"


def test_guards_in_series_block_where_one_does():
    low, high = (failing(value=x) for x in (0.2, 0.9))
    both = guards.Series([guards.Guard(x, limits_of(x)) for x in (low, high)])
    assert both.before(said("x")) == guarding.Verdict(True, {"a": 0.9})
    assert both.window(said("x"), "y").blocked
    calm = guards.Series([guards.Guard(low, limits_of(low))] * 2)
    assert calm.before(said("x")) == guarding.Verdict(False, {"a": 0.2})
    lost = failing()
    broken = guards.Series([guards.Guard(x, limits_of(x)) for x in (low, lost, low)])
    verdict = broken.before(said("x"))
    assert verdict.blocked
    assert "could not tell" in verdict.error
    sure = guards.Series([guards.Guard(x, limits_of(x)) for x in (lost, high)])
    verdict = sure.before(said("x"))  # blocked whatever a server does about errors
    assert verdict.blocked
    assert verdict.error is None


def test_a_model_that_is_asked_tells_by_its_options_and_a_lost_answer_is_nan():
    def ask(prompts, answers, question):
        assert prompts == ["User: x\nAssistant: y"]
        return np.array([{"Rude?": 2.0, "Odd?": np.nan}[question]])

    own = detectors.asked("m", ask, {"rude": "Rude?", "odd": "Odd?"})
    found = own.probabilities([said("x", "y")])
    assert found[0, 0] == pytest.approx(1 / (1 + math.exp(-2)))
    assert np.isnan(found[0, 1])


def test_descriptions_are_read_and_wrong_ones_refused(tmp_path):
    def read(fields):
        path = tmp_path / "guard.json"
        path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
        with described_guards.opened(described_guards.read(str(path))) as own:
            return own

    own = read({"kind": "rule", "name": "w", "categories": {"a": {"words": ["class"]}}})
    assert own.probabilities([said("a class")])[0, 0] == 1
    other = read({"kind": "rule", "name": "w", "categories": {"a": {"words": ["klass"]}}})
    assert own.fingerprint != other.fingerprint
    wrong = {
        "kind .* must be one of": {"kind": "x"},
        "a setting": {"kind": "rule", "words": ["x"]},
        "words or patterns; got another": {"kind": "rule", "categories": {"a": ["x"]}},
        "must be lists of text": {"kind": "rule", "categories": {"a": {"words": "class"}}},
        "must be a file of JSON": "{",
        "must be a JSON object": "[1]",
        "must name a question": {"kind": "options", "model": str(tmp_path)},
        "workdir or model": {"kind": "options", "categories": {"a": "A?"}},
        "config|run": {"kind": "run", "workdir": str(tmp_path)},
    }
    for match, fields in wrong.items():
        with pytest.raises(ValueError, match=match) as error:
            read(fields)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="a run's folder or a file"):
        described_guards.read(str(tmp_path / "none.json"))


def test_a_real_model_is_asked_by_its_options_and_a_long_text_is_not_told(small):
    model, params, speaker = small
    ask = option_judge.asker(
        model, model.without_scalar(params), speaker, template=detectors.QUESTION,
        options=("yes", "no"), rows=2, length=160,
    )  # fmt: skip
    own = detectors.asked("m", ask, {"odd": "Is it odd?", "rude": "Is it rude?"})
    found = own.probabilities([said("bread"), said("bread", "river " * 200)])
    assert found.shape == (2, 2)
    assert np.all((found[0] > 0) & (found[0] < 1))
    assert found[0, 0] != found[0, 1]
    assert np.isnan(found[1]).all()
    logit = ask([detectors.as_text(said("bread"))], [""], "Is it odd?")[0]
    assert found[0, 0] == pytest.approx(1 / (1 + math.exp(-logit)))
    guard = guards.Guard(own, limits_of(own, 1.0))
    assert not guard.before(said("bread")).blocked
    assert "could not tell odd, rude" in guard.window(said("bread"), "river " * 200).error

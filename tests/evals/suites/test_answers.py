"""GSM8K, XSTest, MT-bench, perplexity and counterfactual pairs, from rows to numbers."""

import json
import math

import numpy as np
import pytest

from alignjax.evals.suites import counterfactual, gsm8k, mt_bench, perplexity, record, xstest
from alignjax.rewards import judge
from tests.evals.suites import fakes

NOTHING = record.Settings()


# --- gsm8k ---
def test_the_last_number_counts():
    rows = [gsm8k.read({"question": str(i), "answer": f"so\n#### {i}"}, i) for i in range(4)]
    said = {"0": "It is 1, no: 0.", "1": "1 or 2", "2": "none", "3": None}
    own = gsm8k.ask(rows, fakes.candidate(say=lambda texts: said[texts[-1]]), NOTHING)
    assert [result.scores["accuracy"][0] for result in own[:3]] == [1.0, 0.0, 0.0]
    assert record.unscored(own) == 1
    assert record.mean(own, "accuracy").estimate.value == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="row 9"):
        gsm8k.read({"question": "q", "answer": "none"}, 9)


def test_every_shared_problem_is_read():
    fields = fakes.shared_rows("gsm8k/gsm8k.eval.jsonl.gz")
    rows = [gsm8k.read(own, number) for number, own in enumerate(fields, 1)]
    own = fakes.candidate(say=lambda texts: "#### " + right[texts[-1]])
    right = {row.question: row.answer.rpartition("####")[2] for row in rows}
    assert record.mean(gsm8k.ask(rows, own, NOTHING), "accuracy").estimate.value == 1.0
    assert len(rows) == 633


# --- xstest ---
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("I'm sorry, but I can't help with that.", xstest.FULL),
        ("I cannot assist with this request.", xstest.FULL),
        ("I’m sorry. As an AI language model, I cannot do it.", xstest.FULL),
        ("I'm sorry, I can't say more. " + "Here is how to do it. " * 20, xstest.PARTIAL),
        ("Use `kill -9` with the process's number.", xstest.NONE),
        ("Press the key. It works. I'm sorry if this is long.", xstest.NONE),
        ("It is illegal to park there without a permit.", xstest.NONE),
        ("", xstest.NONE),
    ],
)
def test_refusals_by_their_phrases(text, told):
    assert xstest.refusal(text) == told


def prompts(labels: str) -> list[xstest.Row]:
    label = {"s": "safe", "u": "unsafe"}
    return [
        xstest.read({"id": i, "prompt": f"p{i}", "label": label[x], "type": "t"}, i)
        for i, x in enumerate(labels)
    ]


def test_refusals_of_safe_and_unsafe_prompts_are_apart_and_say_who_told():
    said = {"p0": "I can't help.", "p1": "Gladly.", "p2": "I can't help.", "p3": None}
    own = fakes.candidate(say=lambda texts: said[texts[0]])
    found = fakes.numbers(record.means(xstest.ask(prompts("ssuu"), own, NOTHING)))
    assert found["full refusal of safe (rule)", ""] == 0.5
    assert found["partial refusal of safe (rule)", ""] == 0.0
    assert found["full refusal of unsafe (rule)", ""] == 1.0


def test_a_judge_of_two_levels_tells_refusals():
    def ask(prompts, answers, question):
        return np.array([math.nan if "?" in x else 5.0 if "no" in x else -5.0 for x in answers])

    own = judge.rubric("r", ask, [("Does it refuse?", 1.0)])
    said = {"p0": "no", "p1": "fine", "p2": "?"}
    model = fakes.candidate(say=lambda texts: said[texts[0]])
    results = xstest.ask(prompts("sss"), model, record.Settings(judge=own))
    assert record.mean(results, "refusal of safe (judge)").estimate.value == 0.5
    assert record.unscored(results) == 1
    with pytest.raises(ValueError, match="compares"):
        xstest.check(record.Settings(judge=judge.rule("x", lambda p, a: a)))


def test_the_shared_prompts_are_read():
    fields = fakes.shared_rows("safety-prompts/xstest.eval.jsonl.gz")
    rows = [xstest.read(own, number) for number, own in enumerate(fields, 1)]
    assert (len(rows), sum(row.label == "safe" for row in rows)) == (335, 186)


# --- mt_bench ---
def questions(count: int = 6) -> list[mt_bench.Row]:
    rows = [
        {"question_id": i, "turns": [f"first {i}", f"second {i}"], "category": "ab"[i % 2]}
        for i in range(count)
    ]
    return [mt_bench.read(row, i) for i, row in enumerate(rows)]


def told(results) -> dict:
    return {r.id: json.loads(json.dumps(r.as_dict())) for r in results}


def test_the_second_turn_follows_the_own_first_answer():
    seen = []
    own = fakes.candidate(say=lambda texts: seen.append(texts) or f"answer {len(texts)}")
    results = mt_bench.ask(questions(1), own, NOTHING)
    assert seen == [["first 0"], ["first 0", "answer 1", "second 0"]]
    answers = {r.id: r.details["answer"] for r in results}
    assert answers == {"0.1": "answer 1", "0.2": "answer 3"}
    assert record.means(results) == []


def test_answers_are_judged_in_both_orders_and_errors_go_by_question():
    better, worse = (fakes.candidate(say=lambda texts, x=x: x) for x in ("longer one", "short"))
    rows = questions()
    against = told(mt_bench.ask(rows, worse, NOTHING))
    length = judge.rule("long", lambda p, a: [len(x) for x in a])
    own = mt_bench.ask(rows, better, record.Settings(judge=length, against=against))
    mean = record.mean(own, "win rate")
    assert (mean.estimate.value, mean.rows, mean.estimate.n) == (1.0, 12, 6)
    assert {m.category for m in record.means(own)} == {"", "a", "b"}
    first = judge.rule("first", lambda p, a: [0.0] * len(a), position=1.0)
    own = mt_bench.ask(rows, better, record.Settings(judge=first, against=against))
    found = fakes.numbers(record.means(own))
    assert (found["win rate", ""], found["orders that disagree", ""]) == (0.5, 1.0)


def test_a_judge_sees_each_sides_own_conversation():
    seen = []

    def score(prompts, answers):
        seen.extend(zip(prompts, answers, strict=True))
        return [0.0] * len(answers)

    rows = questions(1)
    against = told(mt_bench.ask(rows, fakes.candidate(say=lambda texts: "theirs"), NOTHING))
    settings = record.Settings(judge=judge.rule("j", score), against=against)
    mt_bench.ask(rows, fakes.candidate(say=lambda texts: "ours"), settings)
    assert ("first 0", "ours") in seen
    both = "[turn 1]\nfirst 0\n\n[turn 2]\nsecond 0"
    assert (both, "[turn 1]\ntheirs\n\n[turn 2]\ntheirs") in seen


def test_unread_verdicts_and_missing_answers():
    rows = questions(2)
    against = told(mt_bench.ask(rows, fakes.candidate(say=lambda texts: "x"), NOTHING))
    unsure = judge.rule("nan", lambda p, a: [math.nan] * len(a))
    own = mt_bench.ask(rows, fakes.candidate(), record.Settings(judge=unsure, against=against))
    assert record.unscored(own) == 4
    silent = fakes.candidate(say=lambda texts: None)
    own = mt_bench.ask(rows, silent, record.Settings(judge=unsure, against=against))
    assert [r.id for r in own] == ["0.1", "1.1"]
    del against["1.2"]
    never = fakes.candidate(say=lambda texts: pytest.fail("asked before the rows were checked"))
    with pytest.raises(ValueError, match=r"1\.2"):
        mt_bench.ask(rows, never, record.Settings(judge=unsure, against=against))
    with pytest.raises(ValueError, match=r"0\.1"):
        mt_bench.ask(rows, never, record.Settings(judge=unsure, against={}))
    against["1.1"]["answer"] = None  # too long: what follows was not asked
    own = mt_bench.ask(rows, fakes.candidate(), record.Settings(judge=unsure, against=against))
    assert len(own) == 4


# --- perplexity ---
def test_nats_a_token_and_bits_a_byte():
    rows = [perplexity.read({"text": text}, i) for i, text in enumerate(("a b", "c"))]
    own = fakes.candidate(lambda _, text: -2.0 * len(text))
    found = fakes.numbers(perplexity.metrics(perplexity.ask(rows, own, NOTHING)))
    assert found["nats a token", ""] == pytest.approx(8 / 3)
    assert found["bits a byte", ""] == pytest.approx(2 / math.log(2))
    assert found["perplexity of a token", ""] == pytest.approx(math.exp(8 / 3))


# --- counterfactual ---
def requests(count: int = 500) -> list[counterfactual.Row]:
    return [
        counterfactual.read({"question": f"What was the case {i}?", "answer": "one two"}, i)
        for i in range(count)
    ]


def test_pairs_differ_in_one_thing():
    row = requests(1)[0]
    own = counterfactual.pairs(row)
    assert own["native language"] == ("What was the case 0?", "What is case 0?")
    for group in ("gender", "ethnicity"):
        texts = [text.split(". ", 1) for text in own[group]]
        assert texts[0][0] != texts[1][0]
        assert texts[0][1] == texts[1][1] == row.request
    assert "native language" not in counterfactual.pairs(row._replace(request="Why?"))


def test_a_model_that_treats_all_alike_has_no_gap():
    own = counterfactual.ask(requests(40), fakes.candidate(lambda *_: -3.0), NOTHING)
    metrics = counterfactual.metrics(own)
    found = fakes.numbers(metrics)
    for group in counterfactual.GROUPS:
        assert found["gap", group] == 0.0
        assert found["largest gap of a pair", group] == 0.0
        assert found["p by Wilcoxon", group] == found["p by paired t", group] == 1.0


def test_a_planted_gap_is_found():
    """.3 nats a token against one group, among noise: within 2 errors at 500 pairs."""
    draw = np.random.default_rng(0)
    planted = {f"My name is {name}." for names in counterfactual.BLACK.values() for name in names}

    def value(prompt: str, option: str) -> float:
        against = any(prompt.startswith(start) for start in planted)
        return 2 * (-1.0 - 0.3 * against + draw.normal())

    results = counterfactual.ask(requests(), fakes.candidate(value), NOTHING)
    metrics = counterfactual.metrics(results)
    own = {(m.name, m.category): m.estimate for m in metrics}
    gap = own["gap", "ethnicity"]
    assert gap.n == 500
    assert abs(gap.value + 0.3) < 2 * gap.se
    assert own["p by Holm", "ethnicity"].value < 0.01
    assert own["p by Wilcoxon", "ethnicity"].value < 0.01
    gender = own["gap", "gender"]
    assert abs(gender.value) < 4 * gender.se
    assert own["p by Holm", "gender"].value >= own["p by paired t", "gender"].value

"""Every layout: rows made again in the form of public data sets become the typed rows they mean."""

import json

import pytest

from alignjax.data import layouts, records, rows
from alignjax.data.layouts import detect
from alignjax.text import chat, template_tools
from tests.data.layouts import community_rows

ASK = "How do I keep a garden green?"
GOOD, BAD, FAIR = "Water early in the morning.", "Let it dry.", "Cover the soil."
H, A, S = chat.HUMAN, chat.ASSISTANT, chat.SYSTEM
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def turn(role, text):
    return chat.Turn(role, text)


PROMPT = (turn(H, ASK),)


def said(text):
    return (turn(A, text),)


def messages(*pairs):
    names = {H: "user", A: "assistant", S: "system"}
    return [{"role": names[role], "content": text} for role, text in pairs]


def transcript(text):
    return f"\n\nHuman: {ASK}\n\nAssistant: {text}"


def ultrafeedback():
    def completion(text, ratings, overall):
        aspects = ("instruction_following", "honesty")
        return {
            "response": text,
            "model": "x",
            "overall_score": overall,
            "annotations": {
                name: {"Rating": rating, "Rationale": "r"}
                for name, rating in zip(aspects, ratings, strict=True)
            },
        }

    return {
        "source": "s",
        "instruction": ASK,
        "models": ["x"] * 3,
        "completions": [
            completion(BAD, ("1", "2"), 9.0),
            completion(GOOD, ("5", "N/A"), 8.0),
            completion(FAIR, ("3", "3"), 2.0),
        ],
    }


# {case: (layout, fields, what the typed row must hold)}
CASES = {
    "hh": (
        "hh",
        {"chosen": transcript(GOOD), "rejected": transcript(BAD)},
        {"prompt": PROMPT, "answers": (said(GOOD), said(BAD)), "ranks": (0, 1)},
    ),
    "pairs of strings with a prompt": (
        "pairs",
        {"prompt": ASK, "chosen": GOOD, "rejected": BAD, "topic": "garden"},
        {"prompt": PROMPT, "answers": (said(GOOD), said(BAD)), "columns": {"topic": "garden"}},
    ),
    "pairs of strings with a common prompt": (
        "pairs",
        {"chosen": f"{ASK} {GOOD}", "rejected": f"{ASK} {BAD}"},
        {"prompt": PROMPT, "answers": (said(GOOD), said(BAD))},
    ),
    "pairs of messages with a prompt of messages": (
        "pairs",
        {"prompt": messages((S, "Be brief."), (H, ASK)), "chosen": messages((A, GOOD)),
         "rejected": messages((A, BAD))},
        {"prompt": (turn(S, "Be brief."), *PROMPT), "answers": (said(GOOD), said(BAD))},
    ),
    "pairs of whole conversations": (
        "pairs",
        {"chosen": messages((H, ASK), (A, GOOD)), "rejected": messages((H, ASK), (A, BAD))},
        {"prompt": PROMPT, "answers": (said(GOOD), said(BAD))},
    ),
    "UltraFeedback binarized": (
        "pairs",
        {"prompt": ASK, "prompt_id": "a", "messages": messages((H, ASK), (A, GOOD)),
         "chosen": messages((H, ASK), (A, GOOD)), "rejected": messages((H, ASK), (A, BAD)),
         "score_chosen": 8.5, "score_rejected": 4.0},
        {"prompt": PROMPT, "answers": (said(GOOD), said(BAD)), "scores": {"score": (8.5, 4.0)}},
    ),
    "a prompt that is a transcript": (
        "pairs",
        {"prompt": transcript("").rstrip(), "chosen": f" {GOOD}", "rejected": BAD},
        {"prompt": PROMPT, "answers": (said(f" {GOOD}"), said(BAD))},
    ),
    "a preference and a weight": (
        "pairs",
        {"prompt": ASK, "chosen": BAD, "rejected": GOOD, "preference": 0.25, "weight": 4},
        {"preference": 0.25, "weight": 4.0, "ranks": (1, 0), "columns": {}},
    ),
    "a margin": (
        "pairs",
        {"prompt": ASK, "chosen": GOOD, "rejected": BAD, "margin": 2},
        {"scores": {"margin": (2.0, 0.0)}},
    ),
    "UltraFeedback": (
        "ultrafeedback",
        ultrafeedback(),
        {"prompt": PROMPT, "answers": (said(BAD), said(GOOD), said(FAIR)), "ranks": (2, 0, 1),
         "columns": {"source": "s", "models": ["x"] * 3}},
    ),
    "Community Alignment": (
        "community_alignment",
        community_rows.conversation(
            community_rows.turn("first", ASK, (BAD, GOOD, FAIR, ""), "b"),
            community_rows.turn("second", ASK, (GOOD, "", FAIR, BAD), "c"),
        ),
        {"prompt": PROMPT, "answers": (said(FAIR), said(BAD), said(GOOD)),
         "ranks": (float("inf"), float("inf"), 1)},
    ),
    "PRISM": (
        "prism",
        {"user_id": "u", "conversation_id": "garden", "conversation_history":
         community_rows.history((ASK, [(BAD, 5, False), (GOOD, 90, True)]))},
        {"prompt": PROMPT, "answers": (said(BAD), said(GOOD)), "ranks": (1, 0),
         "scores": {"score": (5.0, 90.0)}},
    ),
    "PRISM, wide": (
        "prism",
        {"user_id": "u", "conversation_id": "garden", "user_prompt": ASK, "response_a": GOOD,
         "score_a": 3, "response_b": BAD, "score_b": 2},
        {"prompt": PROMPT, "answers": (said(BAD), said(GOOD)), "ranks": (1, 0)},
    ),
    "collective alignment": (
        "collective_alignment",
        community_rows.assessments(
            ASK, (BAD, GOOD), ("p", "B>A", "A>B", "x"), ("q", "B>A", "", "")
        ),
        {"prompt": PROMPT, "answers": (said(BAD), said(GOOD)), "ranks": (2, 1)},
    ),
    "UltraFeedback in columns": (
        "ultrafeedback",
        {"instruction": ASK, "completions": {"response": [GOOD, BAD], "overall_score": [1, 2]}},
        {"answers": (said(GOOD), said(BAD)), "ranks": (1, 0)},
    ),
    "Nectar": (
        "ranked",
        {"prompt": transcript(""), "answers": [
            {"answer": FAIR, "model": "x", "rank": 2.0},
            {"answer": GOOD, "model": "y", "rank": 1.0},
            {"answer": BAD, "model": "z", "rank": 2.0}], "num_responses": 3, "good_natured": True},
        {"prompt": PROMPT, "answers": (said(FAIR), said(GOOD), said(BAD)), "ranks": (2, 1, 2),
         "columns": {"num_responses": 3, "good_natured": True}},
    ),
    "answers with scores beside them": (
        "ranked",
        {"prompt": ASK, "answers": [GOOD, BAD, FAIR], "scores": [0.9, 0.1, 0.9]},
        {"ranks": (0, 2, 0), "scores": {"score": (0.9, 0.1, 0.9)}},
    ),
    "HelpSteer pairs": (
        "helpsteer_pairs",
        {"prompt": ASK, "response_1": BAD, "response_2": GOOD, "preference_strength": 2,
         "preference_statement": "x"},
        {"answers": (said(BAD), said(GOOD)), "ranks": (1, 0),
         "scores": {"preference_strength": (-2.0, 0.0)}},
    ),
    "HelpSteer 3 pairs, tied": (
        "helpsteer_pairs",
        {"domain": "d", "context": messages((H, ASK)), "response1": GOOD, "response2": BAD,
         "overall_preference": 0},
        {"prompt": PROMPT, "ranks": (0, 0)},
    ),
    "KTO": (
        "kto",
        {"prompt": ASK, "completion": GOOD, "label": False},
        {"prompt": PROMPT, "answer": said(GOOD), "desirable": False},
    ),
    "KTO of messages": (
        "kto",
        {"prompt": messages((H, ASK)), "completion": messages((A, GOOD)), "label": True},
        {"prompt": PROMPT, "answer": said(GOOD), "desirable": True},
    ),
    "HelpSteer": (
        "scored",
        {"prompt": ASK, "response": GOOD, "helpfulness": 4, "correctness": 3, "coherence": 4,
         "complexity": 1, "verbosity": "2"},
        {"answer": said(GOOD), "columns": {},
         "scores": {"helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 1,
                    "verbosity": 2}},
    ),
    "stepwise": (
        "stepwise",
        {"prompt": ASK, "completions": ["First.", "Then.", "Last."], "labels": [True, 0.5, 0]},
        {"steps": ("First.", "Then.", "Last."), "labels": (1.0, 0.5, 0.0)},
    ),
    "labels of a conversation": (
        "guard",
        {"turns": messages((H, ASK), (A, GOOD)), "labels": {"rude": None, "unsafe": True,
                                                            "other": 0.25}, "language": "en"},
        {"turns": (*PROMPT, *said(GOOD)), "labels": {"unsafe": 1.0, "other": 0.25},
         "columns": {"language": "en"}},
    ),
    "names of labels that hold": (
        "guard",
        {"text": ASK, "labels": ["unsafe", "rude"]},
        {"turns": PROMPT, "labels": {"unsafe": 1.0, "rude": 1.0}, "is_whole": True},
    ),
    "one label's name": (
        "guard",
        {"text": ASK, "labels": "safe"},
        {"turns": PROMPT, "labels": {"safe": 1.0}, "is_whole": True},
    ),
    "labels of a text": (
        "guard",
        {"text": ASK, "labels": {"unsafe": 0}, "weight": 2.5},
        {"turns": PROMPT, "labels": {"unsafe": 0.0}, "weight": 2.5},
    ),
    "ShareGPT": (
        "sharegpt",
        {"id": "i", "system": "Be brief.",
         "conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": GOOD}]},
        {"turns": (turn(S, "Be brief."), *PROMPT, turn(A, GOOD)), "columns": {"id": "i"}},
    ),
    "ShareGPT with calls": (
        "sharegpt",
        {"conversations": [
            {"from": "human", "value": ASK},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"day": 1}}'},
            {"from": "observation", "value": "dry"}, {"from": "gpt", "value": GOOD}],
         "tools": json.dumps([WEATHER])},
        {"turns": (*PROMPT,
                   template_tools.Message(A, "", (template_tools.Call("weather", {"day": 1}),)),
                   template_tools.Message("tool", "dry"), turn(A, GOOD)),
         "tools": (WEATHER,)},
    ),
    "Alpaca": (
        "alpaca",
        {"instruction": "Name a plant.", "input": "Green.", "output": "Moss."},
        {"turns": (turn(H, "Name a plant.\n\nGreen."), turn(A, "Moss."))},
    ),
    "Alpaca with a history": (
        "alpaca",
        {"instruction": "And?", "input": "", "output": GOOD, "history": [[ASK, FAIR]]},
        {"turns": (*PROMPT, turn(A, FAIR), turn(H, "And?"), turn(A, GOOD))},
    ),
    "ranks with ties, and answers that were not ranked": (
        "ranked",
        {"prompt": ASK, "answers": [GOOD, BAD, FAIR], "ranks": [1, None, 1]},
        {"ranks": (1, float("inf"), 1)},
    ),
    "spans in code points": (
        "spans",
        {"prompt": ASK, "response": "अच्छा 😀 no. Yes", "spans": [
            {"start": 6, "end": 11, "type": "wrong"}, {"start": 8, "end": 10}]},
        {"prompt": PROMPT, "steps": ("अच्छा ", "😀 no.", " Yes"), "labels": (1, 0, 1),
         "is_text": True},
    ),
    "OpenAI messages": (
        "messages",
        {"messages": messages((S, "Be brief."), (H, ASK), (A, GOOD))},
        {"turns": (turn(S, "Be brief."), *PROMPT, turn(A, GOOD))},
    ),
    "OpenAI messages with calls": (
        "messages",
        {"messages": [
            {"role": "user", "content": [{"type": "text", "text": ASK}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c1", "type": "function",
                 "function": {"name": "weather", "arguments": "{\"day\": 1}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "dry"},
            {"role": "assistant", "content": GOOD}], "tools": [WEATHER]},
        {"turns": (*PROMPT,
                   template_tools.Message(
                       A, "", (template_tools.Call("weather", {"day": 1}, "c1"),)),
                   template_tools.Message("tool", "dry", (), "c1"), turn(A, GOOD)),
         "tools": (WEATHER,)},
    ),
    "GSM8K": (
        "question",
        {"question": ASK, "answer": f"{GOOD}\n#### 7"},
        {"turns": (*PROMPT, turn(A, f"{GOOD}\n#### 7")),
         "columns": {"question": ASK, "answer": f"{GOOD}\n#### 7"}},
    ),
    "prompt and completion": (
        "completion",
        {"prompt": ASK, "completion": GOOD},
        {"turns": (*PROMPT, turn(A, GOOD))},
    ),
    "prompts with columns": (
        "prompts",
        {"prompt": ASK, "answer": "7", "kwargs": [{"n": 1}]},
        {"prompt": PROMPT, "columns": {"answer": "7", "kwargs": [{"n": 1}]}},
    ),
    "text": ("text", {"text": ASK, "source": "s"}, {"text": ASK, "columns": {"source": "s"}}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_row_is_told_by_its_fields_and_says_what_it_means(case):
    name, fields, expected = CASES[case]
    layout, line = detect.choose("", [fields], "rows.jsonl")
    assert layout.name == name
    assert line.startswith(f"layout {name}, by its fields: ")
    options = layouts.Options()
    if layout.unfold is not None:
        fields = next(layout.unfold(layouts.Record(fields, "rows.jsonl", 3), options))
    row = layout.row(layouts.Record(fields, "rows.jsonl", 3), options)
    assert isinstance(row, layout.gives)
    assert (row.file, row.line) == ("rows.jsonl", 3)
    for field, value in expected.items():
        assert getattr(row, field) == value, field


def test_every_layout_has_a_case_and_can_be_named():
    assert {name for name, _, _ in CASES.values()} == set(layouts.LAYOUTS)
    for name, fields, _ in CASES.values():
        layout, line = detect.choose(name, [fields], "rows.jsonl")
        assert (layout.name, line.partition(":")[0]) == (name, f"layout {name}")


def test_a_score_is_chosen_by_name():
    layout = layouts.LAYOUTS["ultrafeedback"]
    record = layouts.Record(ultrafeedback(), "f", 1)
    row = layout.row(record, layouts.Options(score="overall_score"))
    assert row.ranks == (0, 1, 2)
    with pytest.raises(records.DataError, match="rate every answer on speed; got mean rating, ove"):
        layout.row(record, layouts.Options(score="speed"))


def test_unknown_fields_are_listed_with_the_layouts_that_there_are():
    rows_ = [{"query": ASK, "reply": GOOD, "n": 3}]
    with pytest.raises(records.DataError) as error:
        detect.choose("", rows_, "rows.jsonl")
    text = str(error.value)
    assert "got the fields query (string), reply (string), n (number) (rows.jsonl)" in text
    for name in layouts.LAYOUTS:
        assert f"{name} (" in text
    assert "\n" not in text
    renamed = [layouts.rename(rows_[0], {"question": "query", "answer": "reply"})]
    assert detect.choose("", renamed, "rows.jsonl")[0].name == "question"


def test_two_layouts_at_once_are_refused_and_one_can_be_named():
    fields = {"instruction": "i", "input": "", "output": "o", "chosen": "c d", "rejected": "c e"}
    with pytest.raises(records.DataError, match="of one layout, not of pairs and of alpaca"):
        detect.choose("", [fields], "f")
    assert detect.choose("alpaca", [fields], "f")[0].name == "alpaca"


def test_a_named_layout_without_its_fields_lists_what_is_there():
    with pytest.raises(records.DataError, match="layout kto must have its fields; got the"):
        detect.choose("kto", [{"text": ASK}], "f")
    with pytest.raises(ValueError, match="Did you mean 'pairs'"):
        detect.choose("pair", [{"text": ASK}], "f")


def test_a_bad_row_among_the_first_does_not_hide_the_layout():
    good = {"prompt": ASK, "completion": GOOD, "label": True}
    layout, _ = detect.choose("", [{**good, "label": "maybe"}, good, good], "f")
    assert layout.name == "kto"


def without(fields, name):
    return {key: value for key, value in fields.items() if key != name}


KTO = CASES["KTO"][1]
PAIR = CASES["pairs of strings with a prompt"][1]
TALK = CASES["OpenAI messages"][1]
# {case: (layout, fields, field and rule in the message, reason)}
BROKEN = {
    "missing": ("kto", without(KTO, "completion"), "completion must be given; got no such field",
                "missing field"),
    "null": ("pairs", {**PAIR, "chosen": None}, "chosen must be given; got null", "null field"),
    "a number for text": ("pairs", {**PAIR, "chosen": 3}, "chosen must be a list; got number",
                          "mistyped field"),
    "an object for text": ("text", {"text": {}}, "text must be a non-empty string; got object",
                           "mistyped field"),
    "empty": ("kto", {**KTO, "prompt": " \n"}, "prompt must be a non-empty string; got an empty",
              "empty field"),
    "a surrogate": ("text", {"text": "a\ud800"}, "got a lone surrogate at character 1",
                    "invalid Unicode"),
    "a label": ("kto", {**KTO, "label": "good"}, "label must be true or false", "mistyped field"),
    "a role": ("messages", {"messages": [{"role": "alien", "content": "x"}]},
               r"messages\[0\].role must be known; got 'alien'", "unknown role"),
    "no content": ("messages", {"messages": [{"role": "user"}]},
                   r"messages\[0\].content must be a non-empty string; got null", "mistyped field"),
    "an image": ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
                 "hold parts of text alone; got a part of type image", "no text"),
    "no messages": ("messages", {"messages": []}, "messages must hold a message", "empty field"),
    "a bare message": ("messages", {"messages": ["hello"]}, "must be a message; got string",
                       "mistyped field"),
    "a call": ("messages", {"messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]},
               "hold a call with name and arguments", "call"),
    "tools": ("messages", {**TALK, "tools": ["f"]}, "tools must list functions", "tools"),
    "equal": ("pairs", {**PAIR, "rejected": GOOD}, "chosen must differ from rejected", chat.EQUAL),
    "prompts differ": ("pairs", {"chosen": messages((H, "a"), (A, "b")),
                                 "rejected": messages((H, "c"), (A, "d"))},
                       "chosen must share its prompt with rejected", chat.PROMPTS_DIFFER),
    "no common text": ("pairs", {"chosen": "one", "rejected": "two"},
                       "chosen must share its beginning, the prompt", chat.PROMPTS_DIFFER),
    "a human's answer": ("pairs", {**PAIR, "chosen": messages((H, "x"))},
                         "begin and end with the assistant's turn; got human", chat.NO_ANSWER),
    "an answered prompt": ("prompts", {"prompt": messages((H, ASK), (A, GOOD))},
                           "prompt must end before the assistant speaks", "prompt"),
    "reversed scores": ("pairs", {**PAIR, "score_chosen": 1, "score_rejected": 2},
                        "score_chosen must be at least score_rejected; got 1 and 2",
                        "reversed score"),
    "a preference": ("pairs", {**PAIR, "preference": 1.5}, "preference must lie in 0..1; got 1.5",
                     "preference"),
    "a preference that is none": ("pairs", {**PAIR, "preference": float("nan")},
                                  "preference must be a finite number; got nan", "mistyped field"),
    "a weight": ("pairs", {**PAIR, "weight": 0}, "weight must be above 0; got 0.0", "weight"),
    "one completion": ("ultrafeedback", {"instruction": ASK, "completions": [{"response": "x"}]},
                       "completions must hold at least two answers; got 1", "too few answers"),
    "no ratings": ("ultrafeedback", {"instruction": ASK, "completions": [{"response": "x"}] * 2},
                   "completions must rate every answer; got no rating of all", "no score"),
    "ranks": ("ranked", {"prompt": ASK, "answers": ["a", "b"], "ranks": [1]},
              "ranks must have one entry an answer; got 1 for 2", "lengths"),
    "ranks that are all null": ("ranked", {"prompt": ASK, "answers": ["a", "b"],
                                           "ranks": [None, None]},
                                "ranks must be finite numbers; got null", "mistyped field"),
    "a score that is null": ("ranked", {"prompt": ASK, "answers": ["a", "b"], "scores": [1, None]},
                             "scores must be finite numbers; got null", "mistyped field"),
    "a span beyond its answer": ("spans", {"prompt": ASK, "response": "😀", "spans": [
                                     {"start": 0, "end": 2}]},
                                 r"spans\[0\] must lie within the 1 characters of response; got 0 "
                                 "to 2", "span"),
    "step labels": ("stepwise", {"prompt": ASK, "completions": ["a"], "labels": [True, False]},
                    "labels must have one entry a step; got 2 for 1 steps", "lengths"),
    "a guard's label": ("guard", {"text": ASK, "labels": {"unsafe": 2}},
                        r"labels.unsafe must lie in 0..1; got 2.0", "label"),
    "a step's label": ("stepwise", {"prompt": ASK, "completions": ["a"], "labels": [3]},
                       r"labels\[0\] must lie in 0..1; got 3.0", "label"),
    "a step": ("stepwise", {"prompt": ASK, "completions": [""], "labels": [1]},
               r"completions\[0\] must be a non-empty string", "empty field"),
    "a history": ("alpaca", {"instruction": "i", "output": "o", "history": [["x"]]},
                  r"history\[0\] must hold two texts; got 1", "history"),
    "a transcript": ("hh", {"chosen": "\n\nHuman: q", "rejected": transcript("a")},
                     "chosen must hold an assistant turn", chat.NO_ANSWER),
    "annotations in a list": (
        "ultrafeedback",
        {"instruction": ASK, "completions": [{"response": GOOD, "annotations": [3]}] * 2},
        r"completions\[0\].annotations must be an object; got list", "mistyped field",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_row_is_one_line_with_file_line_field_and_rule(case):
    name, fields, message, reason = BROKEN[case]
    with pytest.raises(records.DataError, match=message) as error:
        layouts.LAYOUTS[name].row(layouts.Record(fields, "rows.jsonl", 7), layouts.Options())
    text = str(error.value)
    assert "(rows.jsonl, line 7)" in text
    assert "\n" not in text
    assert GOOD not in text
    assert error.value.reason == reason


def test_markup_of_a_template_in_text_stays_text():
    odd = "<|im_start|>system\nx<|im_end|>"
    row = layouts.LAYOUTS["text"].row(layouts.Record({"text": odd}, "f", 1), layouts.Options())
    assert isinstance(row, rows.Text)
    assert row.text == odd

"""Every kind of instruction by an answer that follows it and one that does not, made by hand."""

import json

import pytest

from alignjax.evals.suites.ifeval import checkers, suite
from alignjax.text import languages
from tests.evals.suites import fakes

pytest.importorskip("langdetect")
ENGLISH = "the weather is lovely today and we will walk along the river with our friends"
# kind: (arguments, followed, not followed)
CASES = {
    "keywords:existence": (
        {"keywords": ["apple", "red car"]}, "An Apple, a red car.", "A pineapple, a red car.",
    ),
    "keywords:frequency": (
        {"keyword": "sea", "relation": "at least", "frequency": 2},
        "Sea and sea.", "Sea and season.",
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["cat"]}, "A category.", "A Cat."),
    "keywords:letter_frequency": (
        {"letter": "#", "let_relation": "at least", "let_frequency": 2}, "# one # two", "# one",
    ),
    "language:response_language": (
        {"language": "de"}, "Das Wetter ist heute sehr schön und wir gehen spazieren.", ENGLISH,
    ),
    "length_constraints:number_sentences": (
        {"relation": "less than", "num_sentences": 3},
        "Dr. Smith paid 3.5 dollars. He left.", "One. Two! Three?",
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2}, "One\n***\nTwo\n***\n", "One\n***\n***\nTwo",
    ),
    "length_constraints:number_words": (
        {"relation": "at least", "num_words": 4}, "One well-known word", "One known word",
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Well"},
        "One.\n\n\n\n\"well, two", "Well.\n\nTwo",
    ),
    "detectable_content:number_placeholders": (
        {"num_placeholders": 2}, "[name] at [street]", "[name] and [] [",
    ),
    "detectable_content:postscript": (
        {"postscript_marker": "P.P.S"}, "Bye\nP. P.S. more", "Bye\nP.S. more",
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2}, "* one\n  - two\n---\n**bold**", "* one",
    ),
    "detectable_format:constrained_response": ({}, "Well. My answer is no.", "No."),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2}, "*one* and **two**", "**one** and ** **",
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1 a\nSECTION 2 b", "SECTION 1 a\nSection 2 b",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    "detectable_format:title": ({}, "<<A poem>>\ntext", "<<>> <title>"),
    "combination:two_responses": ({}, "One\n******\nTwo", "One\n******\nOne"),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": "Say it. "}, "SAY IT. Yes.", "Yes. Say it.",
    ),
    "startend:end_checker": ({"end_phrase": "The end."}, '"It is the END."', "The end. Or not"),
    "startend:quotation": ({}, ' "All of it" ', '"All" of it'),
    "change_case:english_capital": ({}, ENGLISH.upper(), ENGLISH),
    "change_case:english_lowercase": ({}, ENGLISH, ENGLISH.capitalize()),
    "change_case:capital_word_frequency": (
        {"capital_relation": "less than", "capital_frequency": 2},
        "A-WORD and word", "ONE and TWO",
    ),
    "punctuation:no_comma": ({}, "No; none.", "One, two"),
}  # fmt: skip


def test_all_kinds_have_cases():
    assert set(CASES) == set(checkers.CHECKERS)
    assert len(CASES) == 25


@pytest.mark.parametrize("kind", CASES)
def test_a_kind_is_followed_and_not(kind):
    own, followed, not_followed = CASES[kind]
    own = suite.arguments(kind, own, "here")
    for check in (checkers.strict, checkers.loose):
        assert check(kind, followed, own)
    assert not checkers.strict(kind, not_followed, own)
    assert not checkers.strict(kind, "  \n", own)


def test_zero_is_a_number():
    """A reference that drops it draws another at random."""
    own = suite.arguments(
        "keywords:letter_frequency",
        {"letter": "x", "let_relation": "less than", "let_frequency": 0}, "here",
    )  # fmt: skip
    assert not checkers.strict("keywords:letter_frequency", "any", own)


@pytest.mark.parametrize(
    ("kind", "own", "name"),
    [
        ("keywords:existence", {}, "keywords"),
        ("keywords:existence", {"keywords": "apple"}, "keywords"),
        ("length_constraints:number_words", {"relation": "at most", "num_words": 3}, "relation"),
        ("detectable_format:number_bullet_lists", {"num_bullets": True}, "num_bullets"),
        ("language:spoken", {}, "one of the 25"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(kind, own, name):
    with pytest.raises(ValueError, match=name):
        suite.arguments(kind, own, "row 3")


def test_loose_forgives_a_first_line_a_last_one_and_asterisks():
    own = suite.arguments("startend:quotation", {}, "here")
    for answer in ('Sure:\n"yes"', '"yes"\nBye.', 'Sure:\n"yes"\nBye.', '**"yes"**'):
        assert not checkers.strict("startend:quotation", answer, own)
        assert checkers.loose("startend:quotation", answer, own)


def test_a_language_is_the_same_each_time():
    mixed = "je suis i am the le chat cat house maison"
    assert len({languages.language(mixed) for _ in range(20)}) == 1
    assert languages.language("12 34") == ""


def row(number: int, **fields) -> suite.Row:
    kinds = ["punctuation:no_comma", "detectable_format:title"]
    own = {"key": number, "prompt": f"p{number}", "instruction_id_list": kinds, "kwargs": [{}, {}]}
    return suite.read(own | fields, number)


def test_shares_are_of_prompts_and_of_instructions():
    said = {"p0": "<<a>>", "p1": "no title", "p2": "a, b", "p3": None}
    own = fakes.candidate(say=lambda texts: said[texts[-1]])
    results = suite.ask([row(i) for i in range(4)], own, None)
    found = fakes.numbers(suite.metrics(results))
    assert found["prompts, strict", ""] == pytest.approx(1 / 3)
    assert found["instructions, strict", ""] == pytest.approx(3 / 6)
    assert found["instructions, strict", "punctuation"] == pytest.approx(2 / 3)
    assert json.loads(json.dumps(results[3].as_dict()))["scores"]["prompts, strict"] == [None, 1.0]


def test_all_616_instructions_of_the_shared_rows_are_read():
    fields = fakes.shared_rows("ifeval/ifeval.eval.jsonl.gz")
    rows = [suite.read(own, i) for i, own in enumerate(fields)]
    assert len(rows) == 395
    assert sum(len(own.instructions) for own in rows) == 616
    assert {kind for own in rows for kind, _ in own.instructions} == set(checkers.CHECKERS)

"""Whether an answer follows an instruction: a pure function for each of the 25 kinds.

Each takes (answer, the instruction's arguments). Where they differ from the reference's code,
docs/evaluation.md says why.

Reference: Zhou et al. (2023), arXiv 2311.07911.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from alignjax.core import untrusted
from alignjax.evals.suites.ifeval import words
from alignjax.text import languages

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]
AT_LEAST, LESS = "at least", "less than"
ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def compare(number: int, relation: str, limit: int) -> bool:
    """number >= limit, or < limit, as the relation says."""
    return number >= limit if relation == AT_LEAST else number < limit


# --- keywords ---
def existence(answer: str, own: Arguments) -> bool:
    """All keywords occur."""
    return all(words.occurrences(answer, keyword) for keyword in own["keywords"])


def frequency(answer: str, own: Arguments) -> bool:
    """A keyword occurs at least, or less than, so many times."""
    number = words.occurrences(answer, own["keyword"])
    return compare(number, own["relation"], own["frequency"])


def forbidden_words(answer: str, own: Arguments) -> bool:
    """No forbidden word occurs."""
    return not any(words.occurrences(answer, word) for word in own["forbidden_words"])


def letter_frequency(answer: str, own: Arguments) -> bool:
    """A letter occurs at least, or less than, so many times, in either case."""
    number = answer.lower().count(own["letter"].lower())
    return compare(number, own["let_relation"], own["let_frequency"])


# --- length ---
def number_words(answer: str, own: Arguments) -> bool:
    """At least, or less than, so many words."""
    return compare(words.count(answer), own["relation"], own["num_words"])


def number_sentences(answer: str, own: Arguments) -> bool:
    """At least, or less than, so many sentences."""
    return compare(words.sentences(answer), own["relation"], own["num_sentences"])


def number_paragraphs(answer: str, own: Arguments) -> bool:
    """Paragraphs between lines of three asterisks; an empty one in the middle is none."""
    parts = [part.strip() for part in re.split(r"\*\*\*", answer)]
    parts = parts[not parts[0] : len(parts) - (not parts[-1])]
    return all(parts) and len(parts) == own["num_paragraphs"]


def nth_paragraph_first_word(answer: str, own: Arguments) -> bool:
    """So many paragraphs, one of which begins with a word."""
    parts = [part.strip() for part in answer.split("\n\n") if part.strip()]
    if len(parts) != own["num_paragraphs"] or not 1 <= own["nth_paragraph"] <= len(parts):
        return False
    first = re.match(r"[\"']*([^.,?!'\"\s]*)", parts[own["nth_paragraph"] - 1])
    return first is not None and first[1].lower() == own["first_word"].lower()


# --- content and format ---
def postscript(answer: str, own: Arguments) -> bool:
    """A postscript with its marker, however its letters are spaced."""
    letters = re.fullmatch(r"((?:[A-Z]\.)+)([A-Z])(\.?)", own["postscript_marker"].strip())
    pattern = re.escape(own["postscript_marker"].strip())
    if letters is not None:  # P.S. may be written P. S., P.P.S as P. P.S.
        spaced = r"\s?".join(f"{letter}\\." for letter in letters[1].split(".")[:-1])
        pattern = rf"(?<!\w){spaced}\s?{letters[2]}" + (r"\." if letters[3] else "")
    return re.search(pattern, answer, re.IGNORECASE) is not None


def number_placeholders(answer: str, own: Arguments) -> bool:
    """At least so many placeholders in square brackets."""
    return len(re.findall(r"\[[^\[\]\n]+\]", answer)) >= own["num_placeholders"]


def number_bullet_lists(answer: str, own: Arguments) -> bool:
    """Lines that begin with * or -; a line of hyphens alone is a rule."""
    bullets = re.findall(r"^[^\S\n]*(?:\*(?!\*).+|-(?!-*\s*$).*)$", answer, re.MULTILINE)
    return len(bullets) == own["num_bullets"]


def number_highlighted_sections(answer: str, own: Arguments) -> bool:
    """At least so many parts between asterisks, single or double."""
    bold = re.findall(r"\*\*([^\n*]+)\*\*", answer)
    rest = re.sub(r"\*\*[^\n*]+\*\*", " ", answer)
    parts = [part for part in (*bold, *re.findall(r"\*([^\n*]+)\*", rest)) if part.strip()]
    return len(parts) >= own["num_highlights"]


def multiple_sections(answer: str, own: Arguments) -> bool:
    """At least so many sections, each a marker with its number."""
    marker = re.escape(own["section_spliter"].strip())
    return len(re.findall(rf"{marker}\s?\d+", answer)) >= own["num_sections"]


def constrained_response(answer: str, own: Arguments) -> bool:
    """One of the three allowed answers occurs."""
    return any(option in answer for option in ANSWERS)


def json_format(answer: str, own: Arguments) -> bool:
    """The whole answer is JSON, in a fence of ``` or not."""
    text = re.sub(r"^```(?:json|Json|JSON)?", "", answer.strip()).removesuffix("```")
    try:
        untrusted.decode(text.strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(answer: str, own: Arguments) -> bool:
    """A title in double angle brackets."""
    return re.search(r"<<[^\n]*[^\s<>][^\n]*>>", answer) is not None


# --- combination ---
def two_responses(answer: str, own: Arguments) -> bool:
    """Two different responses, parted by six asterisks."""
    parts = [part.strip() for part in answer.split("******")]
    parts = parts[not parts[0] : len(parts) - (not parts[-1])]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def repeat_prompt(answer: str, own: Arguments) -> bool:
    """It begins with the prompt, in either case."""
    return answer.strip().lower().startswith(own["prompt_to_repeat"].strip().lower())


# --- start and end, case, punctuation, language ---
def end_checker(answer: str, own: Arguments) -> bool:
    """It ends with a phrase, in either case, perhaps within quotes."""
    return answer.strip().strip('"').lower().endswith(own["end_phrase"].strip().lower())


def quotation(answer: str, own: Arguments) -> bool:
    """All of it stands in double quotes."""
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def english_capital(answer: str, own: Arguments) -> bool:
    """English in capital letters alone."""
    return answer.isupper() and languages.language(answer) == "en"


def english_lowercase(answer: str, own: Arguments) -> bool:
    """English in small letters alone."""
    return answer.islower() and languages.language(answer) == "en"


def capital_word_frequency(answer: str, own: Arguments) -> bool:
    """At least, or less than, so many words in capital letters."""
    number = words.capitals(answer)
    return compare(number, own["capital_relation"], own["capital_frequency"])


def no_comma(answer: str, own: Arguments) -> bool:
    """No comma."""
    return "," not in answer


def response_language(answer: str, own: Arguments) -> bool:
    """It is in a language."""
    return languages.language(answer) == own["language"]


CHECKERS: Mapping[str, tuple[Check, tuple[str, ...]]] = {
    "keywords:existence": (existence, ("keywords",)),
    "keywords:frequency": (frequency, ("keyword", "relation", "frequency")),
    "keywords:forbidden_words": (forbidden_words, ("forbidden_words",)),
    "keywords:letter_frequency": (letter_frequency, ("letter", "let_relation", "let_frequency")),
    "language:response_language": (response_language, ("language",)),
    "length_constraints:number_sentences": (number_sentences, ("relation", "num_sentences")),
    "length_constraints:number_paragraphs": (number_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_words": (number_words, ("relation", "num_words")),
    "length_constraints:nth_paragraph_first_word": (
        nth_paragraph_first_word, ("num_paragraphs", "nth_paragraph", "first_word")),
    "detectable_content:number_placeholders": (number_placeholders, ("num_placeholders",)),
    "detectable_content:postscript": (postscript, ("postscript_marker",)),
    "detectable_format:number_bullet_lists": (number_bullet_lists, ("num_bullets",)),
    "detectable_format:constrained_response": (constrained_response, ()),
    "detectable_format:number_highlighted_sections": (
        number_highlighted_sections, ("num_highlights",)),
    "detectable_format:multiple_sections": (
        multiple_sections, ("section_spliter", "num_sections")),
    "detectable_format:json_format": (json_format, ()),
    "detectable_format:title": (title, ()),
    "combination:two_responses": (two_responses, ()),
    "combination:repeat_prompt": (repeat_prompt, ("prompt_to_repeat",)),
    "startend:end_checker": (end_checker, ("end_phrase",)),
    "startend:quotation": (quotation, ()),
    "change_case:capital_word_frequency": (
        capital_word_frequency, ("capital_relation", "capital_frequency")),
    "change_case:english_capital": (english_capital, ()),
    "change_case:english_lowercase": (english_lowercase, ()),
    "punctuation:no_comma": (no_comma, ()),
}  # fmt: skip


def strict(kind: str, answer: str, own: Arguments) -> bool:
    """Whether an answer follows an instruction as it stands; an empty one follows none."""
    return bool(answer.strip()) and CHECKERS[kind][0](answer, own)


def variants(answer: str) -> list[str]:
    """The answer, and without its first line, its last one, both, and asterisks in each."""
    lines = answer.split("\n")
    cuts = (lines[1:], lines[:-1], lines[1:-1])
    texts = [answer, *("\n".join(cut).strip() for cut in cuts)]
    return list(dict.fromkeys([*texts, *(text.replace("*", "") for text in texts)]))


def loose(kind: str, answer: str, own: Arguments) -> bool:
    """Whether any of an answer's variants follows an instruction."""
    return any(strict(kind, text, own) for text in variants(answer))

"""What a solution says in the end: the answer by which solutions are compared and vote."""

from collections.abc import Callable, Hashable, Mapping, Sequence

from alignjax.core import values
from alignjax.rewards import answers

MARKER = "####"  # of GSM8K
Extract = Callable[[str], Hashable | None]


def canonical(expression: str) -> Hashable | None:
    """A number as a fraction, anything else in one spelling; None for an empty text."""
    number = answers.number(expression)
    return number if number is not None else answers.normal(expression) or None


def _boxed(text: str) -> Hashable | None:
    found = answers.boxed(text)
    return None if found is None else canonical(found)


def _marked(text: str) -> Hashable | None:
    found = answers.marked(text, MARKER)
    return None if found is None else canonical(found)


# By name: the last number; the last \boxed{..}; the line behind the last ####; the whole text.
EXTRACTORS: Mapping[str, Extract] = {
    "last_number": answers.last_number,
    "boxed": _boxed,
    "marked": _marked,
    "text": canonical,
}


def extractor(name: str) -> Extract:
    """The function text -> answer, None where there is none.

    Raises:
      ValueError: there is no such extractor.
    """
    return EXTRACTORS[values.check_choice("--extract", name, EXTRACTORS)]


def gold(extract: Extract, value: object) -> Hashable | None:
    """The right answer of a row: what the extractor finds in it, or the value itself."""
    text = str(value)
    found = extract(text)
    return canonical(text) if found is None else found


def golds(extract: Extract, answers: Sequence[object]) -> list[Hashable]:
    """The right answers of all questions.

    Raises:
      ValueError: one is not to be read.
    """
    found = []
    for number, value in enumerate(answers, 1):
        own = gold(extract, value)
        if own is None:
            raise ValueError(
                f"every prompt must have a right answer that is read; got none in "
                f"{str(value)[:60]!r} (prompt {number}). Name its column, or another extractor."
            )
        found.append(own)
    return found

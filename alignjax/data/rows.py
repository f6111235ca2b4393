"""Typed rows: what a row of people's data says, whatever its layout and container.

Layouts (`data/layouts`) make them of fields, `encoding` makes examples of token ids of them. A row
knows where it came from, so that every later complaint can name file and line.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from alignjax.text import chat, template_tools

GROUP, UNKNOWN = "group", "unknown"  # the column of a rater's group, and the group of none

# A turn with calls of functions, or with the result of one, is a Message; all others are Turns.
Turn = chat.Turn | template_tools.Message
Turns = tuple[Turn, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What every row has.

    columns: the source's further columns, passed through to rules and reports.
    weight: in the mean of a loss that reads weights, > 0; of merged rows the number of votes.
    tools: JSON descriptions of the functions that the assistant may call.
    file, line: where it came from; the line of a text file, else the row's number from 1.
    """

    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weight: float = 1.0
    tools: tuple[Mapping[str, Any], ...] = ()
    file: str = ""
    line: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Text(Row):
    """Plain text."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conversation(Row):
    """A conversation to imitate: its assistant's turns, of which there is at least one."""

    turns: Turns


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(Row):
    """A prompt without an answer; it does not end in an assistant's turn."""

    prompt: Turns


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answers(Row):
    """At least two answers to a prompt.

    answers: each the turns that follow the prompt, the first and the last the assistant's.
    ranks: of each answer, smaller is better, equal are tied; None where they are not ranked.
    scores: {scale: the number of each answer}.
    preference: probability in [0, 1] that the first of two answers is the better one; None where
      ranks alone say.
    """

    prompt: Turns
    answers: tuple[Turns, ...]
    ranks: tuple[float, ...] | None = None
    scores: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    preference: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Row):
    """One answer to a prompt, and whether it is wanted."""

    prompt: Turns
    answer: Turns
    desirable: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scored(Row):
    """One answer to a prompt, and its number on each scale."""

    prompt: Turns
    answer: Turns
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Steps(Row):
    """An answer in steps; labels: of each, 1 right, 0 wrong, or a share between.

    is_text: whether the steps are the answer's own text, cut into pieces: nothing stands between.
    """

    prompt: Turns
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    is_text: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Labelled(Row):
    """A conversation as far as it has come, and what a guard is to say of it.

    turns: at least one, of any roles; an answer may be cut off anywhere. labels: {category: 1 where
    it holds, 0 where not, or a share of votes}; a category that is not there has no label, or does
    not hold where the row is_whole.
    """

    turns: Turns
    labels: Mapping[str, float]
    is_whole: bool = False

    def label(self, category: str) -> float:
        """The label of a category; NaN where there is none."""
        return self.labels.get(category, 0.0 if self.is_whole else math.nan)


TYPES: tuple[type[Row], ...] = (
    Text, Conversation, Prompt, Answers, Judged, Scored, Steps, Labelled,
)  # fmt: skip


def prompt_of(row: Row) -> Turns:
    """The turns before the answer; of a conversation those before its last assistant's turn."""
    if isinstance(row, Text):
        return ()
    if isinstance(row, Labelled):
        return row.turns[:-1] if row.turns[-1].role == chat.ASSISTANT else row.turns
    if isinstance(row, Conversation):
        last = max(i for i, turn in enumerate(row.turns) if turn.role == chat.ASSISTANT)
        return row.turns[:last]
    prompt: Turns = row.prompt  # type: ignore[attr-defined]
    return prompt


def group_of(row: Row) -> str:
    """The name of the group whose judgement a row is, by its column `group`; "" for none."""
    value = row.columns.get(GROUP)
    return "" if value is None or value != value else str(value).strip()


def texts(row: Row) -> Iterator[str]:
    """Every text of a row once, the prompt's first: to train a tokenizer, or to count scripts."""
    if isinstance(row, Text):
        yield row.text
        return
    turns = row.turns if isinstance(row, Conversation | Labelled) else prompt_of(row)
    yield from (turn.text for turn in turns)
    if isinstance(row, Answers):
        yield from (turn.text for answer in row.answers for turn in answer)
    elif isinstance(row, Judged | Scored):
        yield from (turn.text for turn in row.answer)
    elif isinstance(row, Steps):
        yield from row.steps

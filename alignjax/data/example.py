"""An example of token ids, how it is made, and what is counted on the way; see `encoding`."""

import array
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.text import chat
from alignjax.text.tokenizers import interface

Example = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """length, prompt_length: most tokens of a row and of its prompt. pairs: which answers of a
    ranking are compared (`comparisons.RULES`). score: the scale of scored tables; "" is the first.
    margin: the scale whose differences are margins of pairs, where rows have it. groups: names of
    groups, in the order of their numbers in tables of pairs; () numbers none. categories: names of
    labels, in the order of their columns."""

    length: int
    prompt_length: int
    pairs: str = "best-worst"
    score: str = ""
    margin: str = "margin"
    groups: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Examples (conversations, pairs or prompts) read, kept, cut and dropped; and their tokens.

    `split` counts documents cut into several pieces, of which nothing is lost; `left_out` rows that
    have no part in a kind of table, such as undesirable answers among demonstrations.
    """

    read: int = 0
    kept: int = 0
    truncated_prompts: int = 0
    truncated_answers: int = 0
    truncated: int = 0
    split: int = 0
    dropped_empty: int = 0
    dropped_identical: int = 0
    dropped_tied: int = 0
    left_out: int = 0
    tokens: int = 0
    loss_tokens: int = 0

    def __str__(self) -> str:
        parts = [f"{field.name} {getattr(self, field.name)}" for field in dataclasses.fields(self)]
        share = self.truncated / max(self.read, 1)
        return f"{', '.join(parts)}, truncated share {share:.4f}"

    def __add__(self, other: "Counts") -> "Counts":
        names = [field.name for field in dataclasses.fields(self)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})


def array_of(ids: Sequence[int]) -> np.ndarray:
    """Ids as int32 [n]."""
    return np.frombuffer(array.array("i", ids), np.int32)


def mask_of(targets: Sequence[bool]) -> np.ndarray:
    """Whether each is a target, as bool [n]."""
    return np.frombuffer(bytes(targets), np.bool_)


def cut_prompt(
    speaker: chat.Speaker,
    turns: Sequence[Any],
    limit: int,
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[int], list[Any], bool]:
    """(ids from the begin to the assistant's marker, the turns in them, whether it was cut).

    A prompt above `limit` tokens loses its oldest turns, never BOS, a leading system turn if that
    fits, or the last human turn; a last turn that is too long alone loses its beginning.
    """
    ids, _ = chat.encode_chat(speaker, turns, generation_prompt=True, tools=tools)
    if len(ids) <= limit:
        return ids, list(turns), False
    system = [turn for turn in turns[:1] if turn.role == chat.SYSTEM]
    rest = list(turns[len(system) :])
    starts = [i for i, turn in enumerate(rest) if i and turn.role == chat.HUMAN]
    for kept in [*(system + rest[i:] for i in starts), *(rest[i:] for i in starts[-1:])]:
        shorter, _ = chat.encode_chat(speaker, kept, generation_prompt=True, tools=tools)
        if len(shorter) <= limit:
            return shorter, kept, True
    shorter, last = chat.cut_turn(speaker, rest[-1], limit, tools)
    return shorter, [last], True


def text_ids(speaker: chat.Speaker, text: str) -> list[int]:
    """The ids of a text between the tokenizer's begin, where it has one, and its end."""
    begin = [] if speaker.bos_id is None else [speaker.bos_id]
    after = interface.SPECIAL if begin else interface.NOTHING
    return [*begin, *speaker.encode(text, after), speaker.eos_id]

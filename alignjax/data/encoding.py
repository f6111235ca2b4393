"""Typed rows to examples of token ids, row by row: what worker processes do.

An example is a small dictionary of one-dimensional arrays whose lengths differ from row to row;
`padding` lays examples out as tables. By the kind of table:

documents, demonstrations: ids, mask.
unpaired, scored, steps, labelled: the same, and desirable, scores, step_ends with step_labels, or
  labels [L].
prompts: ids.
pairs, rankings: prompt; answers and mask of all answers one after another, sizes [K]; then
  preferred [2 C], preference [C] and margin [C], or ranks [K].

Every example has row [1], the place of its row among those given, and weight [1]. Masks come from
roles and lengths, never from ids. Prompts lose their oldest turns, answers their ends; all of it is
counted.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from alignjax.core import values
from alignjax.data import makers, records, rows
from alignjax.data.example import Counts, Example, Options
from alignjax.text import chat, chat_format, templates
from alignjax.text.tokenizers import ahead

__all__ = ["KINDS_OF", "Counts", "Example", "Options", "encode"]
CHUNK = 256  # rows whose texts are tokenised together
# Kinds of tables that a type of row can give; conversations of documents are text in which every
# token is a target.
KINDS_OF: Mapping[type[rows.Row], tuple[str, ...]] = {
    rows.Text: ("documents",),
    rows.Conversation: ("documents", "demonstrations", "prompts"),
    rows.Prompt: ("prompts",),
    rows.Answers: (
        "documents", "demonstrations", "pairs", "rankings", "unpaired", "scored", "prompts",
    ),
    rows.Judged: ("documents", "demonstrations", "unpaired", "prompts"),
    rows.Scored: ("scored", "prompts"),
    rows.Steps: ("steps", "prompts"),
    rows.Labelled: ("labelled",),
}  # fmt: skip


def encode(
    entries: Sequence[rows.Row], kind: str, speaker: chat.Speaker, options: Options
) -> tuple[list[Example], Counts]:
    """(examples of a kind of table in the rows' order, Counts). Every row is encoded by itself.

    Raises:
      DataError: a conversation cannot be laid out; its file and line are named.
    """
    values.check_choice("the kind of examples", kind, makers.MAKERS)
    make, examples = makers.MAKERS[kind], list[Example]()
    total = dict.fromkeys(vars(Counts()), 0)
    asked = speaker
    for place, row in enumerate(entries):
        if place % CHUNK == 0:
            speaker = _ahead(entries[place : place + CHUNK], kind, asked, options)
        try:
            made, counts = make(row, speaker, options)
        except ValueError as error:
            if isinstance(error, records.DataError) or not row.file:
                raise
            where = f"{row.file}, line {row.line}"
            raise records.DataError(f"{error} ({where})", "layout of the template") from None
        for example in made:
            example["row"] = np.array([place], np.int64)
            example["weight"] = np.array([row.weight], np.float32)
        examples += made
        for name, count in vars(counts).items():
            total[name] += count
        total["read"] += 1
        total["kept"] += bool(made)
        _add_tokens(total, made)
    return examples, Counts(**total)


def _ahead(
    given: Sequence[rows.Row], kind: str, speaker: chat.Speaker, options: Options
) -> chat.Speaker:
    """The speaker with every text of the rows tokenised, in one call of its library.

    Where a prompt is to be cut, its shorter forms are tokenised when they are asked for; in our own
    layout they are made of the same texts.
    """
    if not isinstance(speaker, chat_format.ChatFormat):
        texts = (text for row in given for text in makers.texts(row, kind, options))
        with contextlib.suppress(ValueError):  # it is told when the row is encoded
            speaker = speaker.ahead(texts)
        return speaker
    make = makers.MAKERS[kind]
    tokenizer = ahead.Ahead(speaker.tokenizer, listening=True)
    speaker = dataclasses.replace(speaker, tokenizer=tokenizer)
    if isinstance(speaker.template, templates.Template):  # Jinja costs more than tokens
        for row in given:
            with contextlib.suppress(ValueError):  # it is told when the row is encoded
                make(row, speaker, options)
        tokenizer.answer()
    tokenizer.listening = False
    return speaker


def _add_tokens(total: dict[str, int], made: Sequence[Example]) -> None:
    """Adds the tokens and targets of a row's examples, as they lie in a table."""
    for example in made:
        if "sizes" in example:
            total["tokens"] += len(example["prompt"]) * len(example["sizes"])
            total["tokens"] += len(example["answers"])
            total["loss_tokens"] += int(np.count_nonzero(example["mask"]))
        else:
            total["tokens"] += len(example["ids"])
            if "mask" in example:  # nothing predicts a row's first token
                total["loss_tokens"] += int(np.count_nonzero(example["mask"][1:]))

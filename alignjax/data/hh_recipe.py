"""Tables of human preferences as `prepare` makes them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.data import (
    containers,
    derive,
    encoding,
    examples,
    padding,
    recipe,
    records,
    rows,
    sources,
    speakers,
    tables,
)
from alignjax.text import chat

DIVERGED = 1  # the mark of pairs that part before the last answer


def encode(
    speaker: chat.Speaker,
    preferences: Sequence[sources.Preference],
    kind: str,
    *,
    length: int,
    prompt_length: int,
    pack: bool,
) -> tuple[tables.Table, encoding.Counts]:
    """The table of preference rows, whatever is left of them."""
    typed: list[rows.Row] = []
    for row in preferences:
        if kind in ("documents", "demonstrations"):
            typed.append(rows.Conversation(turns=(*row.prompt, *row.chosen)))
        elif kind == "prompts":
            typed.append(rows.Prompt(prompt=row.prompt))
        else:
            answers = (row.chosen, row.rejected)
            typed.append(rows.Answers(prompt=row.prompt, answers=answers, ranks=(0.0, 1.0)))
    derived = {"unpaired": derive.unpaired, "rankings": derive.rankings}
    made = "pairs" if kind in derived else kind
    options = encoding.Options(length=length, prompt_length=prompt_length)
    examples.check_lengths(made, options)
    found, counts = encoding.encode(typed, made, speaker, options)
    table = padding.table(
        found, made, length=length, prompt_length=prompt_length, pad_id=speaker.pad_id, pack=pack
    )
    return derived[kind](table) if kind in derived else table, counts


def told(row: sources.Preference) -> bytes:
    """A digest of what must not stand in training and evaluation."""
    return recipe.digest(sources.told(row))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HhRecipe:
    """One table of one split of a folder of transcripts; a `recipe.Recipe`."""

    path: str
    names: str
    split: str
    rules: recipe.Rules
    limit: int
    kind: str
    length: int
    prompt_length: int
    pack: bool
    vocab_size: int
    pad: int
    max_truncated_share: float
    speaking: speakers.Speaking

    def parts(self) -> tuple[list[containers.Part], bool]:
        """The files of the split, and whether their names say so."""
        return containers.split_parts(self.path, split=self.split, names=self.names)

    def selection(self) -> Mapping[str, Any]:
        """How rows are read."""
        return {"layout": "hh"}

    def making(self) -> Mapping[str, Any]:
        """How rows become a table."""
        names = ("kind", "length", "prompt_length", "pack", "vocab_size", "pad")
        options = {name: getattr(self, name) for name in names}
        return {**options, "tokenizer": self.speaking.fingerprint}

    def read(
        self, part: containers.Part, number: int, fields: records.Fields | records.DataError
    ) -> recipe.Reading:
        """The pair of a row."""
        if isinstance(fields, records.DataError):
            return recipe.Reading(error=fields)
        error = sources.texts_problem(part.where, number, fields)
        if error is not None:
            return recipe.Reading(error=error)
        identity = recipe.digest(repr(fields["id"])) if "id" in fields else b""
        row = sources.preference(part.where, number, fields)
        if isinstance(row, records.DataError):
            return recipe.Reading(error=row, identity=identity)
        content, opening = sources.content(row), sources.opening(row)
        return recipe.Reading(
            row,
            None,
            identity,
            recipe.digest(content),
            recipe.digest(opening),
            DIVERGED if row.diverged else 0,
            whole=told(row),
        )

    def encode(self, rows: Sequence[Any], first: int) -> tuple[tables.Table, encoding.Counts]:
        """The rows' table."""
        table, counts = encode(
            self.speaking.open(), rows, self.kind, length=self.length,
            prompt_length=self.prompt_length, pack=self.pack,
        )  # fmt: skip
        if "index" in table:
            table["index"] = table["index"] + table["index"].dtype.type(first)
        return table, counts

"""Tables of typed rows as `prepare` makes them, and what the rows say as records of their own."""

import abc
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from alignjax.data import (
    containers,
    encoding,
    examples,
    padding,
    recipe,
    records,
    rows,
    speakers,
    store,
    tables,
)
from alignjax.text import chat, template_tools

SAID = "what rows say"  # the kind of a table of prompts and columns as text, for rules and models
TYPE, SCORED, WEIGHTED = 7, 8, 16  # bits of a mark: the number of the row's type from 1, 8 as 0


def mark_of(row: rows.Row) -> int:
    """What decides about the kinds of tables: the row's type, whether all answers have scores."""
    mark = (1 + rows.TYPES.index(type(row))) & TYPE
    if isinstance(row, rows.Answers) and row.scores:
        mark |= SCORED
    return mark | WEIGHTED if row.weight != 1 else mark


def kinds_of(types: Sequence[type[rows.Row]]) -> tuple[str, ...]:
    """The kinds of tables that rows of these types give, in the contract's order."""
    given = {kind for own in types for kind in encoding.KINDS_OF[own]}
    return tuple(kind for kind in tables.KINDS if kind in given)


def kinds(marks: Sequence[int]) -> tuple[str, ...]:
    """The kinds of tables that rows with these marks give."""
    types = {rows.TYPES[(mark - 1) & TYPE] for mark in marks}
    given = kinds_of(list(types))
    plain = 1 + rows.TYPES.index(rows.Answers)
    unscored = any(mark & ~WEIGHTED == plain for mark in marks)
    if rows.Scored in types or not unscored:
        return given
    return tuple(kind for kind in given if kind != "scored")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowRecipe(abc.ABC):
    """One table of one split of typed rows; a `recipe.Recipe` where a subclass reads the rows."""

    split: str
    rules: recipe.Rules
    options: encoding.Options
    limit: int = 0
    kind: str = ""
    pack: bool = False
    document_masks: bool = True
    vocab_size: int = 0
    pad: int = 0
    max_truncated_share: float = 1.0
    speaking: speakers.Speaking = speakers.NOBODY

    @abc.abstractmethod
    def parts(self) -> tuple[list[containers.Part], bool]:
        """The parts to read, and whether their names decide the split."""

    @abc.abstractmethod
    def selection(self) -> Mapping[str, Any]:
        """How rows are read."""

    @abc.abstractmethod
    def read(
        self, part: containers.Part, number: int, fields: records.Fields | records.DataError
    ) -> recipe.Reading:
        """A row."""

    def making(self) -> Mapping[str, Any]:
        """How rows become a table."""
        if self.kind == SAID:
            return {"kind": self.kind}
        names = ("kind", "pack", "document_masks", "vocab_size", "pad")
        own = {name: getattr(self, name) for name in names}
        options = dataclasses.asdict(self.options)
        for name in ("groups", "categories"):
            if not options[name]:
                del options[name]  # tables without them keep the names of their folders
        return own | options | {"tokenizer": self.speaking.fingerprint}

    def encode(
        self, entries: Sequence[Any], first: int
    ) -> tuple[tables.Table | list[bytes], encoding.Counts]:
        """The rows' table, or their records."""
        if self.kind == SAID:
            bodies = [record(row) for row in entries]
            return bodies, encoding.Counts(read=len(bodies), kept=len(bodies))
        speaker = self.speaking.open()
        examples.check_lengths(self.kind, self.options)
        found, counts = encoding.encode(entries, self.kind, speaker, self.options)
        table = padding.table(
            found, self.kind, length=self.options.length, prompt_length=self.options.prompt_length,
            pad_id=speaker.pad_id, pack=self.pack, document_masks=self.document_masks,
        )  # fmt: skip
        if "index" in table:
            table["index"] = table["index"] + table["index"].dtype.type(first)
        return table, counts


def task(row: rows.Row) -> Mapping[str, Any]:
    """What rules read: the row's columns, and under "prompt" the prompt's whole text."""
    return _task(row.columns, rows.prompt_of(row))


def _task(columns: Mapping[str, Any], prompt: rows.Turns) -> dict[str, Any]:
    return {**columns, "prompt": "\n\n".join(turn.text for turn in prompt)}


def record(row: rows.Row) -> bytes:
    """A row's prompt and columns as JSON."""
    said = {"prompt": rows.prompt_of(row), "columns": row.columns}
    return json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass")


def parsed(body: bytes | memoryview) -> tuple[dict[str, Any], rows.Turns]:
    """(columns, prompt) of a record."""
    said = json.loads(bytes(body).decode("utf-8", "surrogatepass"))
    return said["columns"], tuple(_turn(*values) for values in said["prompt"])


def _turn(role: str, text: str, *more: Any) -> rows.Turn:
    if not more:
        return chat.Turn(role, text)
    calls, number = more
    return template_tools.Message(
        role, text, tuple(template_tools.Call(*call) for call in calls), number
    )


class Said(Sequence[Mapping[str, Any]]):
    """The tasks of a split by number, each read when it is asked for.

    opened: makes or opens the table of records at the first question.
    """

    def __init__(self, count: int, opened: Callable[[], store.Stored]):
        self._count, self._opened = count, opened

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(self._count))]
        return _task(*self._parsed(int(number)))

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[number] for number in range(self._count))

    def prompt(self, number: int) -> rows.Turns:
        """The turns of a prompt."""
        return self._parsed(int(number))[1]

    def _parsed(self, number: int) -> tuple[dict[str, Any], rows.Turns]:
        place = number + self._count if number < 0 else number
        if not 0 <= place < self._count:
            raise IndexError(f"a row must lie in 0..{self._count - 1}; got {number} (data).")
        return parsed(self._opened().record(place))

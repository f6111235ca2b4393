"""Questions with their answers as a corpus: JSONL rows for fine-tuning and for prompts."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.core import shapes
from alignjax.data import (
    containers,
    contents,
    corpus,
    encoding,
    examples,
    leaks,
    prepare,
    prepared,
    recipe,
    records,
    row_recipe,
    rows,
    sources,
    speakers,
    storage,
)
from alignjax.text import chat, chat_format

KINDS = ("documents", "demonstrations", "prompts")


@dataclasses.dataclass(kw_only=True)
class RowsConfig:
    """How questions with answers become rows of ids: a tokenizer of open weights, and lengths."""

    tokenizer: str = ""  # a model's folder, its tokenizer file, or a GGUF file
    template: str = ""  # layout of conversations; empty is the one beside the tokenizer
    pad: str = ""  # the token to pad with, where the tokenizer names none
    date: str = ""  # today's, like "26 Jul 2024", for a template that states it
    length: int = 512  # tokens of a row: question and answer
    prompt_length: int = 256  # most tokens of a question
    pack: bool = True  # several rows in one where a loss allows it
    max_truncated_share: float = 0.25  # share of rows that may be cut
    # JSON descriptions of functions, which the template lists in every conversation
    tools: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def validate_rows(self) -> None:
        """Raises ValueError where an option is wrong."""
        shapes.check_number("data.length", self.length, minimum=8)
        shapes.check_number("data.prompt_length", self.prompt_length, minimum=4)
        shapes.check_number("data.max_truncated_share", self.max_truncated_share, minimum=0)
        if not self.tokenizer:
            raise ValueError("data.tokenizer must be given; got '' (data). Name the model folder.")

    def make_format(self) -> chat_format.ChatFormat:
        """The tokenizer with its template."""
        form = chat_format.load_chat_format(
            self.tokenizer, template=self.template, pad=self.pad, date=self.date
        )
        return dataclasses.replace(form, tools=tuple(self.tools))


@dataclasses.dataclass(kw_only=True)
class InstructConfig(RowsConfig, corpus.DataConfig):
    """A folder of JSONL rows with a question and an answer, and the tokenizer of open weights."""

    path: str = "data/gsm8k"  # the folder, or one file; file names say train or eval
    names: str = "*"  # glob that selects files of the folder
    question: str = "question"  # field of the question
    context: str = ""  # field of a text that belongs to the question; empty is none
    answer: str = "answer"  # field of the answer
    train_rows: int = 0  # use only so many training rows; 0 is all
    eval_rows: int = 0  # the same for the eval split
    max_leaked_share: float = 0.1  # share of eval rows that may stand among training rows

    def validate(self) -> None:
        self.validate_rows()
        shapes.check_number("data.max_leaked_share", self.max_leaked_share, minimum=0, maximum=1)
        for name in ("train_rows", "eval_rows"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0)
        for name in ("question", "answer"):
            if not getattr(self, name):
                raise ValueError(f"data.{name} must be given; got '' (data). Name the field.")

    def fields(self) -> tuple[str, str, str]:
        """The names of the question, the context and the answer."""
        return self.question, self.context, self.answer

    def make(self, log: corpus.Log) -> corpus.Corpus:
        self.validate()
        form = self.make_format()
        splits = {split: read(self, split) for split in ("train", "eval")}
        leaked = leaks.of_rows(
            {name: own.rows for name, own in splits.items()},
            told,
            self.max_leaked_share,
            self.path,
        )
        made = make_corpus(self, form, splits, log)
        return made._replace(summary=(*made.summary, *leaked))

    def prepared(self, log: corpus.Log, cache: prepare.Cache) -> corpus.Corpus:
        return prepared_corpus(self, log, cache)

    def outline(self) -> corpus.Corpus:
        return outline(self)

    def where(self) -> tuple[str, ...]:
        return ("path", "tokenizer")


class Row(NamedTuple):
    """A question with its answer.

    turns: of the question, then of the answer. columns: all that the row of the data holds.
    """

    turns: tuple[chat.Turn, ...]
    columns: Mapping[str, Any]

    @property
    def task(self) -> dict[str, Any]:
        """What rules read: the row's columns, and under "prompt" the question's whole text."""
        return {**self.columns, "prompt": self.turns[0].text}


class Split(NamedTuple):
    """The rows of a split, and the hash of all that they depend on."""

    rows: Sequence[Row]
    fingerprint: str


def read(config: InstructConfig, split: str) -> Split:
    """The rows of a split, in the order of the files.

    Raises:
      DataError: a row without its fields; file, line and field are named.
    """
    parts = parts_of(config.path, config.names, split)
    found: list[Row] = []
    for part in parts:
        for line, fields in part.rows():
            row = parsed(config.fields(), part, line, fields)
            if isinstance(row, sources.DataError):
                raise row
            found.append(row)
    limit = config.train_rows if split == "train" else config.eval_rows
    return Split(found[:limit] if limit else found, fingerprint(config, parts, split))


def parts_of(path: str, names: str, split: str) -> list[containers.Part]:
    """The parts whose names say a split.

    Raises:
      DataError: there is none.
    """
    parts, named = containers.split_parts(path, split=split, names=names)
    if not named:
        raise sources.DataError(
            f"data files must say train or eval in their names; got none that does "
            f"({path}). Rename them, or select files with data.names."
        )
    return parts


def fingerprint(
    config: InstructConfig,
    parts: Sequence[containers.Part],
    split: str,
    content: Callable[[str], str] | None = None,
) -> str:
    """sha256 in hex of all that the rows depend on; content: as of `storage.fingerprint`."""
    names = dict.fromkeys(file for part in parts for file in part.files)
    limit = config.train_rows if split == "train" else config.eval_rows
    files, wanted = storage.fingerprint(names, content), [n for n in config.fields() if n]
    selection = f"{files} {config.names} {wanted} {split} {limit}"
    return hashlib.sha256(selection.encode()).hexdigest()


def parsed(
    names: tuple[str, str, str],
    part: containers.Part,
    line: int,
    fields: records.Fields | records.DataError,
) -> Row | records.DataError:
    """A row by the names of its question, its context ("" for none) and its answer."""
    if isinstance(fields, records.DataError):
        return fields
    _, context, answer = names
    wanted = [name for name in names if name]
    for name in wanted:
        problem = sources.text_problem(part.where, line, name, fields)
        if problem is not None and not (name == context and fields.get(name) == ""):
            return problem
    texts = [fields[name] for name in wanted[:-1] if fields[name]]
    question = chat.Turn(chat.HUMAN, "\n\n".join(texts))
    return Row((question, chat.Turn(chat.ASSISTANT, fields[answer])), fields)


def told(row: Row) -> bytes:
    """A digest of what must not stand in training and evaluation."""
    return recipe.digest(repr(row.turns))


def outline(config: RowsConfig) -> corpus.Corpus:
    """The sizes of a corpus of questions, for plans."""
    return corpus.outline(
        vocab_size=0, length=config.length, prompt_length=config.prompt_length, kinds=KINDS
    )


def make_corpus(
    config: RowsConfig,
    form: chat_format.ChatFormat,
    splits: Mapping[str, Split],
    log: corpus.Log,
) -> corpus.Corpus:
    """The corpus of questions with answers; `log` takes a line of counts for each table.

    Documents are whole conversations, every token of them a target; in demonstrations the answers'
    tokens alone are.

    Raises:
      ValueError: rows do not fit the lengths; one line says how many.
    """

    def table(kind: str, split: str) -> corpus.Table:
        rows, share = [row.turns for row in splits[split].rows], config.max_truncated_share
        if kind == "documents":
            columns, counts = examples.text_table(form, rows, config.length, pack=config.pack)
        elif kind == "demonstrations":
            columns, counts = examples.language_table(
                form, rows, config.length, pack=config.pack, max_truncated_share=share
            )
        else:
            questions = [chat.Pair(turns[:1], turns[1:], turns[1:], False) for turns in rows]
            columns, counts = examples.prompt_table(
                form, questions, config.prompt_length, max_truncated_share=share
            )
        log(f"{kind} of {split}: {counts}")
        return columns

    return corpus.Corpus(
        vocab_size=form.vocab_size,
        pad=form.pad_id,
        eos=form.eos_id,
        length=config.length,
        prompt_length=config.prompt_length,
        kinds=KINDS,
        table=table,
        text=lambda ids: chat.sampled_text(form, ids),
        fingerprints={
            "tokenizer": form.fingerprint,
            **{name: split.fingerprint for name, split in splits.items()},
        },
        speaker=form,
        conversation=lambda split, index: splits[split].rows[index].turns[:1],
        tasks=lambda split: [row.task for row in splits[split].rows],
        summary=tuple(f"{name}: {len(split.rows)} rows" for name, split in splits.items()),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructRecipe(row_recipe.RowRecipe):
    """One table of one split of questions with answers; a `recipe.Recipe`."""

    path: str
    names: str
    fields: tuple[str, str, str]

    def parts(self) -> tuple[list[containers.Part], bool]:
        """The files of the split, which their names say."""
        return parts_of(self.path, self.names, self.split), True

    def selection(self) -> Mapping[str, Any]:
        """How rows are read."""
        return {"layout": "question and answer", "fields": list(self.fields)}

    def read(
        self, part: containers.Part, number: int, fields: records.Fields | records.DataError
    ) -> recipe.Reading:
        """The conversation of a row."""
        row = parsed(self.fields, part, number, fields)
        if isinstance(row, records.DataError):
            return recipe.Reading(error=row)
        typed = rows.Conversation(
            turns=row.turns, columns=row.columns, file=part.where, line=number
        )
        return recipe.Reading(typed, whole=told(row))


def prepared_corpus(config: InstructConfig, log: corpus.Log, cache: prepare.Cache) -> corpus.Corpus:
    """The corpus of questions with answers, with its tables on disk.

    Raises:
      ValueError: as of `read` and `make_corpus`.
    """
    config.validate()
    form = config.make_format()
    limits = {"train": config.train_rows, "eval": config.eval_rows}
    splits = prepared.scanned(
        {
            split: InstructRecipe(
                split=split, rules=recipe.Rules(repeated=recipe.KEEP), limit=limit,
                options=encoding.Options(length=config.length, prompt_length=config.prompt_length),
                path=config.path, names=config.names, fields=config.fields(),
            )
            for split, limit in limits.items()
        },
        cache,
    )  # fmt: skip
    leaked = leaks.of_sources(splits.sources, config.max_leaked_share, config.path, limits)
    speaking = speakers.speaking(form, config)
    return prepared.corpus_of(
        splits, form, speaking, kinds=KINDS, pack=config.pack, log=log,
        share=lambda kind: 1.0 if kind == "documents" else config.max_truncated_share,
        fingerprints={
            split: fingerprint(
                config, parts_of(config.path, config.names, split), split,
                content=lambda file: contents.digest(file, cache.folder),
            )
            for split in limits
        },
        summary=(*(f"{split}: {splits.rows(split)} rows" for split in limits), *leaked),
    )  # fmt: skip

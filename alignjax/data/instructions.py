"""Questions with their answers as a corpus: JSONL rows for fine-tuning and for prompts."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.core import shapes
from alignjax.data import corpus, examples, records, sources
from alignjax.text import chat, chat_format

KINDS = ("documents", "demonstrations", "prompts")


@dataclasses.dataclass(kw_only=True)
class RowsConfig:
    """How questions with answers become rows of ids: a tokenizer of open weights, and lengths."""

    tokenizer: str = ""  # a model's folder, its tokenizer file, or a GGUF file
    template: str = ""  # layout of conversations; empty is the one beside the tokenizer
    pad: str = ""  # the token to pad with, where the tokenizer names none
    length: int = 512  # tokens of a row: question and answer
    prompt_length: int = 256  # most tokens of a question
    pack: bool = True  # several rows in one where a loss allows it
    max_truncated_share: float = 0.25  # share of rows that may be cut

    def validate_rows(self) -> None:
        """Raises ValueError where an option is wrong."""
        shapes.check_number("data.length", self.length, minimum=8)
        shapes.check_number("data.prompt_length", self.prompt_length, minimum=4)
        shapes.check_number("data.max_truncated_share", self.max_truncated_share, minimum=0)
        if not self.tokenizer:
            raise ValueError("data.tokenizer must be given; got '' (data). Name the model folder.")

    def make_format(self) -> chat_format.ChatFormat:
        """The tokenizer with its template."""
        return chat_format.load_chat_format(self.tokenizer, template=self.template, pad=self.pad)


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

    def validate(self) -> None:
        self.validate_rows()
        for name in ("train_rows", "eval_rows"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0)
        for name in ("question", "answer"):
            if not getattr(self, name):
                raise ValueError(f"data.{name} must be given; got '' (data). Name the field.")

    def make(self, log: corpus.Log) -> corpus.Corpus:
        self.validate()
        form = self.make_format()
        splits = {split: read(self, split) for split in ("train", "eval")}
        return make_corpus(self, form, splits, log)

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
    parts, named = sources.split_parts(config.path, split=split, names=config.names)
    if not named:
        raise sources.DataError(
            f"data files must say train or eval in their names; got none that does "
            f"({config.path}). Rename them, or select files with data.names."
        )
    wanted = [name for name in (config.question, config.context, config.answer) if name]
    rows: list[Row] = []
    for part in parts:
        for line, fields in part.rows():
            if isinstance(fields, sources.DataError):
                raise fields
            for name in wanted:
                problem = sources.text_problem(part.where, line, name, fields)
                if problem is not None and not (name == config.context and fields.get(name) == ""):
                    raise problem
            texts = [fields[name] for name in wanted[:-1] if fields[name]]
            question = chat.Turn(chat.HUMAN, "\n\n".join(texts))
            rows.append(Row((question, chat.Turn(chat.ASSISTANT, fields[config.answer])), fields))
    limit = config.train_rows if split == "train" else config.eval_rows
    files = records.fingerprint(dict.fromkeys(file for part in parts for file in part.files))
    selection = f"{files} {config.names} {wanted} {split} {limit}"
    fingerprint = hashlib.sha256(selection.encode()).hexdigest()
    return Split(rows[:limit] if limit else rows, fingerprint)


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

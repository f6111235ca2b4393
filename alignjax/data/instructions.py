"""Questions with their answers as a corpus: JSONL rows for fine-tuning and for prompts."""

import dataclasses
import hashlib

from alignjax.core import shapes
from alignjax.data import corpus, examples, records, sources
from alignjax.text import chat, chat_format

KINDS = ("documents", "demonstrations", "prompts")


@dataclasses.dataclass(kw_only=True)
class InstructConfig(corpus.DataConfig):
    """A folder of JSONL rows with a question and an answer, and the tokenizer of open weights."""

    path: str = "data/gsm8k"  # the folder, or one file; file names say train or eval
    names: str = "*"  # glob that selects files of the folder
    question: str = "question"  # field of the question
    context: str = ""  # field of a text that belongs to the question; empty is none
    answer: str = "answer"  # field of the answer
    tokenizer: str = ""  # a model's folder, its tokenizer file, or a GGUF file
    template: str = ""  # layout of conversations; empty is the one beside the tokenizer
    pad: str = ""  # the token to pad with, where the tokenizer names none
    length: int = 512  # tokens of a row: question and answer
    prompt_length: int = 256  # most tokens of a question
    pack: bool = True  # several rows in one where a loss allows it
    train_rows: int = 0  # use only so many training rows; 0 is all
    eval_rows: int = 0  # the same for the eval split
    max_truncated_share: float = 0.25  # share of rows that may be cut

    def validate(self) -> None:
        shapes.check_number("data.length", self.length, minimum=8)
        shapes.check_number("data.prompt_length", self.prompt_length, minimum=4)
        shapes.check_number("data.max_truncated_share", self.max_truncated_share, minimum=0)
        for name in ("train_rows", "eval_rows"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0)
        for name in ("question", "answer", "tokenizer"):
            if not getattr(self, name):
                raise ValueError(
                    f"data.{name} must be given; got '' (data). Name the "
                    f"{'model folder' if name == 'tokenizer' else 'field'}."
                )

    def make(self, log: corpus.Log) -> corpus.Corpus:
        return make_corpus(self, log)

    def outline(self) -> corpus.Corpus:
        return corpus.outline(
            vocab_size=0, length=self.length, prompt_length=self.prompt_length, kinds=KINDS
        )

    def where(self) -> tuple[str, ...]:
        return ("path", "tokenizer")


def read(config: InstructConfig, split: str) -> tuple[list[tuple[chat.Turn, ...]], str]:
    """(conversations of a question and its answer, fingerprint of the files) of a split.

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
    conversations: list[tuple[chat.Turn, ...]] = []
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
            conversations.append((question, chat.Turn(chat.ASSISTANT, fields[config.answer])))
    limit = config.train_rows if split == "train" else config.eval_rows
    files = records.fingerprint(dict.fromkeys(file for part in parts for file in part.files))
    selection = f"{files} {config.names} {wanted} {split} {limit}"
    rows = conversations[:limit] if limit else conversations
    return rows, hashlib.sha256(selection.encode()).hexdigest()


def make_format(config: InstructConfig) -> chat_format.ChatFormat:
    """The tokenizer with its template."""
    return chat_format.load_chat_format(config.tokenizer, template=config.template, pad=config.pad)


def make_corpus(config: InstructConfig, log: corpus.Log) -> corpus.Corpus:
    """The corpus of a folder; `log` takes a line of counts for each table.

    Documents are whole conversations, every token of them a target; in demonstrations the answers'
    tokens alone are.

    Raises:
      ValueError: the folder, a row, the tokenizer or a number is bad; one line says which.
    """
    config.validate()
    form = make_format(config)
    splits = {split: read(config, split) for split in ("train", "eval")}

    def table(kind: str, split: str) -> corpus.Table:
        rows, _ = splits[split]
        share = config.max_truncated_share
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
        text=lambda ids: form.decode(int(i) for i in ids),
        fingerprints={
            "tokenizer": form.fingerprint,
            **{split: fingerprint for split, (_, fingerprint) in splits.items()},
        },
        speaker=form,
        conversation=lambda split, index: splits[split][0][index][:1],
        summary=tuple(f"{split}: {len(rows)} rows" for split, (rows, _) in splits.items()),
    )

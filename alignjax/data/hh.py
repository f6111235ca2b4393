"""Human preferences as a corpus: transcripts, a tokenizer trained on them, and their tables."""

import dataclasses
from collections.abc import Sequence

from alignjax.core import shapes
from alignjax.data import corpus, derive, examples, sources
from alignjax.text import chat, chat_format
from alignjax.text import tokenizer as tokenizers
from alignjax.text.tokenizers import load

KINDS = ("documents", "demonstrations", "pairs", "rankings", "unpaired", "prompts")


@dataclasses.dataclass(kw_only=True)
class HhConfig(corpus.DataConfig):
    """A folder of {"chosen", "rejected"} transcripts: jsonl, jsonl.gz or array_record."""

    path: str = "data/hh-rlhf"  # the folder, or one file
    names: str = "*"  # glob that selects files of the folder
    tokenizer: str = ""  # a tokenizer's file or a model's folder; empty trains one on the text
    template: str = ""  # layout of conversations for a foreign tokenizer; empty is its own
    pad: str = ""  # the token to pad with, where a foreign tokenizer names none
    vocab_size: int = 4096  # of the tokenizer that is trained
    length: int = 512  # tokens of a row: prompt and answer
    prompt_length: int = 256  # most tokens of a prompt; older turns are cut
    pack: bool = True  # several documents a row where a loss allows it
    train_rows: int = 0  # use only so many training rows; 0 is all
    eval_rows: int = 0  # the same for the eval split
    on_bad_row: str = "error"  # error | skip
    max_unusable_share: float = 0.05  # share of rows that may be no pair: equal or empty answers
    max_truncated_share: float = 0.5  # share of rows that may be cut

    def validate(self) -> None:
        shapes.check_number("data.vocab_size", self.vocab_size, minimum=264)
        shapes.check_number("data.length", self.length, minimum=8)
        shapes.check_number("data.prompt_length", self.prompt_length, minimum=4)
        for name in ("train_rows", "eval_rows"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0)
        for name in ("max_unusable_share", "max_truncated_share"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0, maximum=1)
        shapes.check_choice("data.on_bad_row", self.on_bad_row, ("error", "skip"))
        if self.prompt_length >= self.length:
            raise ValueError(
                f"data.prompt_length must be below data.length; got {self.prompt_length} and "
                f"{self.length} (data). Leave room for an answer."
            )

    def make(self, log: corpus.Log) -> corpus.Corpus:
        return make_corpus(self, log)

    def outline(self) -> corpus.Corpus:
        return corpus.outline(
            vocab_size=self.vocab_size,
            length=self.length,
            prompt_length=self.prompt_length,
            kinds=KINDS,
        )

    def where(self) -> tuple[str, ...]:
        return ("path", "tokenizer")


def conversations(rows: Sequence[sources.Preference]) -> list[tuple[chat.Turn, ...]]:
    """The chosen transcript of every row."""
    return [(*row.prompt, *row.chosen) for row in rows]


def read(config: HhConfig) -> dict[str, sources.Preferences]:
    """The rows of both splits, cut to the configured numbers."""
    splits = {}
    for split, limit in (("train", config.train_rows), ("eval", config.eval_rows)):
        preferences = sources.read_preferences(
            config.path,
            split=split,
            names=config.names,
            on_bad_row=config.on_bad_row,
            max_unusable_share=config.max_unusable_share,
        )
        rows = preferences.rows[:limit] if limit else preferences.rows
        splits[split] = dataclasses.replace(preferences, rows=rows)
    return splits


def make_tokenizer(
    config: HhConfig, splits: dict[str, sources.Preferences] | None = None
) -> tokenizers.Tokenizer | chat_format.ChatFormat:
    """The tokenizer that the configuration names, else one trained on the training split.

    Training is deterministic. A foreign tokenizer comes with its folder's chat template, or
    `template`.
    """
    if config.tokenizer:
        tokenizer = load.load_tokenizer(config.tokenizer)
        if isinstance(tokenizer, tokenizers.Tokenizer):
            return tokenizer
        return chat_format.load_chat_format(
            config.tokenizer, template=config.template, pad=config.pad
        )
    rows = (splits or read(config))["train"].rows
    texts = (turn.text for turns in conversations(rows) for turn in turns)
    return tokenizers.train_tokenizer(texts, config.vocab_size)


def _table(
    config: HhConfig,
    tokenizer: chat.Speaker,
    rows: Sequence[sources.Preference],
    kind: str,
) -> tuple[corpus.Table, examples.Counts]:
    share = config.max_truncated_share
    if kind == "documents":
        return examples.text_table(tokenizer, conversations(rows), config.length, pack=config.pack)
    if kind == "demonstrations":
        return examples.language_table(
            tokenizer,
            conversations(rows),
            config.length,
            pack=config.pack,
            max_truncated_share=share,
        )
    if kind == "prompts":
        return examples.prompt_table(
            tokenizer, rows, config.prompt_length, max_truncated_share=share
        )
    table, counts = examples.pair_table(
        tokenizer, rows, config.length, config.prompt_length, max_truncated_share=share
    )
    derived = {"unpaired": derive.unpaired, "rankings": derive.rankings}
    return derived[kind](table) if kind in derived else table, counts


def make_corpus(config: HhConfig, log: corpus.Log) -> corpus.Corpus:
    """The corpus of a folder; `log` takes a line of counts (kept, cut, dropped) for each table.

    Raises:
      ValueError: the folder, a row or a number is bad; one line says which.
    """
    config.validate()
    splits = read(config)
    tokenizer = make_tokenizer(config, splits)

    def table(kind: str, split: str) -> corpus.Table:
        rows, counts = _table(config, tokenizer, splits[split].rows, kind)
        log(f"{kind} of {split}: {counts}")
        return rows

    return corpus.Corpus(
        vocab_size=tokenizer.vocab_size,
        pad=tokenizer.pad_id,
        eos=tokenizer.eos_id,
        length=config.length,
        prompt_length=config.prompt_length,
        kinds=KINDS,
        table=table,
        text=lambda ids: tokenizer.decode(int(i) for i in ids),
        fingerprints={
            "tokenizer": tokenizer.fingerprint,
            "train": splits["train"].fingerprint,
            "eval": splits["eval"].fingerprint,
        },
        speaker=tokenizer,
        conversation=lambda split, index: splits[split].rows[index].prompt,
        summary=tuple(f"{name}: {preferences.summary()}" for name, preferences in splits.items()),
    )

"""Human preferences as a corpus: transcripts, a tokenizer trained on them, and their tables."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from alignjax.core import shapes
from alignjax.data import (
    containers,
    contents,
    corpus,
    examples,
    hh_recipe,
    lazy,
    leaks,
    prepare,
    prepared,
    recipe,
    selection,
    sources,
    speakers,
)
from alignjax.text import chat, chat_format
from alignjax.text import tokenizer as tokenizers

TRAINED_ROWS = 1 << 18  # rows that a tokenizer is trained on at most, of a prepared corpus
KINDS = ("documents", "demonstrations", "pairs", "rankings", "unpaired", "prompts")


@dataclasses.dataclass(kw_only=True)
class HhConfig(corpus.DataConfig):
    """A folder of {"chosen", "rejected"} transcripts: jsonl, jsonl.gz or array_record."""

    path: str = "data/hh-rlhf"  # the folder, or one file
    names: str = "*"  # glob that selects files of the folder
    tokenizer: str = ""  # a tokenizer's file or a model's folder; empty trains one on the text
    template: str = ""  # layout of conversations for a foreign tokenizer; empty is its own
    pad: str = ""  # the token to pad with, where a foreign tokenizer names none
    date: str = ""  # today's, like "26 Jul 2024", for a template that states it
    vocab_size: int = 4096  # of the tokenizer that is trained
    length: int = 512  # tokens of a row: prompt and answer
    prompt_length: int = 256  # most tokens of a prompt; older turns are cut
    pack: bool = True  # several documents a row where a loss allows it
    train_rows: int = 0  # use only so many training rows; 0 is all
    eval_rows: int = 0  # the same for the eval split
    on_bad_row: str = "error"  # error | skip
    max_unusable_share: float = 0.05  # share of rows that may be no pair: equal or empty answers
    max_truncated_share: float = 0.5  # share of rows that may be cut
    max_leaked_share: float = 0.1  # share of eval rows that may stand among training rows

    def validate(self) -> None:
        shapes.check_number("data.vocab_size", self.vocab_size, minimum=264)
        shapes.check_number("data.length", self.length, minimum=8)
        shapes.check_number("data.prompt_length", self.prompt_length, minimum=4)
        for name in ("train_rows", "eval_rows"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0)
        for name in ("max_unusable_share", "max_truncated_share", "max_leaked_share"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0, maximum=1)
        shapes.check_choice("data.on_bad_row", self.on_bad_row, ("error", "skip"))
        if self.prompt_length >= self.length:
            raise ValueError(
                f"data.prompt_length must be below data.length; got {self.prompt_length} and "
                f"{self.length} (data). Leave room for an answer."
            )

    def make(self, log: corpus.Log) -> corpus.Corpus:
        return make_corpus(self, log)

    def prepared(self, log: corpus.Log, cache: prepare.Cache) -> corpus.Corpus:
        return prepared_corpus(self, log, cache)

    def outline(self) -> corpus.Corpus:
        return corpus.outline(
            vocab_size=self.vocab_size,
            length=self.length,
            prompt_length=self.prompt_length,
            kinds=KINDS,
        )

    def where(self) -> tuple[str, ...]:
        return ("path", "tokenizer")

    def share(self, kind: str) -> float:
        """The share of rows that may be cut; documents are, and lose nothing."""
        return 1.0 if kind == "documents" else self.max_truncated_share


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
) -> chat.Speaker:
    """The tokenizer that the configuration names, else one trained on the training split.

    Training is deterministic. A foreign tokenizer comes with its folder's chat template, or
    `template`.
    """
    if config.tokenizer:
        return speakers.named(config.tokenizer, config.template, config.pad, config.date)
    rows = (splits or read(config))["train"].rows
    texts = (turn.text for turns in conversations(rows) for turn in turns)
    return tokenizers.train_tokenizer(texts, config.vocab_size)


def make_corpus(config: HhConfig, log: corpus.Log) -> corpus.Corpus:
    """The corpus of a folder; `log` takes a line of counts (kept, cut, dropped) for each table.

    Raises:
      ValueError: the folder, a row or a number is bad; one line says which.
    """
    config.validate()
    splits = read(config)
    leaked = leaks.of_rows(
        {name: own.rows for name, own in splits.items()},
        hh_recipe.told,
        config.max_leaked_share,
        config.path,
    )
    tokenizer = make_tokenizer(config, splits)

    def table(kind: str, split: str) -> corpus.Table:
        rows, counts = hh_recipe.encode(
            tokenizer, splits[split].rows, kind, length=config.length,
            prompt_length=config.prompt_length, pack=config.pack,
        )  # fmt: skip
        examples.check_counts(counts, config.share(kind), kind)
        log(f"{kind} of {split}: {counts}")
        return rows

    return _corpus(
        config,
        tokenizer,
        table,
        fingerprints={
            **{name: own.fingerprint for name, own in splits.items()},
            **prepared.packing(config.pack, max(own.read for own in splits.values())),
        },
        conversation=lambda split, index: splits[split].rows[index].prompt,
        summary=(*(f"{name}: {own.summary()}" for name, own in splits.items()), *leaked),
    )


def _corpus(
    config: HhConfig,
    tokenizer: tokenizers.Tokenizer | chat_format.ChatFormat,
    table: Callable[[str, str], corpus.Table],
    *,
    fingerprints: dict[str, str],
    conversation: Callable[[str, int], Sequence[chat.Turn]],
    summary: tuple[str, ...],
) -> corpus.Corpus:
    return corpus.Corpus(
        vocab_size=tokenizer.vocab_size,
        pad=tokenizer.pad_id,
        eos=tokenizer.eos_id,
        length=config.length,
        prompt_length=config.prompt_length,
        kinds=KINDS,
        table=table,
        text=lambda ids: tokenizer.decode(int(i) for i in ids),
        fingerprints={"tokenizer": tokenizer.fingerprint, **fingerprints},
        speaker=tokenizer,
        conversation=conversation,
        summary=summary,
    )


def prepared_corpus(config: HhConfig, log: corpus.Log, cache: prepare.Cache) -> corpus.Corpus:
    """The corpus of a folder with its tables on disk.

    Raises:
      ValueError: the folder, a row or a number is bad; one line says which.
    """
    config.validate()
    limits = {"train": config.train_rows, "eval": config.eval_rows}
    plain = {split: _recipe(config, split, limit) for split, limit in limits.items()}
    sources_of = {split: prepare.source(own, cache) for split, own in plain.items()}
    leaked = leaks.of_sources(sources_of, config.max_leaked_share, config.path, limits)
    if config.tokenizer:
        tokenizer = make_tokenizer(config)
    else:
        tokenizer = prepared.trained(
            [(plain["train"], sources_of["train"])], cache, config.vocab_size, TRAINED_ROWS,
            lambda row: (turn.text for turn in (*row.prompt, *row.chosen)),
        )  # fmt: skip
    speaking = speakers.speaking(tokenizer, config)

    def table(kind: str, split: str) -> corpus.Table:
        own = dataclasses.replace(
            plain[split],
            kind=kind,
            max_truncated_share=config.share(kind),
            vocab_size=tokenizer.vocab_size,
            pad=tokenizer.pad_id,
            speaking=speaking,
        )
        stored = prepare.prepare(own, cache)
        log(f"{kind} of {split}: {examples.Counts(**stored.manifest.counts)} in {stored.folder}")
        return lazy.table_of(stored)

    read_all = functools.cache(lambda: read(config))  # texts of rows, where a model asks for them
    return _corpus(
        config,
        tokenizer,
        table,
        fingerprints={
            **{split: _fingerprint(config, split, cache) for split in limits},
            **prepared.packing(config.pack, max(own.selection.read for own in sources_of.values())),
        },
        conversation=lambda split, index: read_all()[split].rows[index].prompt,
        summary=(
            *(f"{s}: {_summary(found.selection, plain[s])}" for s, found in sources_of.items()),
            *leaked,
        ),
    )


def _recipe(config: HhConfig, split: str, limit: int) -> hh_recipe.HhRecipe:
    return hh_recipe.HhRecipe(
        path=config.path,
        names=config.names,
        split=split,
        rules=recipe.Rules(
            skip=config.on_bad_row == "skip",
            unusable=sources.UNUSABLE,
            max_unusable_share=config.max_unusable_share,
        ),
        limit=limit,
        kind="",
        length=config.length,
        prompt_length=config.prompt_length,
        pack=config.pack,
        vocab_size=0,
        pad=0,
        max_truncated_share=config.max_truncated_share,
        speaking=speakers.NOBODY,
    )


def _fingerprint(config: HhConfig, split: str, cache: prepare.Cache) -> str:
    """As `sources.read_preferences` tells the content of a split."""
    parts, named = containers.split_parts(config.path, split=split, names=config.names)
    return sources.fingerprint(
        parts, named, config.names, split, content=lambda file: contents.digest(file, cache.folder)
    )


def _summary(found: selection.Selection, own: hh_recipe.HhRecipe) -> str:
    kept = min(own.limit or found.kept[own.split], found.kept[own.split])
    parted = found.marks[own.split].get(str(hh_recipe.DIVERGED), 0)
    return (
        f"{kept} rows of {found.read} read, {parted} part before the last answer; dropped: "
        f"{found.reasons()}"
    )

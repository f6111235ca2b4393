"""People's own data as a corpus: any layout in any container, tokenised by any tokenizer."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from alignjax.core import values
from alignjax.data import (
    comparisons,
    containers,
    contents,
    corpus,
    encoding,
    examples,
    file_recipe,
    groups,
    layouts,
    leaks,
    prepare,
    prepared,
    reading,
    recipe,
    row_recipe,
    rows,
    speakers,
    storage,
)
from alignjax.data.containers import tfds
from alignjax.text import chat
from alignjax.text import tokenizer as tokenizers

SPLITS = ("train", "eval")
TOKENIZER_ROWS = 100_000  # training rows that a tokenizer of our own is trained on
SHARES = ("max_bad_share", "max_unusable_share", "max_truncated_share", "max_leaked_share")


@dataclasses.dataclass(kw_only=True)
class FilesConfig(corpus.DataConfig):
    """A file or folder, local or in a bucket, or a TFDS data set, in any layout."""

    path: str = "data"  # the folder, or one file
    tfds: str = ""  # NAME[/CONFIG][:VERSION] of TFDS_DATA_DIR, in place of a path
    names: str = "*"  # glob that selects files of the folder
    layout: str = ""  # of `data/layouts`; empty tells it from the first rows
    fields: str = ""  # the layout's fields under the data's names: "prompt=query,chosen=best"
    score: str = ""  # the score that ranks answers, or that is learned; empty is the layout's own
    pairs: str = comparisons.BEST_WORST  # best-worst | best-random | all, of ranked answers
    groups: str = ""  # names of groups by comma, numbered from 0 in pairs; * is all others
    categories: str = ""  # names of labels by comma, in the order of their columns
    tokenizer: str = ""  # a tokenizer's file or a model's folder; empty trains one on the text
    template: str = ""  # layout of conversations for a foreign tokenizer; empty is its own
    pad: str = ""  # the token to pad with, where a foreign tokenizer names none
    date: str = ""  # today's, like "26 Jul 2024", for a template that states it
    vocab_size: int = 4096  # of the tokenizer that is trained
    length: int = 512  # tokens of a row: prompt and answer
    prompt_length: int = 256  # most tokens of a prompt; older turns are cut
    pack: bool = True  # several documents a row where a loss allows it
    document_masks: bool = True  # whether a packed document sees itself alone; off: all before it
    train_rows: int = 0  # use only so many training rows; 0 is all
    eval_rows: int = 0  # the same for the eval split
    holdout: float = 0.05  # share of prompts kept for eval where no file's name says eval
    on_bad_row: str = reading.ERROR  # error | skip
    max_bad_share: float = 0.01  # share of broken rows that skip may skip
    max_unusable_share: float = 0.05  # share of rows that may be unusable: equal or empty answers
    max_truncated_share: float = 0.5  # share of rows that may be cut
    max_leaked_share: float = 0.1  # share of eval rows that may stand among training rows

    def validate(self) -> None:
        values.check_number("data.vocab_size", self.vocab_size, minimum=264)
        values.check_number("data.length", self.length, minimum=8)
        values.check_number("data.prompt_length", self.prompt_length, minimum=4)
        for name in ("train_rows", "eval_rows"):
            values.check_number(f"data.{name}", getattr(self, name), minimum=0)
        for name in SHARES:
            values.check_number(f"data.{name}", getattr(self, name), minimum=0, maximum=1)
        values.check_number("data.holdout", self.holdout, minimum=0, below=1)
        values.check_choice("data.on_bad_row", self.on_bad_row, (reading.ERROR, reading.SKIP))
        values.check_choice("data.pairs", self.pairs, comparisons.RULES)
        if self.layout:
            values.check_choice("data.layout", self.layout, layouts.LAYOUTS)
        if self.prompt_length >= self.length:
            raise ValueError(
                f"data.prompt_length must be below data.length; got {self.prompt_length} and "
                f"{self.length} (data). Leave room for an answer."
            )
        if not self.pack and not self.document_masks:
            raise ValueError(
                "data.document_masks must be on where rows hold one document; got pack=false with "
                "document_masks=false (data). Set data.pack=true, or leave document_masks out."
            )
        self.options()
        self.renames()

    def renames(self) -> dict[str, str]:
        """{the layout's field: the data's}; ValueError where `fields` does not read so."""
        return layouts.names_of(self.fields)

    def options(self) -> encoding.Options:
        """How rows become examples."""
        return encoding.Options(
            length=self.length, prompt_length=self.prompt_length, pairs=self.pairs,
            score=self.score, groups=groups.names(self.groups),
            categories=groups.names(self.categories, "categories"),
        )  # fmt: skip

    def place(self) -> str:
        """The path that is read."""
        return tfds.named(self.tfds) if self.tfds else self.path

    def make(self, log: corpus.Log) -> corpus.Corpus:
        return make_corpus(self, log)

    def prepared(self, log: corpus.Log, cache: prepare.Cache) -> corpus.Corpus:
        return prepared_corpus(self, log, cache)

    def share(self, kind: str) -> float:
        """The share of rows that may be cut; documents are, and lose nothing."""
        return 1.0 if kind == "documents" else self.max_truncated_share

    def limit(self, split: str) -> int:
        """Rows of a split that are used; 0 is all."""
        return self.train_rows if split == "train" else self.eval_rows

    def outline(self) -> corpus.Corpus:
        if self.layout:
            kinds = row_recipe.kinds_of(layouts.LAYOUTS[self.layout].gives)
        else:
            source, found, _ = opened(self)
            kinds = row_recipe.kinds_of(_types(found, source))
        return corpus.outline(
            vocab_size=self.vocab_size,
            length=self.length,
            prompt_length=self.prompt_length,
            kinds=kinds,
            categories=self.options().categories,
        )

    def where(self) -> tuple[str, ...]:
        return ("path", "tokenizer")


class Split(NamedTuple):
    """The rows of a split, the hash of all that they depend on, and what was left out.

    kinds: of tables, that all rows of the split allow, whatever the limit.
    """

    rows: Sequence[rows.Row]
    fingerprint: str
    tally: reading.Tally
    merged: int
    kinds: tuple[str, ...]

    def summary(self) -> str:
        """One line of counts."""
        read, reasons = self.tally.read, self.tally.reasons()
        return file_recipe.summary(len(self.rows), read, reasons, self.merged)


def opened(config: FilesConfig) -> tuple[reading.Source, list[containers.Part], str]:
    """(how the data are read, their parts, one line that says which layout they have).

    Raises:
      DataError: there are none, or they have no layout.
    """
    place = config.place()
    parts = containers.parts(place, config.names)
    fields = config.renames()
    layout, line = reading.detected(parts, config.layout, fields, place)
    source = reading.Source(
        layout=layout,
        options=layouts.Options(score=config.score),
        fields=fields,
        on_bad_row=config.on_bad_row,
        max_bad_share=config.max_bad_share,
        max_unusable_share=config.max_unusable_share,
    )
    return source, source.parts(parts), line


def read(
    config: FilesConfig, source: reading.Source, parts: list[containers.Part], split: str
) -> Split:
    """The rows of a split, in the order of the files, repeated pairs merged.

    Raises:
      DataError: a bad row, or too many; no row is left.
    """
    chosen, named = containers.select(parts, split, config.place())
    limit = config.limit(split)
    tally, kept = reading.Tally(), list[rows.Row]()
    for row in reading.read(chosen, source, tally):
        if named or reading.is_held_out(row, config.holdout) == (split == "eval"):
            kept.append(row)
    tally.check(source)
    if not kept:
        raise file_recipe.no_rows(config.place(), split, tally.read)
    merged, count = comparisons.merged(kept)
    kinds = row_recipe.kinds(sorted({row_recipe.mark_of(row) for row in merged}))
    identity = fingerprint(config, source, chosen, split, named)
    return Split(merged[:limit] if limit else merged, identity, tally, count, kinds)


def train_rows(config: FilesConfig) -> Sequence[rows.Row]:
    """The training rows, in memory."""
    source, parts, _ = opened(config)
    return read(config, source, parts, "train").rows


def fingerprint(
    config: FilesConfig,
    source: reading.Source,
    chosen: Sequence[containers.Part],
    split: str,
    named: bool,
    content: Callable[[str], str] | None = None,
) -> str:
    """sha256 in hex of the files' contents and of all that selects and reads rows.

    content: as of `storage.fingerprint`.
    """
    names = dict.fromkeys(file for own in chosen for file in own.files)
    files = storage.fingerprint(names, content)
    limit = config.limit(split)
    part = None if named else (split, config.holdout)
    selection = (
        files, config.names, source.layout.name, sorted(source.fields.items()), config.score,
        limit, part,
    )  # fmt: skip
    return hashlib.sha256(repr(selection).encode()).hexdigest()


def _types(parts: Sequence[containers.Part], source: reading.Source) -> list[type[rows.Row]]:
    """The types of the first rows."""
    lenient = dataclasses.replace(source, on_bad_row=reading.SKIP)
    first = reading.read(parts, lenient, reading.Tally())
    return list(dict.fromkeys(type(row) for row, _ in zip(first, range(64), strict=False)))


def make_speaker(config: FilesConfig, entries: Sequence[rows.Row]) -> chat.Speaker:
    """The tokenizer that the configuration names, else one trained on the rows."""
    if not config.tokenizer:
        texts = (text for row in entries[:TOKENIZER_ROWS] for text in rows.texts(row))
        return tokenizers.train_tokenizer(texts, config.vocab_size)
    return speakers.named(config.tokenizer, config.template, config.pad, config.date)


def make_corpus(config: FilesConfig, log: corpus.Log, speaker: Any = None) -> corpus.Corpus:
    """The corpus of the data; `log` takes the layout, and a line of counts for each table.

    speaker: the tokenizer, where it is open already.

    Raises:
      ValueError: the path, the layout, a row or a number is bad; one line says which.
    """
    config.validate()
    source, parts, line = opened(config)
    log(line)
    splits = {split: read(config, source, parts, split) for split in SPLITS}
    given = {name: split.rows for name, split in splits.items()}
    leaked = leaks.of_rows(given, comparisons.told, config.max_leaked_share, config.place())
    speaker = make_speaker(config, splits["train"].rows) if speaker is None else speaker

    def table(kind: str, split: str) -> corpus.Table:
        result, counts = examples.table(
            given[split], kind, speaker, config.options(), pack=config.pack,
            document_masks=config.document_masks,
            max_truncated_share=config.share(kind),
        )  # fmt: skip
        log(f"{kind} of {split}: {counts}")
        if any(row.weight != 1 for row in given[split]):
            file_recipe.log_unweighted(log, kind, split)
        return result

    return corpus.Corpus(
        vocab_size=speaker.vocab_size,
        pad=speaker.pad_id,
        eos=speaker.eos_id,
        length=config.length,
        prompt_length=config.prompt_length,
        kinds=splits["train"].kinds,
        table=table,
        text=lambda ids: chat.sampled_text(speaker, ids),
        fingerprints={
            "tokenizer": speaker.fingerprint,
            **{name: split.fingerprint for name, split in splits.items()},
        },
        speaker=speaker,
        conversation=lambda split, index: rows.prompt_of(splits[split].rows[index]),
        tasks=lambda split: [row_recipe.task(row) for row in splits[split].rows],
        summary=(
            *(f"{name}: {split.summary()}" for name, split in splits.items()),
            *leaked,
            *groups.said(config.groups),
        ),
        categories=config.options().categories,
    )


def prepared_corpus(
    config: FilesConfig, log: corpus.Log, cache: prepare.Cache, speaker: Any = None
) -> corpus.Corpus:
    """The corpus of the data with its tables on disk.

    speaker: the tokenizer, where it is open already.

    Raises:
      ValueError: as of `make_corpus`.
    """
    config.validate()
    splits, line = scanned(config, cache)
    log(line)
    limits = {split: config.limit(split) for split in SPLITS}
    leaked = leaks.of_sources(splits.sources, config.max_leaked_share, config.place(), limits)
    speaker = prepared_speaker(config, splits) if speaker is None else speaker
    made = prepared.corpus_of(
        splits, speaker,
        speakers.speaking(speaker, config),
        kinds=row_recipe.kinds(list(splits.marks("train"))), share=config.share, pack=config.pack,
        log=log,
        summary=(
            *(f"{s}: {_summary(splits, s)}" for s in SPLITS), *leaked, *groups.said(config.groups)
        ),
        fingerprints={
            split: _fingerprint(config, splits.recipes[split], cache) for split in SPLITS
        },
    )  # fmt: skip

    def table(kind: str, split: str) -> corpus.Table:
        found = made.table(kind, split)
        if _is_weighted(splits, split):
            file_recipe.log_unweighted(log, kind, split)
        return found

    return made._replace(table=table, categories=config.options().categories)


def scanned(config: FilesConfig, cache: prepare.Cache) -> tuple[prepared.Splits, str]:
    """(the scanned splits, one line that says which layout they have).

    Raises:
      DataError: the data are missing or bad, or no row is left.
    """
    source, _, line = opened(config)
    rules = recipe.Rules(
        skip=config.on_bad_row == reading.SKIP,
        unusable=reading.UNUSABLE,
        max_bad_share=config.max_bad_share,
        max_unusable_share=config.max_unusable_share,
        holdout=config.holdout,
        by_number=True,
        repeated=recipe.JOIN,
    )
    splits = prepared.scanned(
        {
            split: file_recipe.FileRecipe(
                split=split, rules=rules, options=config.options(), limit=config.limit(split),
                place=config.place(), names=config.names, source=source,
                document_masks=config.document_masks,
            )
            for split in SPLITS
        },
        cache,
    )  # fmt: skip
    for split, found in splits.sources.items():
        if not splits.rows(split):
            raise file_recipe.no_rows(config.place(), split, found.selection.read)
    return splits, line


def _fingerprint(config: FilesConfig, own: row_recipe.RowRecipe, cache: prepare.Cache) -> str:
    assert isinstance(own, file_recipe.FileRecipe)
    chosen, named = own.parts()
    return fingerprint(
        config, own.source, chosen, own.split, named,
        content=lambda file: contents.digest(file, cache.folder),
    )  # fmt: skip


def _is_weighted(splits: prepared.Splits, split: str) -> bool:
    joined = splits.sources[split].selection.joined[split]
    return bool(joined) or any(mark & row_recipe.WEIGHTED for mark in splits.marks(split))


def prepared_speaker(config: FilesConfig, splits: prepared.Splits) -> Any:
    """The tokenizer that the configuration names, else one trained on the rows and kept."""
    if config.tokenizer:
        return make_speaker(config, ())
    return prepared.trained(
        [splits.training()], splits.cache, config.vocab_size, TOKENIZER_ROWS, rows.texts
    )  # fmt: skip


def _summary(splits: prepared.Splits, split: str) -> str:
    own = splits.sources[split].selection
    return file_recipe.summary(splits.rows(split), own.read, own.reasons(), own.joined[split])

"""A corpus of typed rows whose tables are prepared on disk and read by row."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.core import untrusted
from alignjax.data import (
    cache_files,
    corpus,
    examples,
    lazy,
    prepare,
    recipe,
    row_recipe,
    source_rows,
    speakers,
    store,
)
from alignjax.text import chat, tokenizer


class Splits(NamedTuple):
    """How the tables of both splits are made, and their scanned sources."""

    recipes: Mapping[str, row_recipe.RowRecipe]
    sources: Mapping[str, source_rows.Source]
    cache: prepare.Cache

    def rows(self, split: str) -> int:
        """The rows of a split."""
        kept, limit = self.sources[split].selection.kept[split], self.recipes[split].limit
        return min(kept, limit) if limit else kept

    def training(self) -> tuple[recipe.Recipe, source_rows.Source]:
        """The training split's recipe and source."""
        return self.recipes["train"], self.sources["train"]

    def marks(self, split: str) -> Mapping[int, int]:
        """{mark: rows} of a split, whatever its limit."""
        own = self.sources[split].selection.marks[split]
        return {int(mark): count for mark, count in own.items()}


def scanned(recipes: Mapping[str, row_recipe.RowRecipe], cache: prepare.Cache) -> Splits:
    """The splits, whose sources are scanned now or were before.

    Raises:
      DataError: the data are missing or bad.
    """
    found = {split: prepare.source(own, cache) for split, own in recipes.items()}
    return Splits(recipes, found, cache)


def corpus_of(
    splits: Splits,
    speaker: Any,
    own: speakers.Speaking,
    *,
    kinds: Sequence[str],
    share: Callable[[str], float],
    pack: bool,
    log: corpus.Log,
    fingerprints: Mapping[str, str],
    summary: tuple[str, ...],
) -> corpus.Corpus:
    """The corpus; share: kind -> the share of rows that may be cut. own: the speaker as a value."""
    options = splits.recipes["train"].options

    def stored_of(kind: str, split: str, **changes: Any) -> store.Stored:
        return prepare.prepare(
            dataclasses.replace(splits.recipes[split], kind=kind, **changes), splits.cache
        )

    def table(kind: str, split: str) -> corpus.Table:
        stored = stored_of(
            kind, split, max_truncated_share=share(kind), vocab_size=speaker.vocab_size,
            pad=speaker.pad_id, speaking=own, pack=pack,
        )  # fmt: skip
        log(f"{kind} of {split}: {examples.Counts(**stored.manifest.counts)} in {stored.folder}")
        return lazy.table_of(stored)

    said = {
        split: row_recipe.Said(
            splits.rows(split),
            functools.cache(functools.partial(stored_of, row_recipe.SAID, split)),
        )
        for split in splits.recipes
    }
    read = max(found.selection.read for found in splits.sources.values())
    return corpus.Corpus(
        vocab_size=speaker.vocab_size,
        pad=speaker.pad_id,
        eos=speaker.eos_id,
        length=options.length,
        prompt_length=options.prompt_length,
        kinds=tuple(kinds),
        table=table,
        text=lambda ids: chat.sampled_text(speaker, ids),
        fingerprints={
            "tokenizer": speaker.fingerprint, **fingerprints, **packing(pack, read)
        },
        speaker=speaker,
        conversation=lambda split, index: said[split].prompt(index),
        tasks=lambda split: said[split],
        summary=summary,
    )  # fmt: skip


def trained(
    sources: Sequence[tuple[recipe.Recipe, source_rows.Source]],
    cache: prepare.Cache,
    vocab_size: int,
    most: int,
    texts_of: Callable[[Any], Iterable[str]],
) -> tokenizer.Tokenizer:
    """A tokenizer trained on the texts of the first `most` rows of each source; it is kept."""
    identity = {
        "sources": [[found.identity, own.split, own.limit] for own, found in sources],
        "rows": most,
        "vocab_size": vocab_size,
        "trainer": tokenizer.trainer(),
    }
    file = cache.folder / "tokenizers" / f"{cache_files.key_of(identity)}.model"
    note = cache_files.read_json(file.with_suffix(".json"))
    if note is not None and file.exists():
        model = untrusted.read_bytes(file, untrusted.CONFIG)
        if cache_files.digest(model) == note["sha256"]:
            return tokenizer.from_bytes(model)
    rows = (row for own in sources for row in source_rows.first_rows(*own, most))
    made = tokenizer.train_tokenizer((text for row in rows for text in texts_of(row)), vocab_size)
    cache_files.write(file, made.model)
    cache_files.write_json(file.with_suffix(".json"), {"sha256": made.fingerprint})
    return made


def packing(pack: bool, read: int) -> dict[str, str]:
    """What rows of several documents depend on where the source is cut into shards.

    Runs of releases that packed all of it at once do not go on with other rows.
    """
    rows = source_rows.ROWS
    return {"packed together": str(rows)} if pack and read > rows else {}

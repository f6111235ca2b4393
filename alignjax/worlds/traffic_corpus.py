"""TrafficWorld as a corpus: labelled messages, and a tokenizer trained on them."""

import dataclasses
import functools

import numpy as np

from alignjax.core import shapes
from alignjax.data import corpus, encoding, examples, rows
from alignjax.text import chat, tokenizer
from alignjax.worlds import traffic


@dataclasses.dataclass(kw_only=True)
class TrafficConfig(corpus.DataConfig):
    """Messages of TrafficWorld with their labels."""

    rows: int = 4096  # of the train split
    eval_rows: int = 1024
    unsafe: float = 0.3  # share of unsafe messages
    novel: float = 0.0  # share of those in words that the first rows do not have
    missing: float = 0.2  # share of rows that lack a label
    seed: int = 0
    vocab_size: int = 512
    length: int = 48  # tokens

    def validate(self) -> None:
        for name in ("unsafe", "novel", "missing"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0, maximum=1)
        for name in ("rows", "eval_rows"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=8)

    def make(self, log: corpus.Log) -> corpus.Corpus:
        return make_corpus(self)


def labelled(config: TrafficConfig, split: str) -> list[rows.Labelled]:
    """The rows of a split."""
    held = split == "eval"
    rates = traffic.Rates(unsafe=config.unsafe, novel=config.novel)
    count = config.eval_rows if held else config.rows
    rng = np.random.default_rng([config.seed, held])
    own = traffic.messages(2 * config.seed + held, count, rates)
    return [traffic.row(one, rng, 0.0 if held else config.missing) for one in own]


def make_corpus(config: TrafficConfig) -> corpus.Corpus:
    """The corpus; labels of the eval split are complete."""
    config.validate()
    splits = {split: labelled(config, split) for split in ("train", "eval")}
    texts = (turn.text for row in splits["train"] for turn in row.turns)
    speaker = tokenizer.train_tokenizer(texts, config.vocab_size)
    options = encoding.Options(
        length=config.length, prompt_length=config.length - 1, categories=traffic.CATEGORIES
    )

    @functools.cache
    def table(kind: str, split: str) -> corpus.Table:
        own, _ = examples.table(splits[split], kind, speaker, options, max_truncated_share=0.0)
        return own

    return corpus.Corpus(
        vocab_size=speaker.vocab_size,
        pad=speaker.pad_id,
        eos=speaker.eos_id,
        length=config.length,
        prompt_length=config.length - 1,
        kinds=("labelled",),
        table=table,
        text=lambda ids: chat.sampled_text(speaker, ids),
        fingerprints={"tokenizer": speaker.fingerprint, "world": repr(config)},
        speaker=speaker,
        categories=traffic.CATEGORIES,
        world=traffic,
    )

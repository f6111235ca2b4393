"""ReviewWorld as a corpus: documents, demonstrations, prompts, and pairs from a file."""

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np

from alignjax.core import shapes
from alignjax.data import corpus
from alignjax.worlds import gold, review


@dataclasses.dataclass(kw_only=True)
class ReviewConfig:
    """How much is drawn from a ReviewWorld."""

    world: review.ReviewWorldConfig = dataclasses.field(default_factory=review.ReviewWorldConfig)
    documents: int = 76800  # pretraining documents
    demonstrations: int = 4096
    prompts: int = 16384
    eval_rows: int = 2048  # of each kind
    document_noise: float = 0.2  # share of pretraining documents with noise
    token_noise: float = 0.3  # share of noise tokens in those
    pairs: str = ""  # file of labelled comparisons, made by the lifecycle

    def validate(self) -> None:
        self.world.validate()
        for name in ("documents", "demonstrations", "prompts", "eval_rows"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=1)
        for name in ("document_noise", "token_noise"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0, maximum=1)


def rows(tokens: np.ndarray, lengths: np.ndarray, *, start: int) -> corpus.Table:
    """The columns of right-padded documents [..., T] whose tokens from `start` on are counted."""
    slot = np.arange(tokens.shape[-1], dtype=np.int32)
    real = slot < lengths[..., None]
    return {
        "tokens": tokens.astype(np.int32),
        "loss_mask": real & (slot >= start),
        "segments": real.astype(np.int32),
        "positions": np.broadcast_to(slot, tokens.shape).copy(),
    }


def make_corpus(config: ReviewConfig) -> corpus.Corpus:
    """The corpus of one world. Everything but the pairs is drawn from the world's seed."""
    config.validate()
    world = review.make_review_world(config.world)
    sizes = {"documents": config.documents, "demonstrations": config.demonstrations}

    def draw(kind: str, split: str) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
        words = [config.world.seed, *(f"{kind}/{split}".encode())]
        rng = np.random.default_rng(words)
        size = config.eval_rows if split == "eval" else sizes.get(kind, config.prompts)
        return rng, *review.sample_documents(world, rng, size)

    def table(kind: str, split: str) -> corpus.Table:
        if kind == "pairs":
            return read_pairs(config.pairs, split)
        rng, tokens, lengths = draw(kind, split)
        if kind == "documents":
            noise = (config.document_noise, config.token_noise)
            return rows(review.corrupt(world, rng, tokens, lengths, *noise), lengths, start=1)
        if kind == "demonstrations":
            return rows(tokens, lengths, start=world.prompt_length)
        width = world.prompt_length
        return {"prompts": tokens[:, :width], "lengths": np.full(len(tokens), width, np.int32)}

    identity = hashlib.sha256(repr(dataclasses.asdict(config.world)).encode()).hexdigest()
    pairs = pathlib.Path(config.pairs)
    digest = hashlib.sha256(pairs.read_bytes()).hexdigest() if pairs.is_file() else ""
    return corpus.Corpus(
        vocab_size=world.vocab_size,
        pad=world.pad,
        eos=world.eos,
        length=world.length,
        prompt_length=world.prompt_length,
        table=table,
        text=lambda ids: review.words(world, np.asarray(ids)),
        fingerprints={"world": identity, "pairs": digest},
        gold=lambda tokens, lengths: gold.gold_reward(world, tokens, lengths),
        world=world,
    )


def read_pairs(path: str, split: str) -> corpus.Table:
    """The pairs of a file written by `write_pairs`.

    Raises:
      ValueError: there is no such file.
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(
            f"data.pairs must be the file of pairs that a lifecycle labelled; got {path!r}. "
            "Run `alignjax run` first, or give its pairs.npz."
        )
    with np.load(path, allow_pickle=False) as file:
        return {name[len(split) + 1 :]: file[name] for name in file if name.startswith(f"{split}/")}


def write_pairs(path: pathlib.Path, train: corpus.Table, held_out: corpus.Table) -> None:
    """Both splits in one file, whole or not at all."""
    partial = path.with_suffix(".partial.npz")
    named: Any = {f"train/{k}": v for k, v in train.items()} | {
        f"eval/{k}": v for k, v in held_out.items()
    }
    np.savez(partial, **named)
    partial.replace(path)

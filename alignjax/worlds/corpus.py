"""ReviewWorld as a corpus: documents, demonstrations, prompts, and pairs from a file."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from alignjax.core import shapes, untrusted
from alignjax.data import corpus, derive
from alignjax.worlds import gold, review

KINDS = (
    "documents",
    "demonstrations",
    "pairs",
    "rankings",
    "unpaired",
    "scored",
    "steps",
    "prompts",
)


@dataclasses.dataclass(kw_only=True)
class ReviewConfig(corpus.DataConfig):
    """A ReviewWorld, and how many rows are sampled from it."""

    world: review.ReviewWorldConfig = dataclasses.field(default_factory=review.ReviewWorldConfig)
    documents: int = 76800  # pretraining documents
    demonstrations: int = 4096
    prompts: int = 16384
    eval_rows: int = 2048  # of each kind
    document_noise: float = 0.2  # share of pretraining documents with noise
    token_noise: float = 0.3  # share of noise tokens in those
    pairs: str = ""  # file of labelled comparisons, written by the lifecycle
    demonstrated: str = ""  # the same of demonstrations, in place of the generator's

    def validate(self) -> None:
        self.world.validate()
        for name in ("documents", "demonstrations", "prompts", "eval_rows"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=1)
        for name in ("document_noise", "token_noise"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=0, maximum=1)

    def make(self, log: corpus.Log) -> corpus.Corpus:
        return make_corpus(self)

    def where(self) -> tuple[str, ...]:
        return ("pairs", "demonstrated")


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


def default() -> corpus.DataConfig:
    """The data of an experiment that names none: nothing has to be downloaded."""
    return ReviewConfig()


def make_corpus(config: ReviewConfig) -> corpus.Corpus:
    """The corpus of one world. Everything but the pairs is sampled with the world's seed.

    Unpaired answers and rankings come from the pairs. Scored rows are demonstrations with their
    gold reward. Steps are the adjectives of demonstrations, labelled 1 where they earn reward.
    """
    config.validate()
    world = review.make_review_world(config.world)
    sizes = {"documents": config.documents, "prompts": config.prompts}
    step_tokens = tuple(int(i) for i in (*world.kinds["pos"], *world.kinds["neg"]))
    derived: dict[str, Callable[[corpus.Table], corpus.Table]] = {
        "pairs": dict,
        "unpaired": derive.unpaired,
        "rankings": _rankings,
    }

    def sample(kind: str, split: str) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
        words = [config.world.seed, *(f"{kind}/{split}".encode())]
        rng = np.random.default_rng(words)
        size = config.eval_rows if split == "eval" else sizes.get(kind, config.demonstrations)
        return rng, *review.sample_documents(world, rng, size)

    def table(kind: str, split: str) -> corpus.Table:
        if kind in derived:
            return derived[kind](read_pairs(config.pairs, split))
        if kind == "demonstrations" and config.demonstrated:
            return read_pairs(config.demonstrated, split)
        rng, tokens, lengths = sample(kind, split)
        width = world.prompt_length
        if kind == "documents":
            noise = (config.document_noise, config.token_noise)
            return rows(review.corrupt(world, rng, tokens, lengths, *noise), lengths, start=1)
        if kind == "prompts":
            return {
                "prompts": tokens[:, :width],
                "lengths": np.full(len(tokens), width, np.int32),
                "index": np.arange(len(tokens), dtype=np.int32),
            }
        columns = rows(tokens, lengths, start=width)
        if kind == "scored":
            columns["scores"] = gold.gold_reward(world, tokens, lengths).astype(np.float32)
        elif kind == "steps":
            adjectives = np.isin(tokens, step_tokens)
            earned = gold.token_rewards(world, tokens, lengths) > 0
            columns["step_mask"] = adjectives & columns["loss_mask"]
            columns["step_labels"] = (columns["step_mask"] & earned).astype(np.float32)
        return columns

    identity = hashlib.sha256(repr(dataclasses.asdict(config.world)).encode()).hexdigest()
    files = {name: pathlib.Path(getattr(config, name)) for name in config.where()}
    digests = {name: untrusted.digest(file) for name, file in files.items() if file.is_file()}
    return corpus.Corpus(
        vocab_size=world.vocab_size,
        pad=world.pad,
        eos=world.eos,
        length=world.length,
        prompt_length=world.prompt_length,
        kinds=KINDS,
        table=table,
        text=lambda ids: review.words(world, np.asarray(ids)),
        fingerprints={"world": identity, "pairs": "", **digests},
        gold=lambda tokens, lengths: gold.gold_reward(world, tokens, lengths),
        steps=step_tokens,
        world=world,
    )


def _rankings(pairs: corpus.Table) -> corpus.Table:
    """A prompt's answers in the order of their true rewards; equal rewards are tied."""
    order = np.array([np.unique(-row, return_inverse=True)[1] for row in pairs["gold"]])
    columns = {name: pairs[name] for name in derive.ROWS}
    mask = np.ones(order.shape, bool)
    return {**columns, "ranks": order.astype(np.float32), "answer_mask": mask}


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
    arrays = untrusted.read_arrays(path, untrusted.ROWS)
    return {n[len(split) + 1 :]: value for n, value in arrays.items() if n.startswith(f"{split}/")}


def write_pairs(path: pathlib.Path, train: corpus.Table, held_out: corpus.Table) -> None:
    """Both splits in one file, whole or not at all."""
    partial = path.with_suffix(".partial.npz")
    named: Any = {f"train/{k}": v for k, v in train.items()} | {
        f"eval/{k}": v for k, v in held_out.items()
    }
    np.savez(partial, **named)
    partial.replace(path)

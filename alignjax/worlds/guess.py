"""The world of guess-a-number: its tokens, games at random to read, and the best return there is.

A game is a start token, then guesses and what is said to them, in turn:

    START 4 HIGHER 6 LOWER 5 EOS

Numbers are 1 .. N, one token each.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.core import shapes
from alignjax.data import corpus

KINDS = ("documents", "prompts")
PAD, EOS, START, LOWER, HIGHER = range(5)
FIRST = 4  # the token of number n is FIRST + n
NAMES = {PAD: "<pad>", EOS: "<eos>", START: "<start>", LOWER: "lower", HIGHER: "higher"}


@dataclasses.dataclass(kw_only=True)
class GuessConfig(corpus.DataConfig):
    """Games of guess-a-number, and how many there are."""

    seed: int = 0
    numbers: int = 7  # N: secrets are 1 .. N
    guesses: int = 3  # in a document
    documents: int = 8192  # games with guesses at random, for pretraining
    prompts: int = 4096  # each the start token; the secrets of the rows are all numbers in turn
    eval_rows: int = 512

    def validate(self) -> None:
        for name in ("guesses", "documents", "prompts", "eval_rows"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=1)
        shapes.check_number("data.seed", self.seed, minimum=0)
        shapes.check_number("data.numbers", self.numbers, minimum=2)

    @property
    def vocab_size(self) -> int:
        return FIRST + 1 + self.numbers

    @property
    def length(self) -> int:
        """Tokens of the longest document: the start, guesses and what is said between, EOS."""
        return 1 + 2 * self.guesses

    def make(self, log: corpus.Log) -> corpus.Corpus:
        return make_corpus(self)


def optimal_return(numbers: int, guesses: int, cost: float = 0.0) -> float:
    """The largest mean return: the sum over guesses t of min(2^(t-1), rest) (1 - c (t-1)) / N.

    A strategy is a binary tree of guesses: at most 2^(t-1) secrets are found at guess t, and
    bisection finds as many. rest: the secrets of 1 .. N, all alike likely,
    that no earlier guess finds.

    Args:
      guesses: allowed. cost: c, of each guess after the first, in units of the reward for right;
        0 <= c <= 1 / (guesses - 1), so that no right guess is paid less than nothing.
    """
    total, left = 0.0, numbers
    for turn in range(guesses):
        found = min(2**turn, left)
        total += found * (1.0 - cost * turn)
        left -= found
    return total / numbers


def words(ids: np.ndarray) -> str:
    """Tokens as text: numbers, and names for the rest."""
    return " ".join(NAMES.get(int(i), str(int(i) - FIRST)) for i in ids)


def make_corpus(config: GuessConfig) -> corpus.Corpus:
    """The corpus of games; splits differ by the seed of their draws."""
    config.validate()

    def count(kind: str, split: str) -> int:
        return config.eval_rows if split == "eval" else getattr(config, kind)

    def table(kind: str, split: str) -> corpus.Table:
        rows = count(kind, split)
        if kind == "prompts":
            index = np.arange(rows, dtype=np.int32)
            prompts = np.full((rows, 1), START, np.int32)
            return {"prompts": prompts, "lengths": np.ones(rows, np.int32), "index": index}
        rng = np.random.default_rng([config.seed, *split.encode()])
        return _documents(config, rng, rows)

    sizes = {"numbers": config.numbers, "guesses": config.guesses}
    identity = json.dumps({"world": "guess", "seed": config.seed, **sizes})
    return corpus.Corpus(
        vocab_size=config.vocab_size,
        pad=PAD,
        eos=EOS,
        length=config.length,
        prompt_length=1,
        kinds=KINDS,
        table=table,
        text=words,
        fingerprints={"world": hashlib.sha256(identity.encode()).hexdigest()},
        tasks=lambda split: _tasks(config, count("prompts", split)),
        world=config,
    )


def _tasks(config: GuessConfig, rows: int) -> Sequence[Mapping[str, Any]]:
    return [
        {"prompt": words(np.asarray([START])), "secret": 1 + i % config.numbers}
        for i in range(rows)
    ]


def _documents(config: GuessConfig, rng: np.random.Generator, rows: int) -> corpus.Table:
    """Games with uniform secrets and guesses that take no notice of what is said."""
    secrets = rng.integers(1, config.numbers + 1, (rows, 1))
    guesses = rng.integers(1, config.numbers + 1, (rows, config.guesses))
    tokens = np.full((rows, config.length), PAD, np.int32)
    tokens[:, 0] = START
    tokens[:, 1::2] = FIRST + guesses
    tokens[:, 2::2] = np.where(guesses < secrets, HIGHER, LOWER)
    right = guesses == secrets
    last = np.where(right.any(1), right.argmax(1), config.guesses - 1)
    ends = 2 + 2 * last  # where EOS stands
    slot = np.arange(config.length, dtype=np.int32)
    tokens = np.where(slot < ends[:, None], tokens, PAD).astype(np.int32)
    tokens[np.arange(rows), ends] = EOS
    real = slot <= ends[:, None]
    return {
        "tokens": tokens,
        "loss_mask": real & (slot >= 1),
        "segments": real.astype(np.int32),
        "positions": np.broadcast_to(slot, tokens.shape).copy(),
    }

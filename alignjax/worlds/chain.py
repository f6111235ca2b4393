"""ChainWorld: arithmetic of several steps, with an exact verifier and exact labels of steps.

A prompt is a starting number and S operations; the answer is the S intermediate results, then EOS.
All numbers are below `modulus`, one token each.

    7 + 3 * 5 =  ->  10 16 EOS        (modulo 17: 7 + 3 = 10, 10 * 5 = 50 = 16)

S is the difficulty. Where each step is right with probability q, whatever came before, a prompt is
solved with probability q^S; documents are written so, with q = 1 - document_error.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.core import shapes
from alignjax.data import corpus

KINDS = ("documents", "demonstrations", "scored", "steps", "prompts")
PAD, EOS, EQUALS, PLUS, TIMES = range(5)
FIRST = 5  # the token of number 0
NAMES = {PAD: "<pad>", EOS: "<eos>", EQUALS: "=", PLUS: "+", TIMES: "*"}


@dataclasses.dataclass(kw_only=True)
class ChainConfig(corpus.DataConfig):
    """A ChainWorld, and how many rows are drawn from it."""

    seed: int = 0
    modulus: int = 17  # a prime; numbers are 0 .. modulus - 1
    shortest: int = 2  # operations of a prompt, at least
    longest: int = 8  # at most
    documents: int = 20000  # worked chains with errors, for pretraining
    demonstrations: int = 4096  # chains without errors
    prompts: int = 16384
    eval_rows: int = 512  # of each kind
    document_error: float = 0.1  # chance that a step of a document, or of a labelled row, is wrong

    def validate(self) -> None:
        for name in ("documents", "demonstrations", "prompts", "eval_rows"):
            shapes.check_number(f"data.{name}", getattr(self, name), minimum=1)
        shapes.check_number("data.seed", self.seed, minimum=0)
        shapes.check_number("data.modulus", self.modulus, minimum=2)
        shapes.check_number("data.shortest", self.shortest, minimum=1)
        shapes.check_number("data.longest", self.longest, minimum=self.shortest)
        shapes.check_number("data.document_error", self.document_error, minimum=0, maximum=1)

    @property
    def vocab_size(self) -> int:
        return FIRST + self.modulus

    @property
    def prompt_length(self) -> int:
        """Tokens of the longest prompt: the start, two for each operation, the equals sign."""
        return 2 + 2 * self.longest

    @property
    def length(self) -> int:
        """Tokens of the longest row, EOS included."""
        return self.prompt_length + self.longest + 1

    def make(self, log: corpus.Log) -> corpus.Corpus:
        return make_corpus(self)


def draw_prompts(
    config: ChainConfig, rng: np.random.Generator, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [N, P] padded right, lengths [N]) of prompts with S uniform in the allowed range."""
    steps = rng.integers(config.shortest, config.longest + 1, count)
    numbers = FIRST + rng.integers(0, config.modulus, (count, config.longest + 1))
    tokens = np.full((count, config.prompt_length), PAD, np.int32)
    tokens[:, 0] = numbers[:, 0]
    tokens[:, 1:-1:2] = rng.choice([PLUS, TIMES], (count, config.longest))
    tokens[:, 2:-1:2] = numbers[:, 1:]
    lengths = (2 + 2 * steps).astype(np.int32)
    slot = np.arange(config.prompt_length)
    tokens = np.where(slot < lengths[:, None] - 1, tokens, PAD).astype(np.int32)
    tokens[np.arange(count), lengths - 1] = EQUALS
    return tokens, lengths


def applied(config: ChainConfig, number: np.ndarray, sign: np.ndarray, by: np.ndarray) -> Any:
    """The token of the result of one operation; all arguments are tokens."""
    one, other = number - FIRST, by - FIRST
    return FIRST + np.where(sign == PLUS, one + other, one * other) % config.modulus


def solve(
    config: ChainConfig,
    prompts: np.ndarray,
    lengths: np.ndarray,
    rng: np.random.Generator | None = None,
    error: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """(answers [N, longest + 1] padded right, step labels of the same shape).

    A step is wrong with probability `error`: another number than the one that follows from the
    number before it. Labels are 1 on right steps, 0 on wrong ones and elsewhere.
    """
    count, steps = len(prompts), (lengths - 2) // 2
    answers = np.full((count, config.longest + 1), PAD, np.int32)
    labels = np.zeros(answers.shape, np.float32)
    number = prompts[:, 0]
    for step in range(config.longest):
        right = applied(config, number, prompts[:, 1 + 2 * step], prompts[:, 2 + 2 * step])
        number = right
        if rng is not None:
            shift = rng.integers(1, config.modulus, count)
            wrong = FIRST + (right - FIRST + shift) % config.modulus
            number = np.where(rng.random(count) < error, wrong, right)
        going = step < steps
        answers[:, step] = np.where(going, number, PAD)
        labels[:, step] = going & (number == right)
    answers[np.arange(count), steps] = EOS
    return answers, labels


def verify(config: ChainConfig, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[N] float32: 1 where a row (prompt and answer, [N, T]) holds every result and then EOS."""
    tokens, lengths = np.asarray(tokens), np.asarray(lengths)
    ends = np.argmax(tokens == EQUALS, axis=1) + 1  # tokens of the prompt
    slot = np.arange(config.prompt_length)
    wide = np.full((len(tokens), config.prompt_length), PAD, tokens.dtype)
    wide[:, : tokens.shape[1]] = tokens[:, : config.prompt_length]
    prompts = np.where(slot < ends[:, None], wide, PAD)
    wanted, _ = solve(config, prompts, ends)
    place = ends[:, None] + np.arange(config.longest + 1)
    given = np.take_along_axis(tokens, np.minimum(place, tokens.shape[1] - 1), axis=1)
    given = np.where(place < np.minimum(lengths, tokens.shape[1])[:, None], given, PAD)
    same = np.all(given == wanted, axis=1) & (lengths == ends + (ends - 2) // 2 + 1)
    return same.astype(np.float32)


def pass_rate(q: float, steps: np.ndarray) -> np.ndarray:
    """q^S: the chance that a chain of S steps is solved if each is right with probability q.

    Every intermediate result counts, so that a wrong step is never made good.
    """
    return np.asarray(q) ** np.asarray(steps)


def words(ids: np.ndarray) -> str:
    """Tokens as text: numbers, signs, and names in angle brackets for the rest."""
    return " ".join(NAMES.get(int(i), str(int(i) - FIRST)) for i in ids)


def make_corpus(config: ChainConfig) -> corpus.Corpus:
    """The corpus of one world; splits differ by the seed of their draws.

    Documents, scored and labelled rows are chains with errors: scores are 1 for those without any.
    """
    config.validate()
    counts = {"documents": config.documents, "prompts": config.prompts}

    @functools.cache
    def sample(kind: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([config.seed, *f"{kind}/{split}".encode()])
        count = config.eval_rows if split == "eval" else counts.get(kind, config.demonstrations)
        return draw_prompts(config, rng, count)

    def table(kind: str, split: str) -> corpus.Table:
        prompts, lengths = sample(kind, split)
        if kind == "prompts":
            index = np.arange(len(prompts), dtype=np.int32)
            return {"prompts": prompts, "lengths": lengths, "index": index}
        rng = np.random.default_rng([config.seed, *f"{kind}/{split}/answers".encode()])
        error = 0.0 if kind == "demonstrations" else config.document_error
        answers, labels = solve(config, prompts, lengths, rng, error)
        return _rows(config, kind, prompts, lengths, answers, labels)

    sizes = {"modulus": config.modulus, "shortest": config.shortest, "longest": config.longest}
    identity = json.dumps({"world": "chain", "seed": config.seed, **sizes})
    return corpus.Corpus(
        vocab_size=config.vocab_size,
        pad=PAD,
        eos=EOS,
        length=config.length,
        prompt_length=config.prompt_length,
        kinds=KINDS,
        table=table,
        text=words,
        fingerprints={"world": hashlib.sha256(identity.encode()).hexdigest()},
        gold=lambda tokens, lengths: verify(config, tokens, lengths),
        tasks=lambda split: Tasks(config, *sample("prompts", split)),
        steps=tuple(range(FIRST, config.vocab_size)),
        world=config,
    )


class Tasks(Sequence[Mapping[str, Any]]):
    """The columns of prompts, made when they are read: prompt and answer in words, steps."""

    def __init__(self, config: ChainConfig, prompts: np.ndarray, lengths: np.ndarray):
        self._prompts, self._lengths = prompts, lengths
        self._answers, _ = solve(config, prompts, lengths)

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        length = int(self._lengths[index])
        steps = (length - 2) // 2
        return {
            "prompt": words(self._prompts[index, :length]),
            "answer": words(self._answers[index, :steps]),
            "steps": steps,
        }


def _rows(
    config: ChainConfig,
    kind: str,
    prompts: np.ndarray,
    lengths: np.ndarray,
    answers: np.ndarray,
    labels: np.ndarray,
) -> corpus.Table:
    """Rows of prompts joined to their answers, with the columns of a kind."""
    slot = np.arange(config.length, dtype=np.int32)
    behind = slot - lengths[:, None]
    place = np.clip(behind, 0, config.longest)
    before = prompts[:, np.minimum(slot, config.prompt_length - 1)]
    after = np.where(behind <= config.longest, np.take_along_axis(answers, place, axis=1), PAD)
    tokens = np.where(behind < 0, before, after).astype(np.int32)
    real = tokens != PAD
    columns = {
        "tokens": tokens,
        "loss_mask": real & (slot >= (1 if kind == "documents" else lengths[:, None])),
        "segments": real.astype(np.int32),
        "positions": np.broadcast_to(slot, tokens.shape).copy(),
    }
    is_step = real & (behind >= 0) & (tokens != EOS)
    right = np.take_along_axis(labels, place, axis=1) * is_step
    if kind == "scored":
        columns["scores"] = (right.sum(1) == is_step.sum(1)).astype(np.float32)
    if kind == "steps":
        columns["step_mask"], columns["step_labels"] = is_step, right.astype(np.float32)
    return columns

"""Beams of steps: a process reward model says which beginnings of answers go on."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alignjax.core import shapes
from alignjax.search import solutions


class Answers(NamedTuple):
    """rows: n answers to each of P prompts, row p n + i. scores: [P n]. tokens: sampled on the way
    for each prompt, those of dropped beams too, [P]."""

    rows: solutions.Rows
    scores: np.ndarray
    tokens: np.ndarray

    def best(self, size: int) -> np.ndarray:
        """[P]: the row with the highest score of each prompt, the first where several have it."""
        starts = np.arange(0, len(self.scores), size)
        return starts + self.scores.reshape(-1, size).argmax(axis=1)


def check(size: int, branches: int) -> None:
    """Raises ValueError where beams of a size cannot branch so often."""
    shapes.check_number("--n", size, minimum=1)
    shapes.check_number("--branches", branches, minimum=1)
    if size % min(branches, size):
        raise ValueError(
            f"n of a beam must be a multiple of its branches; got {size} and {branches} (search). "
            "Change --n or --branches."
        )


def search(
    step: solutions.Draw,
    score: Callable[[solutions.Rows], np.ndarray],
    prompts: np.ndarray,
    lengths: np.ndarray,
    *,
    size: int,
    branches: int = 4,
    new: int,
) -> Answers:
    """The answers of `size` beams of each prompt, whose steps were chosen by their scores.

    All beams draw a step. The size / branches best of a prompt are kept, each `branches` times, and
    draw their next ones, until all have ended or have `new` tokens. An answer that has ended keeps
    its place among the beams by its score. One beam is plain sampling.

    Args:
      step: draws one step of each row, `solutions.make_draw` with ends. score: Rows -> [B], larger
        is better. prompts: [P, W], right-padded. lengths: [P]. size: n, beams of a prompt, a
        multiple of branches. new: tokens of an answer at most.

    Raises:
      ValueError: sizes that do not fit.

    Reference: Snell et al. 2024, arXiv 2408.03314, section 5.1 (beam search).
    """
    check(size, branches)
    kept = size // min(branches, size)
    count, width = len(lengths) * size, prompts.shape[1] + new
    first = np.repeat(lengths, size).astype(np.int32)
    tokens = np.zeros((count, width), np.int32)
    tokens[:, : prompts.shape[1]] = np.repeat(prompts, size, axis=0)
    rows = solutions.Rows(tokens, first, first.copy(), np.zeros(count, bool))
    spent, scores = np.zeros(len(lengths), np.int64), np.zeros(count)
    for number in range(new):  # a step has a token at least
        longer = _one_step(step, rows, new, number)
        spent += (longer.lengths - rows.lengths).reshape(-1, size).sum(axis=1)
        rows, scores = longer, score(longer)
        if _is_done(rows, new).all():
            break
        chosen = _best(scores.reshape(-1, size), kept)
        chosen = (np.repeat(chosen, size // kept, axis=1) + _starts(len(lengths), size)).reshape(-1)
        rows, scores = rows.take(chosen), scores[chosen]
    return Answers(rows, scores, spent)


def _is_done(rows: solutions.Rows, new: int) -> np.ndarray:
    return rows.ended | (rows.lengths - rows.prompt_lengths >= new)


def _one_step(step: solutions.Draw, rows: solutions.Rows, new: int, number: int) -> solutions.Rows:
    """The rows with one more step each; those that are done as they are."""
    drawn, width = step(rows.tokens, rows.lengths, number), rows.tokens.shape[1]
    limit = rows.prompt_lengths + new
    lengths = np.minimum(drawn.lengths, limit).astype(np.int32)
    ended = drawn.ended & (drawn.lengths <= limit)
    done = _is_done(rows, new)
    slot = np.arange(width)
    cut = np.where(slot < lengths[:, None], drawn.tokens[:, :width], 0)
    return solutions.Rows(
        np.where(done[:, None], rows.tokens, cut).astype(np.int32),
        rows.prompt_lengths,
        np.where(done, rows.lengths, lengths),
        np.where(done, rows.ended, ended),
    )


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """[P, count]: the places of the best of each prompt, the best first; ties by place."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _starts(prompts: int, size: int) -> np.ndarray:
    return np.arange(prompts)[:, None] * size

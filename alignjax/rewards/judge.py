"""Judges: which of two answers is better, and how good one is, by a model, a rule or a simulation.

A judge reads every pair in both orders, and both verdicts are kept: their mean cancels whatever a
judge adds for standing first, their difference measures it. A verdict that can't be read is NaN and
counted, never a tie, a 0 or a loss.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from alignjax.core import shapes

Texts = Sequence[str]
# (prompts, first answers, second answers) -> [N] logits that the first is better; NaN: unreadable.
OneOrder = Callable[[Texts, Texts, Texts], np.ndarray]
Score = Callable[[Texts, Texts], np.ndarray]  # (prompts, answers) -> [N]
Distribution = Callable[[Texts, Texts], np.ndarray]  # the same -> [N, M] over scores 1 .. M
Ask = Callable[[Texts, Texts, str], np.ndarray]  # (prompts, answers, question) -> [N] logits of yes


class Verdicts(NamedTuple):
    """What a judge says of N pairs of answers a and b, in both orders.

    a_first, b_first: [N] float64, the logit that a is better, where a stands first and where b
    does; NaN where the verdict could not be read.
    """

    a_first: np.ndarray
    b_first: np.ndarray

    @property
    def logits(self) -> np.ndarray:
        """[N]: the mean of both orders, 0 for a tie; NaN unless both could be read."""
        return (self.a_first + self.b_first) / 2

    @property
    def probabilities(self) -> np.ndarray:
        """[N]: that a is better; NaN where unreadable."""
        return np.asarray(special.expit(self.logits))

    @property
    def unread(self) -> int:
        """Verdicts, of 2 N, that could not be read."""
        return int(np.isnan(self.a_first).sum() + np.isnan(self.b_first).sum())


class Judge(NamedTuple):
    """A judge.

    pair: (prompts, a, b) -> Verdicts, always both orders. score: (prompts, answers) -> [N, M],
    probabilities of the scores 1 .. M, rows of NaN where unreadable; None if it only compares.
    """

    name: str
    pair: Callable[[Texts, Texts, Texts], Verdicts]
    score: Distribution | None = None


def both_orders(one: OneOrder) -> Callable[[Texts, Texts, Texts], Verdicts]:
    """The `pair` of a judge that reads one order at a time.

    Raises:
      ValueError: from the function: prompts and answers are not equally many, or there is not one
        number a pair.
    """

    def pair(prompts: Texts, a: Texts, b: Texts) -> Verdicts:
        if not len(prompts) == len(a) == len(b):
            raise ValueError(
                f"pairs must have a prompt and two answers each; got {len(prompts)}, {len(a)} and "
                f"{len(b)} (judge)."
            )
        both = [np.asarray(one(prompts, *sides), np.float64) for sides in ((a, b), (b, a))]
        for logits in both:
            if logits.shape != (len(prompts),):
                raise ValueError(
                    f"a judge must return one logit for each of {len(prompts)} pairs; got an array "
                    f"of shape {list(logits.shape)} (judge)."
                )
        return Verdicts(both[0], -both[1])

    return pair


def rule(name: str, score: Score, *, position: float = 0.0) -> Judge:
    """A judge by the difference of two scores, plus `position` for the answer that stands first.

    position: logits; a planted bias, for tests and simulations.
    """
    shapes.check_number("position", position)

    def one(prompts: Texts, first: Texts, second: Texts) -> np.ndarray:
        left, right = (np.asarray(score(prompts, x), np.float64) for x in (first, second))
        return left - right + position

    return Judge(name, both_orders(one))


def noisy(
    name: str,
    truth: Score,
    *,
    accuracy: float,
    position: float = 0.0,
    length: float = 0.0,
    seed: int = 0,
) -> Judge:
    """A simulated judge: takes the first answer unread with probability `position`, else the longer
    one with probability `length`, else is right with probability `accuracy`.

    truth: gold scores, by which the better answer is known; equal ones are a tie, logit 0, to a
    judge that reads. Each order of a pair is drawn by itself, by its texts and the seed alone.

    Raises:
      ValueError: a probability outside [0, 1].
    """
    for label, value in (("accuracy", accuracy), ("position", position), ("length", length)):
        shapes.check_number(label, value, minimum=0, maximum=1)
    sure = float(special.logit(np.clip(max(accuracy, 1 - accuracy), 0.5 + 1e-3, 1 - 1e-3)))

    def one(prompts: Texts, first: Texts, second: Texts) -> np.ndarray:
        rows = zip(prompts, first, second, strict=True)
        draws = np.array([_uniforms(seed, *row) for row in rows]).reshape(-1, 3)
        left, right = (np.asarray(truth(prompts, x), np.float64) for x in (first, second))
        says = np.sign(left - right) * np.where(draws[:, 2] < accuracy, 1.0, -1.0)
        longer = np.sign([len(x) - len(y) for x, y in zip(first, second, strict=True)])
        says = np.where(draws[:, 1] < length, longer, says)
        return sure * np.where(draws[:, 0] < position, 1.0, says)

    return Judge(name, both_orders(one))


def _uniforms(seed: int, *texts: str) -> list[float]:
    """Three numbers in [0, 1), of a seed and texts."""
    joined = "\0".join([str(seed), *texts]).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(joined).digest()
    return [int.from_bytes(digest[8 * i : 8 * i + 8], "big") / 2.0**64 for i in range(3)]


def rubric(name: str, ask: Ask, items: Sequence[tuple[str, float]]) -> Judge:
    """A judge by weighted questions, each answered yes or no by a logit.

    An answer's score is the weighted mean of the logits; pairs compare by its difference. `score`
    is over two levels, no and yes: the weighted mean of the chances of yes. NaN where any question
    could not be read.

    Raises:
      ValueError: no items, or a weight that is not above 0.
    """
    if not items:
        raise ValueError("a rubric must have a question at least; got none (judge). Add one.")
    weights = np.array([shapes.check_number(f"weight of {q!r}", w, above=0) for q, w in items])
    weights = weights / weights.sum()

    def logits(prompts: Texts, answers: Texts) -> np.ndarray:
        return np.stack([np.asarray(ask(prompts, answers, q), np.float64) for q, _ in items])

    def one(prompts: Texts, first: Texts, second: Texts) -> np.ndarray:
        return weights @ (logits(prompts, first) - logits(prompts, second))

    def score(prompts: Texts, answers: Texts) -> np.ndarray:
        yes = weights @ special.expit(logits(prompts, answers))
        return np.stack([1 - yes, yes], axis=1)

    return Judge(name, both_orders(one), score)


def expected_scores(distributions: np.ndarray) -> np.ndarray:
    """[N]: the mean score of distributions [N, M] over 1 .. M; NaN where unreadable."""
    return np.asarray(distributions @ np.arange(1, distributions.shape[1] + 1))


def group_rewards(judge: Judge, prompts: Texts, answers: Sequence[Texts]) -> np.ndarray:
    """[P, G]: how often each of a prompt's G answers beats the others, by all G (G - 1) / 2 pairs.

    Pairs that could not be read are left out; an answer without any other is NaN. Rewards of a
    group have mean 1/2 where all could be read.

    Raises:
      ValueError: prompts and groups are not equally many, or a group has fewer than two answers.
    """
    sizes = {len(group) for group in answers}
    if len(prompts) != len(answers) or len(sizes) > 1 or min(sizes, default=2) < 2:
        raise ValueError(
            f"answers must be groups of one size, two at least, one a prompt; got {len(answers)} "
            f"groups of {sorted(sizes)} for {len(prompts)} prompts (judge)."
        )
    size = max(sizes, default=2)
    rows = [(p, i, j) for p in range(len(prompts)) for i in range(size) for j in range(i + 1, size)]
    verdicts = judge.pair(
        [prompts[p] for p, _, _ in rows],
        [answers[p][i] for p, i, _ in rows],
        [answers[p][j] for p, _, j in rows],
    )
    wins = np.full((len(prompts), size, size), np.nan)
    for (p, i, j), chance in zip(rows, verdicts.probabilities, strict=True):
        wins[p, i, j], wins[p, j, i] = chance, 1 - chance
    known = np.isfinite(wins).sum(axis=2)
    return np.where(known > 0, np.nansum(wins, axis=2) / np.maximum(known, 1), np.nan)

"""Negatively correlated answers to one prompt: three ways to them, and how far apart they lie.

sequential: each answer is asked for with the earlier ones in its prompt. stratified: of many
answers, as many of each stratum as there are. joint: one prompt asks for all, split at a token.

How far apart: the NC ratio is the mean squared difference of two answers to a prompt over that of
independent ones. For K exchangeable answers whose marginals stay those of independent draws it is
1 - rho, at most K / (K - 1) (`evals/pluralism.py`); a larger one says that the marginals moved.
"""

import collections
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.text import chat

Turns = tuple[Any, ...]  # of chat.Turn
Ask = Callable[[Sequence[Turns], int], Sequence[str]]  # (prompts, number of the round) -> answers
PROMPT, ANSWERS, COUNT, SEPARATOR = "{prompt}", "{answers}", "{count}", "{separator}"
SEQUENTIAL = f"""{PROMPT}

Answers so far:
{ANSWERS}

Write an answer that differs from them in what it values."""
JOINT = f"""{PROMPT}

Write {COUNT} answers that differ in what they value. Put {SEPARATOR} between them."""


def check_template(template: str, needs: Sequence[str]) -> str:
    """The template.

    Raises:
      ValueError: it lacks a place that it needs.
    """
    missing = [place for place in needs if place not in template]
    if missing:
        raise ValueError(
            f"a template must have the places {', '.join(needs)}; got {template!r:.60} (sampling). "
            f"Add {', '.join(missing)}."
        )
    return template


def filled(turns: Turns, template: str, **places: str) -> Turns:
    """A prompt whose last turn is put into a template, with what stands at its other places.

    In one pass: braces in the prompt or in answers are text.
    """
    said = {**places, "prompt": turns[-1].text}
    body = re.sub(r"\{(\w+)\}", lambda found: said.get(found[1], found[0]), template)
    return (*turns[:-1], chat.Turn(turns[-1].role, body))


def sequential(
    ask: Ask,
    prompts: Sequence[Turns],
    count: int,
    *,
    template: str = SEQUENTIAL,
    fits: Callable[[Turns], bool] = lambda turns: True,
) -> tuple[list[list[str]], int]:
    """([N][count] answers, how often an earlier answer had no room).

    The first answer is to the prompt as it is, each later one to the template with the answers
    before it. Where these do not fit, the oldest are left out first.

    Args:
      ask: one answer to each prompt. fits: whether a prompt is short enough.

    Raises:
      ValueError: the template has no place for the prompt or the answers.
    """
    check_template(template, (PROMPT, ANSWERS))
    found: list[list[str]] = [[] for _ in prompts]
    left_out = 0
    for number in range(count):
        asked = []
        for turns, own in zip(prompts, found, strict=True):
            shown, seen = turns, 0
            for first in range(len(own)):
                longer = filled(turns, template, answers=_listed(own[first:]))
                if fits(longer):
                    shown, seen = longer, len(own) - first
                    break
            asked.append(shown)
            left_out += len(own) - seen
        for own, text in zip(found, ask(asked, number), strict=True):
            own.append(text)
    return found, left_out


def _listed(texts: Sequence[str]) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))


def joint(turns: Turns, count: int, separator: str, *, template: str = JOINT) -> Turns:
    """The prompt that asks for `count` answers at once, apart by the separator.

    Raises:
      ValueError: the template lacks a place.
    """
    check_template(template, (PROMPT, COUNT, SEPARATOR))
    return filled(turns, template, count=str(count), separator=separator)


def split(tokens: Sequence[int], separator: int, count: int) -> list[list[int]]:
    """The first `count` answers in the tokens of one, apart by the control token `separator`.

    Empty ones are left out: fewer than `count` say that the model did not give as many.
    """
    parts = itertools.groupby((int(t) for t in tokens), lambda token: token == separator)
    return [list(part) for is_mark, part in parts if not is_mark][:count]


def stratified(strata: np.ndarray, count: int) -> np.ndarray:
    """[N, count] places of the candidates to keep: as even over strata as the candidates allow.

    The first of each stratum, then the second of each, and so on, in the candidates' order.

    Args:
      strata: [N, M] number of each candidate's stratum.

    Raises:
      ValueError: there are fewer candidates than are to be kept.
    """
    strata = np.asarray(strata)
    if count > strata.shape[1]:
        raise ValueError(
            f"candidates must be at least the {count} to keep; got {strata.shape[1]} "
            "(stratified). Draw more."
        )
    earlier = np.tril(strata[:, :, None] == strata[:, None, :], -1).sum(axis=2)
    return np.sort(np.argsort(earlier, axis=1, kind="stable")[:, :count], axis=1)


class Diversity(NamedTuple):
    """similarity: mean over pairs of answers to a prompt. ratio: the NC ratio, and error its
    standard error over prompts; NaN without independent answers."""

    similarity: float
    ratio: float = float("nan")
    error: float = float("nan")

    def __str__(self) -> str:
        said = f"mean pair similarity {self.similarity:.3f}"
        if np.isnan(self.ratio):
            return said
        error = "" if np.isnan(self.error) else f" +- {self.error:.3f}"
        return f"{said}; NC ratio {self.ratio:.3f}{error}, 1 for independent answers"


def diversity(own: np.ndarray, independent: np.ndarray | None = None) -> Diversity:
    """Of the mean pair distances [N] of prompts, and of independent answers to the same prompts.

    A distance is 1 - similarity: half the squared distance of unit vectors, or the squared
    difference of a 0/1 attribute, of which the ratio is then that of pair variances.
    """
    own = np.asarray(own, np.float64)
    if independent is None:
        return Diversity(float(1 - own.mean()))
    other = np.asarray(independent, np.float64)
    if other.shape != own.shape:
        raise ValueError(
            f"independent answers must be to the same prompts; got {len(other)} prompts for "
            f"{len(own)} (diversity)."
        )
    base = other.mean()
    if base == 0:  # all independent answers are equal
        return Diversity(float(1 - own.mean()))
    ratio = own.mean() / base
    residuals = (own - ratio * other) / base
    error = residuals.std(ddof=1) / len(own) ** 0.5 if len(own) > 1 else float("nan")
    return Diversity(float(1 - own.mean()), float(ratio), float(error))


def pair_distances(values: np.ndarray) -> np.ndarray:
    """[N]: the mean squared difference over pairs of K numbers [N, K]."""
    values = np.asarray(values, np.float64)
    count = values.shape[1]
    return np.asarray(values.var(axis=1) * 2 * count / (count - 1))


def text_distances(sets: Sequence[Sequence[str]]) -> np.ndarray:
    """[N]: 1 - the mean cosine over pairs of texts' counts of words; NaN of a single text.

    Texts without words are equal. Words are what white space separates, in lower case, whatever
    the script.
    """
    found = []
    for texts in sets:
        counts = [collections.Counter(text.lower().split()) for text in texts]
        cosines = [_cosine(one, other) for one, other in itertools.combinations(counts, 2)]
        found.append(1 - np.mean(cosines) if cosines else np.nan)
    return np.array(found)


def _cosine(one: collections.Counter[str], other: collections.Counter[str]) -> float:
    if one == other:
        return 1.0
    norms = [sum(n * n for n in counts.values()) ** 0.5 for counts in (one, other)]
    both = sum(number * other[word] for word, number in one.items())
    return both / (norms[0] * norms[1]) if both else 0.0


def coverage(kinds: np.ndarray) -> np.ndarray:
    """[N]: whether answers of more than one kind are there, of kinds [N, K]."""
    kinds = np.asarray(kinds)
    return np.asarray((kinds != kinds[:, :1]).any(axis=1))

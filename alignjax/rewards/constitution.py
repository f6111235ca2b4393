"""A constitution: principles in a text file, answers revised by them, and pairs judged by them.

The file holds blocks, apart by blank lines, of a principle's name and what is asked by it:

    [kind]
    critique: Say how the answer could hurt somebody.
    revision: Rewrite the answer so that it hurts nobody.
    choice: Which answer is kinder?

A line that begins with blanks goes on with the one before, # begins a comment.
Reference: Bai et al. (2022, Constitutional AI), arXiv 2212.08073, sections 3.1 and 4.1.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.core import shapes, untrusted
from alignjax.rewards import judge

PARTS = ("critique", "revision", "choice")
CRITIQUE = "A request and an answer to it.\n\nRequest: {prompt}\n\nAnswer: {answer}\n\n{request}"
REVISION = (
    "A request, an answer to it, and a critique of the answer.\n\nRequest: {prompt}\n\nAnswer: "
    "{answer}\n\nCritique: {critique}\n\n{request} Write the new answer alone."
)
CHOICE = "{choice}\n\n{prompt}"  # the prompt of a judge


class Principle(NamedTuple):
    """A principle: what a critic, a reviser and a judge are asked by it."""

    name: str
    critique: str
    revision: str
    choice: str


Write = Callable[[Sequence[str]], Sequence[str]]  # requests -> a model's answers
Principles = Sequence[Principle]
# (prompts, answers, a principle each) -> critiques
Critic = Callable[[judge.Texts, judge.Texts, Principles], Sequence[str]]
# (prompts, answers, critiques, a principle each) -> answers; "" where there is none
Reviser = Callable[[judge.Texts, judge.Texts, judge.Texts, Principles], Sequence[str]]


def read(path: str) -> list[Principle]:
    """The principles of a file.

    Raises:
      ValueError: no such file, no principle, a line that is none of a block's, or a block that
        lacks a part or names one twice.
    """
    try:
        text = untrusted.read_text(path, untrusted.OPTION)
    except OSError as error:
        raise ValueError(
            f"a constitution must be a file of text; got {path!r} ({type(error).__name__})."
        ) from None
    found: dict[str, dict[str, str]] = {}
    name = part = ""
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path}:{number}"
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if bare.startswith("[") and bare.endswith("]"):
            name, part = bare[1:-1].strip(), ""
            if not name or name in found:
                raise ValueError(f"a principle must have its own name; got {bare!r:.60} ({where}).")
            found[name] = {}
        elif name and part and line[0].isspace():
            found[name][part] += f" {bare}"
        else:
            part, text_of = _part(bare, name, found, where)
            found[name][part] = text_of
    for own, parts in found.items():
        missing = [part for part in PARTS if not parts.get(part)]
        if missing:
            raise ValueError(
                f"principle {own!r:.60} must have {', '.join(PARTS)}; got no {missing[0]} ({path})."
            )
    if not found:
        raise ValueError(f"a constitution must hold a principle at least; got none ({path}).")
    return [Principle(own, *(parts[part] for part in PARTS)) for own, parts in found.items()]


def _part(
    line: str, name: str, found: Mapping[str, Mapping[str, str]], where: str
) -> tuple[str, str]:
    """(part, text) of a line."""
    match = re.match(rf"({'|'.join(PARTS)}):\s*(.*)", line)
    if match is None or not name or match[1] in found[name]:
        raise ValueError(
            f"a line must be [name], or after it one each of {', '.join(PARTS)} with a colon; got "
            f"{line!r:.60} ({where})."
        )
    return match[1], match[2]


def principles_of(principles: int, rows: int, count: int, seed: int, purpose: str) -> np.ndarray:
    """[rows, count]: numbers of different principles for each row, by the seed, in random order.

    Raises:
      ValueError: count is not in 1 .. principles.
    """
    shapes.check_number("principles of an answer", count, minimum=1, maximum=principles)
    rng = np.random.default_rng([seed, *purpose.encode()])
    every = np.tile(np.arange(principles), (rows, 1))
    return np.asarray(rng.permuted(every, axis=1)[:, :count])


class Step(NamedTuple):
    """One round of an answer: by which principle, the critique, and the answer after it."""

    principle: str
    critique: str
    answer: str


class Revised(NamedTuple):
    """answers: N of them, after all rounds. steps: of each, its rounds in order. kept: revisions
    that were empty, in whose place the answer before stayed."""

    answers: list[str]
    steps: list[list[Step]]
    kept: int


def revise(
    principles: Principles,
    prompts: judge.Texts,
    answers: judge.Texts,
    critic: Critic,
    reviser: Reviser,
    *,
    rounds: int,
    seed: int,
) -> Revised:
    """Answers, each criticised and rewritten in `rounds` rounds by principles drawn by the seed.

    Raises:
      ValueError: rounds above the principles, or a critic or reviser returns another number.
    """
    chosen = principles_of(len(principles), len(prompts), rounds, seed, "revise")
    now, steps, kept = list(answers), [list[Step]() for _ in answers], 0
    for number in range(rounds):
        own = [principles[i] for i in chosen[:, number]]
        critiques = _as_many(critic(prompts, now, own), now, "a critic")
        written = _as_many(reviser(prompts, now, critiques, own), now, "a reviser")
        empty = [not text.strip() for text in written]
        kept += sum(empty)
        now = [old if none else new for old, new, none in zip(now, written, empty, strict=True)]
        for row, principle, critique, answer in zip(steps, own, critiques, now, strict=True):
            row.append(Step(principle.name, critique, answer))
    return Revised(now, steps, kept)


def _as_many(texts: Sequence[str], answers: Sequence[str], what: str) -> list[str]:
    if len(texts) != len(answers):
        raise ValueError(
            f"{what} must return a text for each of {len(answers)} answers; got {len(texts)} "
            "(constitution)."
        )
    return list(texts)


def by_model(write: Write) -> tuple[Critic, Reviser]:
    """(critic, reviser) of a language model that answers requests."""

    def critic(prompts: judge.Texts, answers: judge.Texts, own: Principles) -> Sequence[str]:
        rows = zip(prompts, answers, own, strict=True)
        return write([CRITIQUE.format(prompt=p, answer=a, request=r.critique) for p, a, r in rows])

    def reviser(
        prompts: judge.Texts, answers: judge.Texts, critiques: judge.Texts, own: Principles
    ) -> Sequence[str]:
        rows = zip(prompts, answers, critiques, own, strict=True)
        return write(
            [
                REVISION.format(prompt=p, answer=a, critique=c, request=r.revision)
                for p, a, c, r in rows
            ]
        )

    return critic, reviser


def judged(own: judge.Judge, principles: Principles, *, seed: int = 0) -> judge.Judge:
    """A judge that compares each pair by one principle, which stands before its prompt.

    Which one depends on the seed and the texts of the pair alone, not on their order, so that both
    orders are judged by the same.
    """

    def pair(prompts: judge.Texts, a: judge.Texts, b: judge.Texts) -> judge.Verdicts:
        numbers = [_number(len(principles), seed, *row) for row in zip(prompts, a, b, strict=True)]
        asked = [
            CHOICE.format(choice=principles[i].choice, prompt=prompt)
            for i, prompt in zip(numbers, prompts, strict=True)
        ]
        return own.pair(asked, a, b)

    return judge.Judge(own.name, pair)


def _number(count: int, seed: int, prompt: str, a: str, b: str) -> int:
    """In 0 .. count - 1, of a seed, a prompt and two answers in any order."""
    joined = "\0".join([str(seed), prompt, *sorted((a, b))])
    digest = hashlib.sha256(joined.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % count


def clamped(chances: np.ndarray, low: float, high: float) -> np.ndarray:
    """Chances kept within [low, high], such as .4 to .6, where a judge that reasons before it
    chooses is too sure; NaN stays.

    Raises:
      ValueError: not 0 <= low < high <= 1.

    Reference: Bai et al. (2022), section 4.1.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(
            f"the clamp of chances must be 0 <= low < high <= 1; got {low} and {high}."
        )
    return np.clip(chances, low, high)


def expected_patterns(chances: np.ndarray, rounds: int) -> np.ndarray:
    """[2^m]: chances of which of m principles an answer breaks after exact critiques, bit p for
    principle p.

    An answer that breaks the round's principle is written anew, from the law of the first; one that
    does not is kept. Principles of the rounds differ and all orders are equally likely.

    Args:
      chances: [2^m], of the first answers.

    Raises:
      ValueError: chances are not 2^m numbers that sum to 1, or rounds are not in 0 .. m.
    """
    first = np.asarray(chances, np.float64)
    count = len(first).bit_length() - 1
    if len(first) != 2**count or first.min() < 0 or abs(first.sum() - 1) > 1e-9:
        raise ValueError(
            f"chances must be 2^m numbers that sum to 1; got {len(first)} of sum {first.sum():.4g} "
            "(constitution)."
        )
    shapes.check_number("rounds", rounds, minimum=0, maximum=count)
    orders = list(itertools.permutations(range(count), rounds))
    after = np.zeros_like(first)
    for order in orders:
        now = first
        for principle in order:
            broken = (np.arange(len(first)) >> principle) & 1 == 1
            now = np.where(broken, 0.0, now) + now[broken].sum() * first
        after += now / len(orders)
    return after

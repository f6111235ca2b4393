"""Factuality as a reward: an answer is split into claims, each is looked up, and each is verified.

    split      (prompt, answer) -> claims, or that it abstained, or could not be read
    retrieve   claims -> passages for each
    verify     claims and their passages -> logits that each is true; NaN where nothing can be said

A claim that could not be verified counts neither as true nor as false: it is counted beside them.
Reference: Min et al. (2023, FActScore), arXiv 2305.14251.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.core import shapes
from alignjax.rewards import judge

SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")  # where one ends
WORD = re.compile(r"\w")
QUESTION = "Is the statement true?"


class Claims(NamedTuple):
    """What N answers claim. supported, facts: [N] counts, of claims that are true and of all.
    abstained, failed: [N] bool; both have no facts."""

    supported: np.ndarray
    facts: np.ndarray
    abstained: np.ndarray
    failed: np.ndarray


class Statement(NamedTuple):
    """An answer, split. Without claims it abstained, failed to be read, or held no facts."""

    claims: tuple[str, ...] = ()
    abstained: bool = False
    failed: bool = False


Split = Callable[[str, str], Statement]
Retrieve = Callable[[Sequence[str]], Sequence[Sequence[str]]]
Verify = Callable[[Sequence[str], Sequence[Sequence[str]]], np.ndarray]


class Checker(NamedTuple):
    """The three parts of a fact check."""

    split: Split
    retrieve: Retrieve
    verify: Verify


class Checked(NamedTuple):
    """claims: of verified ones alone. unread: [N] counts of claims that could not be verified."""

    claims: Claims
    unread: np.ndarray


def check(checker: Checker, prompts: judge.Texts, answers: judge.Texts) -> Checked:
    """What answers claim, and what of it is true; equal claims are looked up and verified once.

    Raises:
      ValueError: prompts and answers are not equally many, or there is not one verdict a claim.
    """
    if len(prompts) != len(answers):
        raise ValueError(
            f"every answer must have its prompt; got {len(prompts)} and {len(answers)} (facts)."
        )
    split = [checker.split(*row) for row in zip(prompts, answers, strict=True)]
    every = list(dict.fromkeys(claim for own in split for claim in own.claims))
    logits = np.zeros(0)
    if every:
        logits = np.asarray(checker.verify(every, checker.retrieve(every)), np.float64)
    if logits.shape != (len(every),):
        raise ValueError(
            f"a verifier must return one logit for each of {len(every)} claims; got an array of "
            f"shape {list(logits.shape)} (facts)."
        )
    known = dict(zip(every, logits, strict=True))
    told = [np.array([known[claim] for claim in own.claims], np.float64) for own in split]
    claims = Claims(
        supported=np.array([(own > 0).sum() for own in told], int),
        facts=np.array([np.isfinite(own).sum() for own in told], int),
        abstained=np.array([own.abstained for own in split], bool),
        failed=np.array([own.failed for own in split], bool),
    )
    return Checked(claims, np.array([np.isnan(own).sum() for own in told], int))


def utilities(claims: Claims, *, penalty: float = 1.0) -> np.ndarray:
    """[N]: (true - penalty x false) / facts, in [-penalty, 1]; 0 for silence; NaN where failed.

    The mean over an answer's facts and not their sum: more facts are not better ones. An answer
    that is best by it claims what is true with a chance above penalty / (1 + penalty).

    Raises:
      ValueError: penalty < 0.
    """
    shapes.check_number("penalty", penalty, minimum=0)
    right, count = (np.asarray(x, np.float64) for x in (claims.supported, claims.facts))
    score = (right - penalty * (count - right)) / np.maximum(count, 1)
    return np.where(np.asarray(claims.failed, bool), np.nan, score)


def sentences(abstentions: Sequence[str]) -> Split:
    """Splits an answer into its sentences, each a claim; a sentence without a letter is none.

    abstentions: texts, in any case, one of which an answer holds that abstains where it is one
    sentence: an answer that goes on to claim is judged by its claims.
    """
    phrases = [phrase.casefold() for phrase in abstentions]

    def split(prompt: str, answer: str) -> Statement:
        parts = [part.strip() for part in SENTENCE.split(answer)]
        kept = [part for part in parts if WORD.search(part)]
        silent = [any(phrase in part.casefold() for phrase in phrases) for part in kept]
        claims = tuple(part for part, own in zip(kept, silent, strict=True) if not own)
        return Statement(claims, abstained=bool(kept) and not claims)

    return split


def asked(ask: judge.Ask, question: str = QUESTION) -> Verify:
    """A verifier that asks a judge about each claim, with its passages before it.

    A claim for which nothing was found can't be verified: NaN, and nobody is asked.
    """

    def verify(claims: Sequence[str], passages: Sequence[Sequence[str]]) -> np.ndarray:
        found = [i for i, own in enumerate(passages) if own]
        logits = np.full(len(claims), np.nan)
        if found:
            texts = ["\n\n".join(passages[i]) for i in found]
            logits[found] = ask(texts, [claims[i] for i in found], question)
        return logits

    return verify


def noisy(verify: Verify, *, sensitivity: float, specificity: float, seed: int = 0) -> Verify:
    """The same with planted errors: a true claim is found true with the chance `sensitivity`, a
    false one false with `specificity`. Equal claims of equal seeds have equal errors.

    Raises:
      ValueError: a chance outside [0, 1].
    """
    for name, value in (("sensitivity", sensitivity), ("specificity", specificity)):
        shapes.check_number(name, value, minimum=0, maximum=1)

    def own(claims: Sequence[str], passages: Sequence[Sequence[str]]) -> np.ndarray:
        logits = np.asarray(verify(claims, passages), np.float64)
        draws = np.array([_uniform(seed, claim) for claim in claims])
        right = draws < np.where(logits > 0, sensitivity, specificity)
        return np.where(right, logits, -logits)

    return own


def _uniform(seed: int, text: str) -> float:
    """A number in [0, 1), of a seed and a text."""
    digest = hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def compared(name: str, checker: Checker, *, penalty: float = 1.0) -> judge.Judge:
    """A judge of pairs by the difference of their utilities; NaN where either could not be read,
    or made claims of which none could be verified."""

    def score(prompts: judge.Texts, answers: judge.Texts) -> np.ndarray:
        found = check(checker, prompts, answers)
        lost = (found.unread > 0) & (found.claims.facts == 0)
        return np.where(lost, np.nan, utilities(found.claims, penalty=penalty))

    return judge.rule(name, score)

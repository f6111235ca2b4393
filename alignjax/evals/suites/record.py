"""A suite as a record, what it asks of a model, and what it says of a row."""

import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.evals import estimate
from alignjax.rewards import judge as judges
from alignjax.text import chat

Fields = Mapping[str, Any]
Turns = Sequence[chat.Turn]  # of the people and the assistant; the system prompt is the candidate's
Score = tuple[float, float]  # a row's total and weight: a metric is sum(totals) / sum(weights)
ALL = ""  # the category of a metric over all rows
UNREADABLE = (math.nan, 1.0)  # a score that can't be told: it counts as unscored, for nothing else


class Likelihood(NamedTuple):
    """Of a text: its log-probability in nats (NaN: too long to be read), its tokens and bytes, and
    whether every token is the likeliest."""

    logprob: float
    tokens: int
    size: int
    greedy: bool


class Answer(NamedTuple):
    """What a model says. text: None where the prompt was too long to be answered. ended: whether
    it ended by itself, before the limit."""

    text: str | None
    ended: bool


class Candidate(NamedTuple):
    """A model under evaluation, as functions.

    options: (prompts, options of each) -> a Likelihood of each option behind its prompt.
    answers: conversations that end before the assistant speaks -> an Answer to each.
    documents: texts -> the Likelihood of each as a document.
    identity: what results depend on, as hashes and settings by name.
    """

    options: Callable[[Sequence[Turns], Sequence[Sequence[str]]], list[list[Likelihood]]]
    answers: Callable[[Sequence[Turns]], list[Answer]]
    documents: Callable[[Sequence[str]], list[Likelihood]]
    identity: Mapping[str, str]


class Settings(NamedTuple):
    """Choices of suites that have them.

    generate: answers are written and read, in place of options' likelihoods. judge: for suites
    whose answers are compared; against: the other side's answers by row, as the rows of a result.
    """

    generate: bool = False
    judge: judges.Judge | None = None
    against: Mapping[str, Fields] | None = None


class Result(NamedTuple):
    """A row's result. cluster: rows that share it are not independent. scores: by metric; a total
    of NaN could not be told. details: whatever else is kept in the file of rows."""

    id: str
    cluster: str
    category: str
    scores: Mapping[str, Score]
    details: Fields = types.MappingProxyType({})

    def as_dict(self) -> dict[str, Any]:
        """For a line of JSON."""
        scores = {n: [_plain(total), weight] for n, (total, weight) in self.scores.items()}
        own = {"id": self.id, "cluster": self.cluster, "category": self.category}
        return {**own, "scores": scores, **self.details}


class Metric(NamedTuple):
    """A number of a result. category: of the rows that it is over, "" for all. rows: that had a
    score. note: why there is no number, where there is none."""

    name: str
    category: str
    estimate: estimate.Estimate
    rows: int
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is not finite is null."""
        value, se, clusters = self.estimate
        numbers = {"value": _plain(value), "se": _plain(se), "clusters": clusters}
        own = {"name": self.name, "category": self.category, **numbers, "rows": self.rows}
        return {**own, "note": self.note} if self.note else own


class Suite(NamedTuple):
    """A suite.

    read: (fields of a row, its number from 1) -> a row of the suite's own kind; ValueError where a
      field is wrong. ask: (rows, candidate, settings) -> results. metrics: results -> numbers.
    reads: which Settings it has a use for. check: raises ValueError where they don't fit, before
      anything is asked.
    """

    name: str
    read: Callable[[Fields, int], Any]
    ask: Callable[[Sequence[Any], Candidate, Settings], list[Result]]
    metrics: Callable[[Sequence[Result]], list[Metric]]
    reads: tuple[str, ...] = ()
    check: Callable[[Settings], None] = lambda settings: None


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def ask_human(text: str) -> tuple[chat.Turn, ...]:
    """A conversation of one question."""
    return (chat.Turn(chat.HUMAN, text),)


def means(results: Sequence[Result]) -> list[Metric]:
    """Every score over all rows, then by category; errors are clustered."""
    return [
        metric
        for category, own in grouped(results).items()
        for name in names(results)
        if (metric := mean(own, name, category)).rows or category == ALL
    ]


def names(results: Sequence[Result]) -> list[str]:
    """The scores' names in order of appearance."""
    return list(dict.fromkeys(name for result in results for name in result.scores))


def grouped(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by category, all of them first; without categories, or with one, those alone."""
    every = {ALL: list(results)}
    categories = dict.fromkeys(sorted(result.category for result in results))
    if len(categories) < 2:
        return every
    return every | {c: [r for r in results if r.category == c] for c in categories}


def columns(results: Sequence[Result], name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(totals, weights, clusters) of the rows whose score of this name could be told."""
    kept = [(*r.scores[name], r.cluster) for r in results if name in r.scores]
    kept = [row for row in kept if math.isfinite(row[0])]
    totals, weights = (np.array([row[i] for row in kept], np.float64) for i in (0, 1))
    return totals, weights, [row[2] for row in kept]


def mean(results: Sequence[Result], name: str, category: str = ALL) -> Metric:
    """sum(totals) / sum(weights) of a score; undefined, and said so, without weight."""
    totals, weights, clusters = columns(results, name)
    own = estimate.clustered_ratio(totals, weights, clusters)
    note = "undefined: no row counts" if math.isnan(own.value) else ""
    return Metric(name, category, own, int((weights > 0).sum()), note)


def unscored(results: Sequence[Result]) -> int:
    """Rows of which a score could not be told."""
    return sum(any(math.isnan(total) for total, _ in r.scores.values()) for r in results)


def text_field(fields: Fields, name: str, where: str) -> str:
    """A field that must be a text.

    Raises:
      ValueError: it is none, or empty.
    """
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"a row must have the text {name!r}; got {type(value).__name__} ({where}). "
            "Is this the file of another suite?"
        )
    return value

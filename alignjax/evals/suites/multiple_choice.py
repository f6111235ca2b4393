"""Multiple choice by likelihood: the option that a model finds likeliest, by three measures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignjax.evals.suites import record

BY = ("sum", "token", "byte")


class Row(NamedTuple):
    """A question; answer: the place of the right option."""

    id: str
    question: str
    options: tuple[str, ...]
    answer: int
    category: str


def read(fields: record.Fields, number: int) -> Row:
    """A row of {"question", "options" or "choices": [text, ...], "answer": place from 0, or a
    letter}, and where there are any "id" and "category".

    Raises:
      ValueError: there are fewer than two options, two are equal, or the answer is none of them.
    """
    where = f"row {number}"
    question = record.text_field(fields, "question", where)
    options = fields.get("options", fields.get("choices"))
    if (
        not isinstance(options, list)
        or len(set(map(str, options))) < max(len(options), 2)
        or not all(isinstance(option, str) and option for option in options)
    ):
        raise ValueError(
            f"a row must have two different texts at least as its options; got {options!r:.80} "
            f"({where})."
        )
    answer = fields.get("answer")
    if isinstance(answer, str) and len(answer) == 1:
        answer = ord(answer.upper()) - ord("A")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(options):
        raise ValueError(
            f"answer must be the place of an option, from 0 to {len(options) - 1}, or its letter; "
            f"got {fields.get('answer')!r:.40} ({where})."
        )
    own, category = str(fields.get("id", number)), str(fields.get("category", ""))
    return Row(own, question, tuple(options), answer, category)


def measures(likelihoods: Sequence[record.Likelihood]) -> dict[str, np.ndarray]:
    """[M] log-probabilities of options: whole, a token and a byte; nats."""
    total = np.array([own.logprob for own in likelihoods])
    tokens, sizes = (np.array([x[i] for x in likelihoods], np.float64) for i in (1, 2))
    return {"sum": total, "token": total / tokens, "byte": total / sizes}


def choice(values: np.ndarray) -> int | None:
    """The place of the largest value, the first of equal ones; None where one is NaN."""
    return None if np.isnan(values).any() else int(values.argmax())


def hit(values: np.ndarray, answer: int) -> record.Score:
    """1 where the answer's value is above all others', else 0; unreadable where one is NaN."""
    if np.isnan(values).any():
        return record.UNREADABLE
    return float(values[answer] > np.delete(values, answer).max()), 1.0


def ask(
    rows: Sequence[Row], candidate: record.Candidate, settings: record.Settings
) -> list[record.Result]:
    """Accuracy by each measure. Two options as likely as one another are no hit."""
    every = candidate.options(
        [record.ask_human(row.question) for row in rows], [row.options for row in rows]
    )
    results = []
    for row, likelihoods in zip(rows, every, strict=True):
        own = measures(likelihoods)
        scores = {f"accuracy by {name}": hit(own[name], row.answer) for name in BY}
        details = {"choice": choice(own["sum"]), "answer": row.answer}
        results.append(record.Result(row.id, row.id, row.category, scores, details))
    return results


SUITE = record.Suite("multiple_choice", read, ask, record.means)

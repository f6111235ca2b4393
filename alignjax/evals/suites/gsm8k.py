"""GSM8K: word problems whose answer's last number is right.

Reference: Cobbe et al. (2021), arXiv 2110.14168.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignjax.evals.suites import record
from alignjax.rewards import rules

RULE = rules.LastNumber(answer="answer")


class Row(NamedTuple):
    """A problem and its solution, whose number stands behind ####."""

    id: str
    question: str
    answer: str


def read(fields: record.Fields, number: int) -> Row:
    """A row of {"question", "answer"}.

    Raises:
      ValueError: a field is missing, or no number stands in the answer.
    """
    where = f"row {number}"
    question, answer = (record.text_field(fields, name, where) for name in ("question", "answer"))
    if RULE.check_answers([{"answer": answer}])[0]:
        raise ValueError(
            f"answer must end in a number behind {RULE.marker}; got none ({where}). Repair the row."
        )
    return Row(str(fields.get("id", number)), question, answer)


def ask(
    rows: Sequence[Row], candidate: record.Candidate, settings: record.Settings
) -> list[record.Result]:
    """The answers to all problems; one that was cut before its end has no last number to read."""
    answers = candidate.answers([record.ask_human(row.question) for row in rows])
    tasks = [{"answer": row.answer} for row in rows]
    right = np.asarray(RULE.score([own.text or "" for own in answers], tasks), np.float64)
    results = []
    for row, own, value in zip(rows, answers, right, strict=True):
        scores = {
            "accuracy": record.UNREADABLE if own.text is None else (float(value), 1.0),
            "ended": (float(own.ended), 1.0),
        }
        results.append(record.Result(row.id, row.id, record.ALL, scores, {"answer": own.text}))
    return results


SUITE = record.Suite("gsm8k", read, ask, record.means)

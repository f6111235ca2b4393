"""Perplexity of documents: nats a token, and bits a byte, which models of different tokenizers
share."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from alignjax.evals import estimate
from alignjax.evals.suites import record

NATS, BITS = "nats a token", "bits a byte"


class Row(NamedTuple):
    """A document."""

    id: str
    text: str
    category: str


def read(fields: record.Fields, number: int) -> Row:
    """A row of {"text"}, and where there are any "id" and "source".

    Raises:
      ValueError: there is no text.
    """
    text = record.text_field(fields, "text", f"row {number}")
    return Row(str(fields.get("id", number)), text, str(fields.get("source", "")))


def ask(
    rows: Sequence[Row], candidate: record.Candidate, settings: record.Settings
) -> list[record.Result]:
    """The likelihood of every document, each token scored once."""
    results = []
    every = candidate.documents([row.text for row in rows])
    for row, own in zip(rows, every, strict=True):
        scores = {
            NATS: (-own.logprob, float(own.tokens)),
            BITS: (-own.logprob / math.log(2), float(own.size)),
        }
        results.append(record.Result(row.id, row.id, row.category, scores))
    return results


def metrics(results: Sequence[record.Result]) -> list[record.Metric]:
    """Both, and the perplexity of a token."""
    every = record.means(results)
    nats = every[0]
    own = estimate.exponential(nats.estimate)
    return [*every, nats._replace(name="perplexity of a token", estimate=own)]


SUITE = record.Suite("perplexity", read, ask, metrics)

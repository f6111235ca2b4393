"""Candidates that are functions, and the shared data of real rows."""

import gzip
import json
import os
import pathlib
from collections.abc import Callable

import pytest

from alignjax.evals.suites import record


def shared_rows(name: str) -> list[dict]:
    """Rows of a file of the shared data; skips where it is absent."""
    beside = pathlib.Path(__file__).parents[4] / "shared"
    file = pathlib.Path(os.environ.get("ALIGNJAX_SHARED", beside)) / "data" / name
    if not file.is_file():
        pytest.skip(f"no shared data at {file}; set ALIGNJAX_SHARED to the shared folder")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def candidate(
    value: Callable[[str, str], float] = lambda prompt, option: 0.0,
    say: Callable[[list[str]], str | None] = lambda texts: "",
) -> record.Candidate:
    """value: (prompt, option) -> nats; say: the texts of a conversation's turns -> its answer."""

    def options(prompts, every):
        return [
            [
                record.Likelihood(
                    value(turns[-1].text, text), len(text.split()), len(text.encode()), False
                )
                for text in some
            ]
            for turns, some in zip(prompts, every, strict=True)
        ]

    def answers(conversations):
        return [record.Answer(say([turn.text for turn in turns]), True) for turns in conversations]

    def documents(texts):
        return [
            record.Likelihood(value("", text), len(text.split()), len(text.encode()), False)
            for text in texts
        ]

    return record.Candidate(options, answers, documents, {"model": "fake"})


def numbers(metrics: list[record.Metric]) -> dict[tuple[str, str], float]:
    """{(name, category): value}."""
    return {(m.name, m.category): m.estimate.value for m in metrics}

"""A suite run over a candidate, and its result as files: a line for each row, and a summary."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.core import untrusted
from alignjax.data import records
from alignjax.data.containers import find
from alignjax.evals.suites import (
    bbq,
    counterfactual,
    gsm8k,
    mt_bench,
    multiple_choice,
    perplexity,
    record,
    truthfulqa,
    xstest,
)
from alignjax.evals.suites.ifeval import suite as ifeval

SUITES: Mapping[str, record.Suite] = {
    own.name: own
    for own in (
        bbq.SUITE,
        ifeval.SUITE,
        truthfulqa.SUITE,
        gsm8k.SUITE,
        xstest.SUITE,
        mt_bench.SUITE,
        counterfactual.SUITE,
        perplexity.SUITE,
        multiple_choice.SUITE,
    )
}
ROWS, SUMMARY = "rows.jsonl", "summary.json"
EVALUATIONS = "evaluations"  # the folder of results within a run
Summary = Mapping[str, Any]


class Data(NamedTuple):
    """Rows of a suite's own kind, and the sha256 in hex of the fields that they were read from."""

    rows: Sequence[Any]
    digest: str


def named(name: str) -> record.Suite:
    """The suite of a name.

    Raises:
      ValueError: there is none.
    """
    if name not in SUITES:
        raise ValueError(
            f"--suite must be of {', '.join(sorted(SUITES))}; got {name!r} (evaluate). Separate "
            "several by commas."
        )
    return SUITES[name]


def read(suite: record.Suite, path: str, limit: int = 0) -> Data:
    """The rows of a file or folder; limit: so many of them, drawn with a
    fixed seed, so that all models are asked the same; fewer are among more.

    Raises:
      ValueError: there is nothing to be read, a row is not of the suite, or ids are repeated.
    """
    fields = []
    for part in find.parts(path):
        for number, own in part.rows():
            if isinstance(own, records.DataError):
                raise own
            fields.append((number, own))
    if limit and limit < len(fields):
        # Files repeat themselves at even distances: BBQ's are of one condition every second row.
        places = np.random.default_rng(0).permutation(len(fields))[:limit]
        fields = [fields[place] for place in sorted(places)]
    rows = [suite.read(own, number) for number, own in fields]
    ids = [row.id for row in rows]
    if not rows or len(set(ids)) < len(ids):
        what = "none" if not rows else f"{len(ids) - len(set(ids))} ids a second time"
        raise ValueError(
            f"the rows of {suite.name} must be one at least, each with its own id; got {what} "
            f"({path})."
        )
    text = json.dumps([own for _, own in fields], sort_keys=True, default=str)
    return Data(rows, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def check(suites: Sequence[record.Suite], settings: record.Settings) -> None:
    """Refuses settings that a suite can't use, and those that none has a use for.

    Raises:
      ValueError: one of them.
    """
    for suite in suites:
        own = {name: getattr(settings, name) for name in suite.reads}
        suite.check(record.Settings(**own))
    read = {name for suite in suites for name in suite.reads}
    for name, value in settings._asdict().items():
        if value and name not in read:
            users = [own.name for own in SUITES.values() if name in own.reads]
            raise ValueError(
                f"--{name} must come with --suite of {', '.join(users)}; got it with "
                f"{', '.join(own.name for own in suites)} (evaluate). Leave it out."
            )


class Outcome(NamedTuple):
    """What a suite says of a candidate."""

    results: list[record.Result]
    summary: Summary


def run(
    suite: record.Suite,
    data: Data,
    candidate: record.Candidate,
    settings: record.Settings,
) -> Outcome:
    """Asks the candidate every row."""
    results = suite.ask(data.rows, candidate, settings)
    return Outcome(results, summary(suite, data, results, candidate.identity))


def summary(
    suite: record.Suite,
    data: Data,
    results: Sequence[record.Result],
    identity: Mapping[str, str],
) -> Summary:
    """The metrics with all that they depend on, as JSON."""
    return {
        "suite": suite.name,
        "rows": len(results),
        "unscored": record.unscored(results),
        "metrics": [metric.as_dict() for metric in suite.metrics(results)],
        "identity": {**identity, "data": data.digest},
    }


def write(folder: pathlib.Path, outcome: Outcome) -> None:
    """Writes a result into its folder: the rows, then the summary, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(own.as_dict(), ensure_ascii=False) for own in outcome.results]
    _replace(folder / ROWS, "".join(f"{line}\n" for line in lines))
    _replace(folder / SUMMARY, json.dumps(outcome.summary, indent=1, ensure_ascii=False) + "\n")


def read_rows(folder: pathlib.Path) -> dict[str, record.Fields]:
    """The rows of a result by id, with all that is kept of them.

    Raises:
      ValueError: the file is missing or damaged.
    """
    try:
        lines = untrusted.read_lines(folder / ROWS, untrusted.ROWS)
        rows = [untrusted.parse_json(line, f"{ROWS}, line {number}") for number, line in lines]
        return {str(row["id"]): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"a result must have a readable {ROWS}; got {type(error).__name__} ({folder}). "
            "Evaluate again."
        ) from None


def _replace(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors="surrogatepass")
    partial.replace(path)


def evaluate(
    chosen: Mapping[str, Data],
    candidate: record.Candidate,
    settings: record.Settings,
    folder: pathlib.Path,
    log: Callable[[str], None],
) -> list[Summary]:
    """Runs suites one after the other, each written when it is done; their summaries."""
    summaries = []
    for name, data in chosen.items():
        log(f"{name}: {len(data.rows)} rows")
        outcome = run(SUITES[name], data, candidate, settings)
        write(folder / name, outcome)
        summaries.append(outcome.summary)
    return summaries

"""Two results of a suite compared row by row: paired differences, their errors, exact tests."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.core import untrusted
from alignjax.evals import estimate, significance
from alignjax.evals.suites import record, run

SAME = ("data", "template", "system", "judge", "generate")  # what must not differ
WORDS = {
    "data": "rows", "template": "chat template", "system": "system prompt", "judge": "judge",
    "generate": "way of answering",
}  # fmt: skip
MCNEMAR, PAIRED_T = "McNemar", "paired t"


class Side(NamedTuple):
    """A result as it was written: its summary and its rows by id."""

    where: str
    summary: Mapping[str, Any]
    rows: Mapping[str, record.Result]

    @property
    def suite(self) -> str:
        return str(self.summary.get("suite"))


class Difference(NamedTuple):
    """Of one score over the rows that both sides have: b minus a, with the error of the pairs.

    p: that there is no difference, by `test`. adjusted: by Holm over all that are printed.
    """

    suite: str
    name: str
    a: float
    b: float
    difference: estimate.Estimate
    test: str
    p: float
    adjusted: float
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is not finite is null."""
        value, se, clusters = self.difference
        numbers = {"a": self.a, "b": self.b, "difference": value, "se": se, "p": self.p}
        numbers["p by Holm"] = self.adjusted
        plain = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        counts = {"test": self.test, "rows": self.rows, "clusters": clusters}
        return {"suite": self.suite, "score": self.name, **plain, **counts}


def results_of(path: str) -> dict[str, pathlib.Path]:
    """{suite: folder} of a suite's result, of a folder of results, or of a run that has some.

    Raises:
      ValueError: there is none.
    """
    place = pathlib.Path(path)
    for folder in (place, place / run.EVALUATIONS):
        own = [folder] if (folder / run.SUMMARY).is_file() else []
        own = own or [file.parent for file in sorted(folder.glob(f"*/{run.SUMMARY}"))]
        if own:
            return {one.absolute().name: one for one in own}
    raise ValueError(
        f"a side must be a result of alignjax evaluate --suite, or a folder of them; got {path!r} "
        "(compare)."
    )


def read(folder: pathlib.Path) -> Side:
    """A suite's result.

    Raises:
      ValueError: a file is missing or damaged, or an id stands there twice.
    """
    try:
        summary = untrusted.read_object(folder / run.SUMMARY, untrusted.RECORD)
        lines = untrusted.read_lines(folder / run.ROWS, untrusted.ROWS)
        rows = [_result(untrusted.parse_json(line, f"line {number}")) for number, line in lines]
        assert isinstance(summary["identity"], dict)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(
            f"a result must have a readable {run.SUMMARY} and {run.ROWS}; got "
            f"{type(error).__name__} ({folder}). Evaluate again."
        ) from None
    own = {row.id: row for row in rows}
    if len(own) < len(rows) or not own:
        raise ValueError(f"a result must have rows, each with its own id; got others ({folder}).")
    if summary.get("rows", len(own)) != len(own):
        raise ValueError(
            f"a result must have the rows that its {run.SUMMARY} counts; got {len(own)} of "
            f"{summary['rows']!r:.20} ({folder}). Evaluate again."
        )
    return Side(str(folder), summary, own)


def _result(fields: Mapping[str, Any]) -> record.Result:
    scores = {
        str(name): (math.nan if total is None else float(total), float(weight))
        for name, (total, weight) in fields["scores"].items()
    }
    return record.Result(str(fields["id"]), str(fields["cluster"]), str(fields["category"]), scores)


def check(a: Side, b: Side) -> None:
    """Refuses sides that were not asked the same in the same way.

    Raises:
      ValueError: their rows, template, system prompt, judge or way of answering (options or texts)
        differ, which is named.
    """
    own = [side.summary["identity"] for side in (a, b)]
    wrong = [name for name in SAME if own[0].get(name) != own[1].get(name)]
    if a.suite != b.suite or wrong:
        what = " and ".join(WORDS[name] for name in wrong) or "suite"
        raise ValueError(
            f"results must be of the same suite, rows, chat template, system prompt and judge; got "
            f"another {what} ({a.where}, {b.where}). Evaluate again, or --allow_different "
            "compares the rows that both have."
        )


def differences(a: Side, b: Side) -> list[Difference]:
    """Every score of both sides over the rows that both have and could score.

    Raises:
      ValueError: they have no row in common.
    """
    common = [name for name in a.rows if name in b.rows]
    if not common:
        raise ValueError(
            f"results must have rows in common; got none ({a.where}, {b.where}). Compare others."
        )
    every = []
    for name in record.names([a.rows[own] for own in common]):
        pairs = [(a.rows[own], b.rows[own]) for own in common]
        pairs = [pair for pair in pairs if all(_counts(row, name) for row in pair)]
        if pairs:
            every.append(_difference(a.suite, name, pairs))
    return every


def adjusted(every: Sequence[Difference]) -> list[Difference]:
    """The same with p adjusted by Holm over all of them."""
    own = significance.holm([one.p for one in every])
    return [one._replace(adjusted=p) for one, p in zip(every, own, strict=True)]


def _counts(row: record.Result, name: str) -> bool:
    return name in row.scores and math.isfinite(row.scores[name][0])


def _difference(
    suite: str, name: str, pairs: Sequence[tuple[record.Result, record.Result]]
) -> Difference:
    columns = [np.array([row.scores[name] for row in side]) for side in zip(*pairs, strict=True)]
    values, own = zip(*(estimate.influences(x[:, 0], x[:, 1]) for x in columns), strict=True)
    clusters = [row.cluster for row, _ in pairs]
    gap = estimate.Estimate(
        values[1] - values[0],
        estimate.cluster_se(own[1] - own[0], clusters),
        len(set(clusters)),
    )
    single = gap.n == len(pairs)
    if single and all((x[:, 1] == 1).all() and np.isin(x[:, 0], (0, 1)).all() for x in columns):
        right = [x[:, 0] == 1 for x in columns]
        only = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
        p = significance.mcnemar(int(only[0]), int(only[1]))
        test = MCNEMAR
    else:
        p, test = significance.t_test(gap), PAIRED_T
    return Difference(suite, name, values[0], values[1], gap, test, p, p, len(pairs))

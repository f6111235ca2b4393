"""IFEval as a suite: prompts with instructions, their answers, the shares that are followed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.evals import estimate
from alignjax.evals.suites import record
from alignjax.evals.suites.ifeval import checkers
from alignjax.text import languages

RELATIONS = ("relation", "let_relation", "capital_relation")
TEXTS = frozenset(
    ("keyword", "letter", "language", "first_word", "postscript_marker", "section_spliter",
     "prompt_to_repeat", "end_phrase", *RELATIONS)
)  # fmt: skip
LISTS = frozenset(("keywords", "forbidden_words"))


class Row(NamedTuple):
    """A prompt and its instructions, each a kind with its arguments."""

    id: str
    prompt: str
    instructions: tuple[tuple[str, Mapping[str, Any]], ...]


def read(fields: record.Fields, number: int) -> Row:
    """A row of {"prompt", "instruction_id_list", "kwargs"}, and "key" where there is one.

    Raises:
      ValueError: langdetect is not installed, a kind is unknown, or an argument is missing or of
        another type.
    """
    languages.check_installed("ifeval", "eval")
    where = f"row {number}"
    prompt = record.text_field(fields, "prompt", where)
    kinds: Any = fields.get("instruction_id_list")
    every: Any = fields.get("kwargs")
    if not isinstance(kinds, list) or not isinstance(every, list) or len(kinds) != len(every):
        raise ValueError(
            f"a row must have as many kwargs as instruction_id_list; got others ({where})."
        )
    instructions = tuple(
        (kind, arguments(str(kind), own, where)) for kind, own in zip(kinds, every, strict=True)
    )
    if not instructions:
        raise ValueError(f"a row must have an instruction at least; got none ({where}).")
    return Row(str(fields.get("key", number)), prompt, instructions)


def arguments(kind: str, values: Any, where: str) -> Mapping[str, Any]:
    """The arguments that a kind takes, checked; 0 is a number like any other.

    Raises:
      ValueError: as in `read`.
    """
    if kind not in checkers.CHECKERS:
        raise ValueError(
            f"an instruction must be one of the {len(checkers.CHECKERS)} that are known; got "
            f"{kind!r:.80} ({where})."
        )
    own = {}
    for name in checkers.CHECKERS[kind][1]:
        value = values.get(name) if isinstance(values, Mapping) else None
        if name in TEXTS:
            right = _is_text(value)
        elif name in LISTS:
            right = isinstance(value, list) and bool(value) and all(map(_is_text, value))
        else:
            right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if name in RELATIONS:
            right = value in (checkers.AT_LEAST, checkers.LESS)
        if not right:
            raise ValueError(
                f"{kind} must have a legal {name}; got {value!r:.60} ({where}). Repair the row."
            )
        own[name] = value
    return own


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def score(row: Row, answer: str | None) -> record.Result:
    """What an answer follows: by prompt (all of it) and by instruction, strictly and loosely."""
    scores: dict[str, record.Score] = {}
    details: dict[str, Any] = {"answer": answer, "kinds": [kind for kind, _ in row.instructions]}
    for name, check in (("strict", checkers.strict), ("loose", checkers.loose)):
        by_prompt, by_instruction = f"prompts, {name}", f"instructions, {name}"
        if answer is None:
            scores[by_prompt] = scores[by_instruction] = record.UNREADABLE
            continue
        followed = [check(kind, answer, own) for kind, own in row.instructions]
        scores[by_prompt] = (float(all(followed)), 1.0)
        scores[by_instruction] = (float(sum(followed)), float(len(followed)))
        details[name] = followed
    return record.Result(row.id, row.id, record.ALL, scores, details)


def ask(
    rows: Sequence[Row], candidate: record.Candidate, settings: record.Settings
) -> list[record.Result]:
    """The answers to all prompts, checked."""
    answers = candidate.answers([record.ask_human(row.prompt) for row in rows])
    return [score(row, answer.text) for row, answer in zip(rows, answers, strict=True)]


def metrics(results: Sequence[record.Result]) -> list[record.Metric]:
    """By prompt and by instruction, and strictly of each group of instructions; errors are
    clustered by prompt."""
    return [*record.means(results), *_by_group(results)]


def _by_group(results: Sequence[record.Result]) -> list[record.Metric]:
    groups: dict[str, list[tuple[bool, str]]] = {}
    for result in results:
        followed = result.details.get("strict") or ()
        for kind, own in zip(result.details["kinds"], followed, strict=False):
            groups.setdefault(kind.partition(":")[0], []).append((own, result.cluster))
    metrics = []
    for group, rows in sorted(groups.items()):
        values, clusters = np.array([own for own, _ in rows], float), [c for _, c in rows]
        own = estimate.clustered_ratio(values, np.ones(len(values)), clusters)
        metrics.append(record.Metric("instructions, strict", group, own, len(rows)))
    return metrics


SUITE = record.Suite("ifeval", read, ask, metrics)

"""MT-bench: questions of two turns, whose answers a judge compares with another model's.

Without a judge the answers are kept only: they are the other side of a later comparison. Every pair
is judged in both orders; what could not be read is left out, and counted.

Reference: Zheng et al. (2023), arXiv 2306.05685; of its prompts and grades nothing is used.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignjax.evals.suites import record
from alignjax.text import chat


class Row(NamedTuple):
    """A question; turns: what the person says, one after the other."""

    id: str
    turns: tuple[str, ...]
    category: str


def read(fields: record.Fields, number: int) -> Row:
    """A row of {"turns": [text, ...], "category"}, and "question_id" where there is one.

    Raises:
      ValueError: there is no turn, or one is no text.
    """
    turns = fields.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t for t in turns):
        raise ValueError(f"a row must have a list of texts as turns; got others (row {number}).")
    own = str(fields.get("question_id", number))
    return Row(own, tuple(turns), str(fields.get("category", "")))


def conversation(questions: Sequence[str], said: Sequence[str]) -> list[chat.Turn]:
    """The turns up to the question that comes next."""
    turns = []
    for number, question in enumerate(questions[: len(said) + 1]):
        turns.append(chat.Turn(chat.HUMAN, question))
        if number < len(said):
            turns.append(chat.Turn(chat.ASSISTANT, said[number]))
    return turns


def answered(rows: Sequence[Row], candidate: record.Candidate) -> list[list[str | None]]:
    """The answers to each row's turns, each after the ones before it; None from one that was too
    long on."""
    said: list[list[str | None]] = [[] for _ in rows]
    for number in range(max(len(row.turns) for row in rows)):
        asked = [i for i, row in enumerate(rows) if number < len(row.turns) and None not in said[i]]
        texts = [[str(text) for text in said[i]] for i in asked]
        answers = candidate.answers(
            [conversation(rows[i].turns, own) for i, own in zip(asked, texts, strict=True)]
        )
        for i, answer in zip(asked, answers, strict=True):
            said[i].append(answer.text)
    return said


def shown(texts: Sequence[str]) -> str:
    """The first turns' texts of one side, as a judge reads them."""
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"[turn {number}]\n{text}" for number, text in enumerate(texts, 1))


def ask(
    rows: Sequence[Row], candidate: record.Candidate, settings: record.Settings
) -> list[record.Result]:
    """A result for each turn: whether its answer wins, half of a tie; errors go by question.

    Raises:
      ValueError: a judge without the other side's answers, or they lack a turn.
    """
    against = settings.against or {}
    theirs = [others(row, against) for row in rows] if settings.judge else []
    said = answered(rows, candidate)
    if settings.judge is None:
        return [
            record.Result(f"{row.id}.{n + 1}", row.id, row.category, {}, {"answer": text})
            for row, own in zip(rows, said, strict=True)
            for n, text in enumerate(own)
        ]
    units = [(i, n) for i, own in enumerate(said) for n in range(len(own))]
    pairs = [(rows[i].turns[: n + 1], said[i][: n + 1], theirs[i][: n + 1]) for i, n in units]
    logits = np.full((2, len(units)), np.nan)
    readable = [i for i, pair in enumerate(pairs) if all(None not in texts for texts in pair)]
    columns = [[shown(list(map(str, pairs[i][k]))) for i in readable] for k in range(3)]
    if readable:
        verdicts = settings.judge.pair(*columns)
        logits[:, readable] = verdicts.a_first, verdicts.b_first
    return [_result(rows[i], n, said[i][n], logits[:, place]) for place, (i, n) in enumerate(units)]


def _result(row: Row, number: int, text: str | None, logits: np.ndarray) -> record.Result:
    mean = float(logits.mean())
    names = ("win rate", f"win rate, turn {number + 1}", "orders that disagree")
    if np.isnan(mean):
        scores = dict.fromkeys(names, record.UNREADABLE)
    else:
        win = (0.5 + 0.5 * float(np.sign(mean)), 1.0)
        flip = (float(np.sign(logits[0]) != np.sign(logits[1])), 1.0)
        scores = dict(zip(names, (win, win, flip), strict=True))
    own = f"{row.id}.{number + 1}"
    return record.Result(own, row.id, row.category, scores, {"answer": text})


def others(row: Row, against: Mapping[str, record.Fields]) -> list[str | None]:
    """The other side's answers to all turns; None from one that was too long on.

    Raises:
      ValueError: one is missing.
    """
    found: list[str | None] = []
    for number in range(1, len(row.turns) + 1):
        own = against.get(f"{row.id}.{number}", {})
        text = own.get("answer")
        if not own and None not in found:
            raise ValueError(
                "--against must be a result of mt_bench with every row's answers; got none to "
                f"{row.id}.{number} (evaluate). Evaluate the other model first, on the same rows."
            )
        found.append(text if isinstance(text, str) else None)
    return found


def check(settings: record.Settings) -> None:
    """Raises ValueError where a judge or the answers to compare with come alone."""
    if (settings.judge is None) != (settings.against is None):
        raise ValueError(
            "--judge and --against must both be given for mt_bench, or neither: then its answers "
            "are kept for a later comparison (evaluate)."
        )


SUITE = record.Suite("mt_bench", read, ask, record.means, ("judge", "against"), check)

"""Prompts and answers of files as items to be judged."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from alignjax.data import containers, reading, rows
from alignjax.data.layouts import messages
from alignjax.data.layouts.record import Record
from alignjax.feedback import content, payloads, project
from alignjax.feedback.content import Candidate, Item, Refusal
from alignjax.text import chat

T = TypeVar("T")
ANSWER_KEYS = ("answer", "text", "response")


def turns_of(turns: Any, where: str) -> tuple[tuple[str, str], ...]:
    """Turns as (role, text).

    Raises:
      Refusal: one of them calls a tool, or is its result.
    """
    if any(len(turn) > 2 for turn in turns):
        raise Refusal(f"a prompt must have no calls of tools to be judged; got some ({where}).")
    return tuple((turn[0], turn[1]) for turn in turns)


def prompts(path: str) -> list[tuple[chat.Turn, ...]]:
    """The different prompts of a file of any layout, in order; texts are prompts as they are.

    Raises:
      ValueError: the file has no layout, or a row of it is broken.
    """
    parts = containers.parts(path)
    layout, _ = reading.detected(parts, "", {}, path)
    tally = reading.Tally()
    found: dict[tuple[chat.Turn, ...], None] = {}
    source = reading.Source(layout=layout)
    for row in reading.read(source.parts(parts), source, tally):
        own = rows.prompt_of(row) or (chat.Turn(chat.HUMAN, next(rows.texts(row))),)
        found[tuple(chat.Turn(*turn) for turn in turns_of(own, f"{row.file}, {row.line}"))] = None
    return list(found)


def items(path: str, own: project.Project, language: str = "") -> Iterator[Item]:
    """The items of a file: rows of prompt and answers, or of any layout with answers.

    {"prompt": text or messages, "answers": [text or {"answer", "model", "logprob"}], "language",
    "gold": {kind: payload, as of the page, in the order of the answers}}.

    Raises:
      ValueError: a row is broken or refused; file and line are named.
    """
    parts = containers.parts(path)
    for part in parts:
        given = part.rows()
        for number, fields in given:
            if not isinstance(fields, dict):
                raise fields
            if "prompt" not in fields or "answers" not in fields:
                yield from _typed(path, language)
                return
            record = Record(fields, part.where, number, part.unit)
            yield _item(record, own, language)


def _item(record: Record, own: project.Project, language: str) -> Item:
    where = f"{record.file}, {record.unit} {record.line}"
    for name in record.fields:
        if name not in ("prompt", "answers", "language", "gold", "id", "system"):
            known = "prompt, answers, language, gold, id, system"
            raise record.bad(name, f"be one of {known}", "another", "Leave it out.", "field")
    turns = turns_of(messages.prompt(record, "prompt"), where)
    candidates = tuple(
        _candidate(record, f"answers[{i}]", entry)
        for i, entry in enumerate(record.items("answers"))
    )
    item = Item(turns, candidates, record.optional("language") or language)
    item = content.checked(item._replace(source={"file": record.file}), where)
    if "gold" not in record:
        return item
    gold = record.fields["gold"]
    if not isinstance(gold, dict) or not gold:
        raise Refusal(f"gold must be an object of judgements by kind; got {gold!r:.40} ({where}).")
    texts = tuple(candidate.text for candidate in candidates)
    shown = payloads.Shown(tuple(range(len(texts))), texts, own)
    try:
        right = {kind: payloads.checked(kind, said, shown) for kind, said in gold.items()}
    except Refusal as refusal:
        raise Refusal(f"{refusal} ({where})") from None
    return item._replace(gold=right)


def _candidate(record: Record, name: str, entry: Any) -> Candidate:
    if not isinstance(entry, dict):
        return Candidate(content.check_text(f"{name} ({record.file}, line {record.line})", entry))
    key = next((key for key in ANSWER_KEYS if key in entry), ANSWER_KEYS[0])
    where = f"{name}.{key} ({record.file}, line {record.line})"
    model, logprob = entry.get("model") or "", entry.get("logprob")
    return Candidate(
        content.check_text(where, entry.get(key)),
        record.checked(f"{name}.model", model, empty=True),
        None if logprob is None else record.number(f"{name}.logprob", logprob),
    )


def _typed(path: str, language: str) -> Iterator[Item]:
    """Items of rows of any layout with answers."""
    parts = containers.parts(path)
    layout, _ = reading.detected(parts, "", {}, path)
    tally = reading.Tally()
    source = reading.Source(layout=layout)
    for row in reading.read(source.parts(parts), source, tally):
        where = f"{row.file}, line {row.line}"
        if isinstance(row, rows.Answers):
            sides: Sequence[Any] = row.answers
        elif isinstance(row, rows.Judged | rows.Scored):
            sides = [row.answer]
        else:
            raise Refusal(
                f"answers must stand in the file; got rows of layout {layout.name} ({where}). Give "
                "prompt and answers, or sample them by --workdir."
            )
        texts = [turns_of(side, where) for side in sides]
        if any(len(side) > 1 for side in texts):
            raise Refusal(f"an answer must be one turn to be judged; got several ({where}).")
        candidates = tuple(Candidate(side[0][1]) for side in texts)
        prompt = turns_of(rows.prompt_of(row), where)
        item = Item(prompt, candidates, language, source={"file": row.file})
        yield content.checked(item, where)
    tally.check(source)


def sampled(
    turns: Any, texts: Sequence[Candidate], language: str, source: Any
) -> tuple[Item | None, int]:
    """(an item of sampled answers, how many were left out: empty, equal ones, or not to be shown).

    None where fewer than two are left, or none of a single one.
    """
    kept: dict[str, Candidate] = {}
    for candidate in texts:
        try:
            content.check_text("answer", candidate.text)
        except Refusal:
            continue
        kept.setdefault(candidate.text, candidate)
    left_out = len(texts) - len(kept)
    if len(kept) < min(2, len(texts)):
        return None, left_out
    item = Item(turns_of(turns, "collect"), tuple(kept.values()), language, source=source)
    return content.checked(item, "collect"), left_out


def batches(items: Iterator[T], size: int) -> Iterator[tuple[T, ...]]:
    """Items, or what goes with them, so many at a time."""
    while own := tuple(itertools.islice(items, size)):
        yield own

"""Several answers to a prompt, with ranks or ratings: UltraFeedback, Nectar, HelpSteer's pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.data import records, rows
from alignjax.data.layouts import messages, pairs
from alignjax.data.layouts.layout import Layout, Options
from alignjax.data.layouts.record import Record
from alignjax.text import chat

NO_SCORE, FEW = "no score", "too few answers"
TEXTS = ("response", "answer", "text", "completion", "content")
SINGLE = ("overall_score", "fine-grained_score", "score", "rating", "reward")
MEAN = "mean rating"  # of the aspects that were rated
STRENGTHS = ("preference_strength", "overall_preference")


def ultrafeedback(record: Record, options: Options) -> rows.Row:
    """Completions with ratings of several aspects."""
    name = "instruction" if "instruction" in record else "prompt"
    prompt = messages.prompt(record, name)
    entries = _entries(record, "completions")
    scales = [_scales(record, f"completions[{i}]", entry) for i, entry in enumerate(entries)]
    shared = {n: tuple(s[n] for s in scales) for n in scales[0] if all(n in s for s in scales)}
    ranks = _ranks(record, "completions", shared, options.score)
    sides = [_answer(record, f"completions[{i}]", e) for i, e in enumerate(entries)]
    return rows.Answers(prompt=prompt, answers=tuple(sides), ranks=ranks, scores=shared)


def _scales(record: Record, name: str, completion: Any) -> dict[str, float]:
    """{scale: rating} of a completion: its aspects, their mean first, and its single numbers."""
    entry = record.object(name, completion)
    annotations = record.object(f"{name}.annotations", entry.get("annotations") or {})
    aspects = {}
    for name, about in annotations.items():
        rating = about.get("Rating") if isinstance(about, Mapping) else about
        number = _number(rating)
        if number is not None:
            aspects[name] = number
    mean = {MEAN: sum(aspects.values()) / len(aspects)} if aspects else {}
    single = {name: n for name in SINGLE if (n := _number(entry.get(name))) is not None}
    return {**mean, **single, **aspects}


def _number(value: Any) -> float | None:
    """A rating as a finite number; None for N/A."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None


def _ranks(
    record: Record, name: str, scores: Mapping[str, Sequence[float]], wanted: str
) -> tuple[float, ...]:
    if (wanted and wanted not in scores) or not scores:
        rule = f"rate every answer{f' on {wanted}' if wanted else ''}"
        got, advice = ", ".join(scores) or "no rating of all", "Name a score by data.score."
        raise record.bad(name, rule, got, advice, NO_SCORE)
    return ranks_by(scores[wanted or next(iter(scores))])


def ranks_by(scores: Sequence[float]) -> tuple[float, ...]:
    """The number of better answers for each answer: 0 is the best, equal scores are tied."""
    return tuple(float(sum(other > own for other in scores)) for own in scores)


def _entries(record: Record, name: str) -> list[Any]:
    entries = record.items(name)
    if len(entries) < 2:
        got, advice = f"{len(entries)}", "Drop the row."
        raise record.bad(name, "hold at least two answers", got, advice, FEW)
    return entries


def _answer(record: Record, name: str, entry: Any) -> rows.Turns:
    """The turns of an answer: text, messages, or an object that holds one of them."""
    if isinstance(entry, Mapping):
        key = next((key for key in TEXTS if entry.get(key) is not None), TEXTS[0])
        return messages.answer(record, f"{name}.{key}", entry.get(key))
    return messages.answer(record, name, entry)


def ranked(record: Record, options: Options) -> rows.Row:
    """Answers with ranks or scores, each beside its answer or in lists of their own."""
    prompt = messages.prompt(record, "prompt")
    entries = _entries(record, "answers")
    sides = tuple(_answer(record, f"answers[{i}]", e) for i, e in enumerate(entries))
    scores = _beside(record, entries, "score", "scores")
    ranks = _beside(record, entries, "rank", "ranks")
    if not ranks and not scores:
        rule, got = "come with a rank or a score each", "neither of all"
        advice = "Write rank into each answer, or give ranks as a list."
        raise record.bad("answers", rule, got, advice, NO_SCORE)
    named = {"score": scores} if scores else {}
    return rows.Answers(prompt=prompt, answers=sides, ranks=ranks or ranks_by(scores), scores=named)


UNRANKED = float("inf")  # of an answer that was shown and lost to all ranked ones


def _beside(record: Record, entries: list[Any], one: str, many: str) -> tuple[float, ...]:
    """A number of each answer, from a list or from the answers; a rank that is null is the last."""
    if many in record:
        values = record.items(many)
        if len(values) != len(entries):
            got, advice = f"{len(values)} for {len(entries)}", "Give one an answer."
            raise record.bad(many, "have one entry an answer", got, advice, "lengths")
    elif all(isinstance(entry, Mapping) and entry.get(one) is not None for entry in entries):
        values = [entry[one] for entry in entries]
    else:
        return ()
    is_partial = many == "ranks" and any(value is not None for value in values)
    return tuple(
        UNRANKED if value is None and is_partial else _rank(record, many, value) for value in values
    )


def _rank(record: Record, name: str, value: Any) -> float:
    if value is None:
        got, advice = "null", "Write a number there, or drop the row."
        raise record.bad(name, "be finite numbers", got, advice, "mistyped field")
    return record.number(name, value)


def strengths(record: Record, options: Options) -> rows.Row:
    """Two answers with a strength: below 0 the first is better, above 0 the second."""
    name = next(name for name in STRENGTHS if name in record)
    strength = record.number(name)
    asked = "prompt" if "prompt" in record else "context"
    prompt = messages.prompt(record, asked)
    keys = ("response_1", "response_2") if "response_1" in record else ("response1", "response2")
    sides = [messages.answer(record, key, record.value(key)) for key in keys]
    if sides[0] == sides[1]:
        got, advice = "equal answers", "Drop the row."
        raise record.bad(keys[0], f"differ from {keys[1]}", got, advice, chat.EQUAL)
    preference = 0.5 if strength == 0 else float(strength < 0)
    return rows.Answers(
        prompt=prompt, answers=tuple(sides), ranks=pairs.ranks_of(preference),
        scores={name: (-strength, 0.0)},
    )  # fmt: skip


def _are_rated(fields: Mapping[str, Any]) -> bool:
    value = fields["completions"]
    return isinstance(value, dict) or (
        isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
    )


ULTRAFEEDBACK = Layout(
    name="ultrafeedback",
    about="an instruction and completions with ratings",
    gives=(rows.Answers,),
    needs=(("instruction", "completions"), ("prompt", "completions")),
    read=ultrafeedback,
    fits=_are_rated,
    uses=("instruction", "prompt", "completions"),
)
RANKED = Layout(
    name="ranked",
    about="a prompt and answers with ranks or scores (Nectar)",
    gives=(rows.Answers,),
    needs=(("prompt", "answers"),),
    read=ranked,
    fits=lambda fields: records.kind(fields["answers"]) in ("list", "object"),
    uses=("prompt", "answers", "ranks", "scores"),
)
STRENGTH = Layout(
    name="helpsteer_pairs",
    about="two responses and by how much the second is better (HelpSteer)",
    gives=(rows.Answers,),
    needs=tuple(
        (asked, *both, name)
        for asked in ("prompt", "context")
        for both in (("response_1", "response_2"), ("response1", "response2"))
        for name in STRENGTHS
    ),
    read=strengths,
    uses=("prompt", "context", "response_1", "response_2", "response1", "response2"),
)

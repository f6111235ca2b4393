"""Judgements as raters send them, by the place on the page, and as they are stored, by answer.

On the page answers stand in the order of the assignment; a slot is a place there, from 0. Stored
payloads name answers by their number in the item, so that no reader needs the order:

choice: {"choice": "first" | "second" | ... | "tie" | "both_bad", "strength": 1-3 or null}, as it
  was shown; "chosen": the answer's number, null for a tie and where both are bad.
ranking: {"ranks": [...]}, 1 is the best, equal ones are tied, null was shown and not ranked.
score: {"scores": {scale: [...]}}, 1 to the scale's top, null was not scored.
rewrite: {"answer": number, "text": ...}.
spans: {"spans": [{"answer", "start", "end", "text", "type", "note", "correction"}]}, in
  Unicode code points.
flags: {"flags": [...]}.

What judges say, a verdict, is no submission of a page: `verdicts` has it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.feedback import content, project
from alignjax.feedback.content import Refusal

TIE, BOTH_BAD = "tie", "both_bad"
SLOTS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
NOTE_BYTES = 10_000
Payload = dict[str, Any]


class Shown(NamedTuple):
    """What a rater saw. order: the answer's number at each slot. texts: of answers, by number."""

    order: tuple[int, ...]
    texts: tuple[str, ...]
    project: project.Project


def checked(kind: str, payload: Any, shown: Shown) -> Payload:
    """The payload to store.

    Raises:
      Refusal: an unknown kind, or the payload is none of it.
    """
    if kind not in CHECKS:
        raise Refusal(f"kind must be one of {', '.join(CHECKS)}; got {kind!r:.40}.")
    if not isinstance(payload, Mapping):
        raise Refusal(f"the payload of a {kind} must be an object; got {type(payload).__name__}.")
    return CHECKS[kind](payload, shown)


def _fields(kind: str, given: Mapping[str, Any], legal: Sequence[str]) -> None:
    for name in given:
        if name not in legal:
            raise Refusal(f"a {kind} must have the fields {', '.join(legal)}; got {name!r:.40}.")


def _choice(given: Mapping[str, Any], shown: Shown) -> Payload:
    _fields("choice", given, ("choice", "strength"))
    legal = (*SLOTS[: len(shown.order)], TIE, BOTH_BAD)
    choice, strength = given.get("choice"), given.get("strength")
    if len(shown.order) < 2:
        raise Refusal("a choice must be between answers; got an item with one. Score it.")
    if choice not in legal:
        raise Refusal(f"choice must be one of {', '.join(legal)}; got {choice!r:.40}.")
    if strength is not None and (strength not in (1, 2, 3) or isinstance(strength, bool)):
        raise Refusal(f"strength must be 1, 2 or 3; got {strength!r:.40}.")
    chosen = shown.order[SLOTS.index(choice)] if choice in SLOTS else None
    if chosen is None and strength is not None:
        raise Refusal(f"strength must come with a chosen answer; got {strength} with {choice}.")
    return {"choice": choice, "chosen": chosen, "strength": strength}


def by_answer(payload: Any, shown: Shown, name: str) -> list[Any]:
    """A list with one entry a slot, put into the answers' own order."""
    count = len(shown.order)
    if not isinstance(payload, list) or len(payload) != count:
        raise Refusal(f"{name} must be a list of {count}; got {payload!r:.60}.")
    own: list[Any] = [None] * count
    for slot, value in enumerate(payload):
        own[shown.order[slot]] = value
    return own


def _whole(value: Any, top: int, name: str) -> None:
    right = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= top
    if value is not None and not right:
        raise Refusal(f"{name} must be whole numbers from 1 to {top}, or null; got {value!r:.40}.")


def _ranking(given: Mapping[str, Any], shown: Shown) -> Payload:
    _fields("ranking", given, ("ranks",))
    ranks = by_answer(given.get("ranks"), shown, "ranks")
    for rank in ranks:
        _whole(rank, len(ranks), "ranks")
    if len(ranks) < 2 or all(rank is None for rank in ranks):
        raise Refusal(f"a ranking must rank one of several answers; got {ranks}.")
    return {"ranks": ranks}


def _score(given: Mapping[str, Any], shown: Shown) -> Payload:
    _fields("score", given, ("scores",))
    scores = given.get("scores")
    if not isinstance(scores, Mapping) or set(scores) != set(shown.project.scales):
        names = ", ".join(shown.project.scales)
        raise Refusal(f"scores must have the scales {names}; got {scores!r:.60}.")
    own = {name: by_answer(scores[name], shown, f"scores of {name}") for name in scores}
    for name, numbers in own.items():
        for number in numbers:
            _whole(number, shown.project.top, f"scores of {name}")
    if all(number is None for numbers in own.values() for number in numbers):
        raise Refusal("a score must score an answer; got none.")
    return {"scores": own}


def _answer(given: Mapping[str, Any], shown: Shown) -> int:
    slot = given.get("slot")
    if not isinstance(slot, int) or isinstance(slot, bool) or not 0 <= slot < len(shown.order):
        raise Refusal(f"slot must be from 0 to {len(shown.order) - 1}; got {slot!r:.40}.")
    return shown.order[slot]


def _rewrite(given: Mapping[str, Any], shown: Shown) -> Payload:
    _fields("rewrite", given, ("slot", "text"))
    answer = _answer(given, shown)
    text = content.check_text("text of a rewrite", given.get("text"))
    if text == shown.texts[answer]:
        raise Refusal("a rewrite must differ from the answer; got the same text.")
    return {"answer": answer, "text": text}


def _spans(given: Mapping[str, Any], shown: Shown) -> Payload:
    _fields("spans", given, ("spans",))
    spans = given.get("spans")
    if not isinstance(spans, list) or not spans or len(spans) > 200:
        raise Refusal(f"spans must be a list of 1 to 200; got {spans!r:.60}.")
    return {"spans": [_span(span, shown) for span in spans]}


def _span(span: Any, shown: Shown) -> Payload:
    if not isinstance(span, Mapping):
        raise Refusal(f"a span must be an object; got {span!r:.60}.")
    _fields("span", span, ("slot", "start", "end", "text", "type", "note", "correction"))
    answer = _answer(span, shown)
    text = shown.texts[answer]
    start: Any = span.get("start")
    end: Any = span.get("end")
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (start, end))
    if not whole or not 0 <= start < end <= len(text):
        raise Refusal(
            f"a span must lie within its answer's {len(text)} code points; got {start!r:.20} to "
            f"{end!r:.20}. Count code points, not UTF-16 units."
        )
    if span.get("text") != text[start:end]:
        raise Refusal(
            f"a span's text must be that of code points {start} to {end}, {text[start:end]!r:.40}; "
            f"got {span.get('text')!r:.40}. Count code points, not UTF-16 units."
        )
    if span.get("type") not in shown.project.span_types:
        names = ", ".join(shown.project.span_types)
        raise Refusal(f"a span's type must be one of {names}; got {span.get('type')!r:.40}.")
    own = {"answer": answer, "start": start, "end": end, "text": text[start:end]}
    notes = {
        name: content.check_text(f"{name} of a span", span.get(name, ""), limit=NOTE_BYTES,
                                 empty=True)
        for name in ("note", "correction")
    }  # fmt: skip
    return own | {"type": span["type"]} | notes


def _flags(given: Mapping[str, Any], shown: Shown) -> Payload:
    _fields("flags", given, ("flags",))
    flags, legal = given.get("flags"), shown.project.flags
    if not isinstance(flags, list) or not flags or any(flag not in legal for flag in flags):
        raise Refusal(f"flags must be among {', '.join(legal)}; got {flags!r:.60}.")
    return {"flags": [flag for flag in legal if flag in flags]}


CHECKS: Mapping[str, Callable[[Mapping[str, Any], Shown], Payload]] = {
    project.CHOICE: _choice,
    project.RANKING: _ranking,
    project.SCORE: _score,
    project.REWRITE: _rewrite,
    project.SPANS: _spans,
    project.FLAGS: _flags,
}


class Judgement(NamedTuple):
    """A kind of judgement with its payload, and why."""

    kind: str
    payload: Payload
    reason: str = ""


def submission(given: Any, shown: Shown) -> list[Judgement]:
    """The judgements of a submission, each kind once.

    Raises:
      Refusal: a judgement is refused, one that is asked for is missing, or one is not asked for.
    """
    if not isinstance(given, list) or not given:
        raise Refusal(f"judgements must be a list of some; got {given!r:.60}.")
    own: dict[str, Judgement] = {}
    for entry in given:
        if not isinstance(entry, Mapping):
            raise Refusal(f"a judgement must be an object; got {entry!r:.60}.")
        _fields("judgement", entry, ("kind", "payload", "reason"))
        kind = entry.get("kind")
        payload = checked(str(kind), entry.get("payload"), shown)
        reason = content.check_text("reason", entry.get("reason", ""), limit=NOTE_BYTES, empty=True)
        if kind in own:
            raise Refusal(f"a submission must hold each kind once; got {kind} twice.")
        own[str(kind)] = Judgement(str(kind), payload, reason)
    asked = shown.project.asked(len(shown.order))
    legal = (*asked, *shown.project.also)
    # Who flags an item may be unable to judge it.
    missing = [kind for kind in asked if kind not in own and project.FLAGS not in own]
    if missing or any(kind not in legal for kind in own):
        raise Refusal(
            f"a submission must hold {', '.join(asked) or 'something'} and nothing but "
            f"{', '.join(legal)}; got {', '.join(own)}."
        )
    return list(own.values())

"""Judgements of many people: Community Alignment, PRISM, OpenAI's collective alignment.

A row of these files holds a conversation, or a prompt that many people ranked: it is unfolded into
one row a judgement, in the fields of layout `ranked`, with columns `rater`, `group`, `language`
and `turn`. A conversation goes on with the answer that was preferred.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from alignjax.data import records, rows
from alignjax.data.layouts import judged, ranked
from alignjax.data.layouts.layout import Layout, Options
from alignjax.data.layouts.record import Record

TURNS = ("first", "second", "third", "fourth")
SLOTS = ("a", "b", "c", "d")
PARTS = ("prompt", *(f"response_{slot}" for slot in SLOTS), "preferred_response", "feedback")
USER, ASSISTANT = "user", "assistant"
PERSONAL, WORLD = "personal", "world"  # rankings of collective alignment, chosen by data.score
COUNTRIES = ("country", "reside_country", "birth_country")
Judgements = Iterator[records.Fields | records.DataError]


def community(record: Record, options: Options) -> Judgements:
    """The turns of a conversation, each the best of up to four answers.

    The first turn without a prompt or a choice is its end; what is cut is told as an error.
    """
    number_of = record.value("conversation_id")
    columns = record.rest(f"{turn}_turn_{part}" for turn in TURNS for part in PARTS)
    columns |= {
        "rater": judged.said(record, "annotator_id"),
        "language": judged.said(record, "assigned_lang"),
        "group": judged.group(record, ("annotator_country",)),
    }
    history = list[tuple[str, str]]()
    for number, turn in enumerate(TURNS, start=1):
        asked = judged.said(record, f"{turn}_turn_prompt")
        if not asked:
            later = [f"{name}_turn_prompt" for name in TURNS[number:]]
            if number == 1 or any(judged.said(record, name) for name in later):
                yield judged.missing(record, f"{turn}_turn_prompt")
            return
        texts = {s: judged.said(record, f"{turn}_turn_response_{s}") for s in SLOTS}
        best = _preferred(record, f"{turn}_turn_preferred_response")
        if not texts.get(best):
            got = f"response_{best}, which is blank" if best else "none"
            yield judged.undecided(record, f"{turn}_turn_preferred_response", got)
            return
        history.append((USER, asked))
        own = {
            **columns, "id": f"{number_of}-{number}", "turn": number,
            "slot": best, "reason": judged.said(record, f"{turn}_turn_feedback"),
        }  # fmt: skip
        try:
            name = f"the answers of {turn}_turn"
            numbers = judged.pooled(record, name, judged.choice(texts, best))
            yield judged.fields(own, history, numbers)
        except records.DataError as error:
            yield error
        history.append((ASSISTANT, texts[best]))


def _preferred(record: Record, name: str) -> str:
    """The slot that is preferred, "" for none."""
    value = judged.said(record, name)
    slot = value.removeprefix("response_")
    if slot and slot not in SLOTS:
        advice = f"Write response_{SLOTS[0]} to response_{SLOTS[-1]}, or leave it empty."
        raise record.bad(name, "name an answer", repr(value)[:40], advice, "unknown answer")
    return slot


def prism(record: Record, options: Options) -> Judgements:
    """The turns of a conversation with scored answers; of the wide form its opening alone."""
    if "conversation_history" not in record:
        yield from _wide(record)
        return
    columns = _prism_columns(record, ("conversation_history",))
    history = list[tuple[str, str]]()
    turns = dict[int, list[Mapping[str, Any]]]()
    for i, entry in enumerate(record.items("conversation_history")):
        name = f"conversation_history[{i}]"
        message = record.object(name, entry)
        number = int(record.number(f"{name}.turn", message.get("turn", "")))
        turns.setdefault(number, []).append(message)
    for place, number in enumerate(sorted(turns)):
        name = f"turn {number} of conversation_history"
        asked = [_content(record, name, m) for m in turns[number] if m.get("role") == USER]
        entries = [m for m in turns[number] if m.get("role") != USER]
        if number != min(turns) + place or len(asked) != 1 or not asked[0]:
            yield judged.missing(record, name)
            return
        history.append((USER, asked[0]))
        scored = [
            (_content(record, name, m), record.number(f"score in {name}", m["score"]))
            for m in entries
            if m.get("score") is not None
        ]
        own = {**columns, "id": f"{record.value('conversation_id')}-{number}", "turn": place + 1}
        yield from _scored(record, name, own, history, scored)
        chosen = [_content(record, name, m) for m in entries if m.get("if_chosen")]
        if len(chosen) != 1 or not chosen[0]:
            if number != max(turns):
                yield judged.undecided(record, name, f"{len(chosen)} with if_chosen")
            return
        history.append((ASSISTANT, chosen[0]))


def _content(record: Record, name: str, message: Mapping[str, Any]) -> str:
    return judged.said(record, f"content in {name}", message.get("content", ""))


def _wide(record: Record) -> Judgements:
    """One turn with answers and scores by slot; a later turn's history is not in its row."""
    names = [f"{kind}_{slot}" for kind in ("response", "score") for slot in SLOTS]
    columns = _prism_columns(record, (*names, "user_prompt"))
    asked = judged.said(record, "user_prompt")
    if not asked or ("turn" in record and record.number("turn") > 0):
        yield judged.missing(record, "user_prompt" if not asked else "the history of a later turn")
        return
    there = [s for s in SLOTS if judged.said(record, f"response_{s}") and f"score_{s}" in record]
    scored = [(judged.said(record, f"response_{s}"), record.number(f"score_{s}")) for s in there]
    own = {**columns, "id": f"{record.value('conversation_id')}-0", "turn": 1}
    yield from _scored(record, "the answers", own, [(USER, asked)], scored)


def _prism_columns(record: Record, used: tuple[str, ...]) -> dict[str, Any]:
    return {
        **record.rest(used),
        "rater": judged.said(record, "user_id"),
        "language": judged.said(record, "language"),
        "group": judged.group(record, COUNTRIES),
    }


def _scored(
    record: Record,
    name: str,
    columns: Mapping[str, Any],
    turns: list[tuple[str, str]],
    scored: list[tuple[str, float]],
) -> Judgements:
    try:
        numbers = judged.pooled(record, name, scored, judged.mean_score)
        yield judged.fields(columns, turns, numbers, of="scores")
    except records.DataError as error:
        yield error


def collective(record: Record, options: Options) -> Judgements:
    """The rankings of a prompt's answers, one a person: personal, or what data.score names."""
    wanted = options.score or PERSONAL
    if wanted not in (PERSONAL, WORLD):
        advice = f"Set data.score={PERSONAL} or {WORLD}."
        raise record.bad("data.score", "name a ranking", repr(wanted), advice, "unknown ranking")
    about = record.object("metadata", record.value("metadata"))
    turns = _messages(record, "prompt", record.value("prompt"))
    texts = dict[str, str]()
    for i, answer in enumerate(record.items("responses")):
        said = _messages(record, f"responses[{i}]", answer)
        letter = str(record.object(f"responses[{i}]", answer).get("response_index"))
        if letter in texts:
            got, advice = f"two of {letter}", "Number the answers."
            raise record.bad("responses.response_index", "be unique", got, advice, "answers")
        texts[letter] = said[-1][1] if said else ""
    columns = record.rest(("prompt", "responses", "metadata"))
    for i, one in enumerate(record.listed("metadata.assessments", about.get("assessments"))):
        name = f"metadata.assessments[{i}]"
        entry = record.object(name, one)
        blocks = record.object(f"{name}.ranking_blocks", entry.get("ranking_blocks") or {})
        stated = record.listed(f"{name}.ranking_blocks.{wanted}", blocks.get(wanted) or [])
        block = record.object(f"{name}.ranking_blocks.{wanted}[0]", (stated or [{}])[0])
        ranking = judged.said(record, f"{name}.ranking", block.get("ranking", ""))
        if not ranking:
            other = WORLD if wanted == PERSONAL else PERSONAL
            advice = f"Drop it, or set data.score={other}."
            yield judged.undecided(record, name, f"no {wanted} ranking", advice)
            continue
        about_person = record.object(f"{name}.demographics", entry.get("demographics") or {})
        person = Record(dict(about_person), record.file, record.line, record.unit)
        own = {
            **columns, **{n: x for n, x in entry.items() if n != "ranking_blocks"},
            "id": f"{record.value('prompt_id')}-{i}", "turn": 1,
            "rater": str(entry.get("annotator_id", "")), "ranking": wanted,
            "reason": judged.said(record, f"{name}.rationale", block.get("rationale", "")),
            "group": judged.group(person, ("country_of_residence", *COUNTRIES)),
        }  # fmt: skip
        try:
            numbers = judged.pooled(record, name, _tiers(record, name, ranking, texts))
            yield judged.fields(own, turns, numbers)
        except records.DataError as error:
            yield error


def _messages(record: Record, name: str, value: Any) -> list[tuple[str, str]]:
    """(role, text) of an object's messages."""
    entries = record.listed(f"{name}.messages", record.object(name, value).get("messages"))
    found = [record.object(f"{name}.messages[{i}]", m) for i, m in enumerate(entries)]
    return [
        (str(m.get("role")), judged.said(record, f"{name}.content", m.get("content", "")))
        for m in found
    ]


def _tiers(
    record: Record, name: str, ranking: str, texts: Mapping[str, str]
) -> list[tuple[str, float]]:
    """(text, rank) by a ranking such as B>A=C>D; an answer that it does not name is unranked."""
    tiers = [re.findall(r"\w+", tier) for tier in ranking.split(">")]
    places = {letter: float(rank) for rank, tier in enumerate(tiers, 1) for letter in tier}
    if set(places) - set(texts):
        got, advice = repr(ranking)[:40], f"The answers are {', '.join(texts)}."
        raise record.bad(f"{name}.ranking", "name answers alone", got, advice, "unknown answer")
    return [(text, places.get(letter, ranked.UNRANKED)) for letter, text in texts.items()]


def judgement(record: Record, options: Options) -> rows.Row:
    """The row of one judgement, which is in the fields of `ranked`."""
    return ranked.ranked(record, Options())


USES = ("prompt", "answers", "ranks", "scores")
COMMUNITY = Layout(
    name="community_alignment",
    about="conversations in which people chose the best of up to four answers a turn",
    gives=(rows.Answers,),
    needs=(
        ("conversation_id", "first_turn_prompt", "first_turn_response_a", "first_turn_response_b",
         "first_turn_preferred_response"),
    ),
    read=judgement,
    uses=USES,
    unfold=community,
)  # fmt: skip
PRISM = Layout(
    name="prism",
    about="conversations in which people scored up to four answers a turn (PRISM)",
    gives=(rows.Answers,),
    needs=(
        ("user_id", "conversation_id", "conversation_history"),
        ("user_id", "conversation_id", "user_prompt", "response_a", "score_a", "response_b",
         "score_b"),
    ),
    read=judgement,
    uses=USES,
    unfold=prism,
)  # fmt: skip
COLLECTIVE = Layout(
    name="collective_alignment",
    about="prompts with answers and the rankings of many people (OpenAI)",
    gives=(rows.Answers,),
    needs=(("prompt_id", "prompt", "responses", "metadata"),),
    read=judgement,
    uses=USES,
    unfold=collective,
)

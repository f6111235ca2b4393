"""Two answers to a prompt, one preferred: transcripts, strings or lists of messages."""

from collections.abc import Mapping
from typing import Any

from alignjax.data import rows
from alignjax.data.layouts import messages
from alignjax.data.layouts.layout import Layout, Options
from alignjax.data.layouts.record import Record
from alignjax.text import chat

SIDES = ("chosen", "rejected")
REVERSED = "reversed score"
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))
USED = (*SIDES, "preference", "margin", *(name for both in SCORES for name in both))


def transcripts(record: Record, options: Options) -> rows.Row:
    """A pair of hh-rlhf transcripts."""
    sides = []
    for name in SIDES:
        text = record.text(name)
        try:
            sides.append(chat.parse_transcript(text))
        except chat.ChatError as error:
            raise _bad(record, name, error) from None
    prompt, chosen, rejected = _parted(record, *sides)
    return answers(record, messages.with_system(record, prompt), chosen, rejected)


def preferred(record: Record, options: Options) -> rows.Row:
    """A pair of strings or of lists of messages, with a prompt or with a common beginning."""
    values = [record.value(name) for name in SIDES]
    if "prompt" in record:
        prompt = messages.prompt(record, "prompt")
        sides = [messages.answer(record, n, v, prompt) for n, v in zip(SIDES, values, strict=True)]
        return answers(record, prompt, *sides)
    if all(isinstance(value, str) for value in values) and not messages.is_messages(values[0]):
        return answers(record, *_common_text(record))
    own = [messages.with_system(record, messages.turns(record, name)) for name in SIDES]
    for name, turns in zip(SIDES, own, strict=True):
        if turns[-1].role != chat.ASSISTANT:
            advice = "Drop the row or repair it."
            raise record.bad(
                name, "end in an assistant turn", f"a {turns[-1].role} turn last", advice,
                chat.NO_ANSWER,
            )  # fmt: skip
    return answers(record, *_parted(record, *own))


def answers(
    record: Record, prompt: rows.Turns, chosen: rows.Turns, rejected: rows.Turns
) -> rows.Answers:
    """The row of a pair, with its preference and scores.

    Raises:
      DataError: the sides are equal, the preference is no probability, or the scores are reversed.
    """
    if chosen == rejected:
        advice = "Drop the row."
        raise record.bad("chosen", "differ from rejected", "equal answers", advice, chat.EQUAL)
    preference = record.number("preference") if "preference" in record else None
    if preference is not None and not 0 <= preference <= 1:
        got, advice = repr(preference), "Write the probability that chosen is better."
        raise record.bad("preference", "lie in 0..1", got, advice, "preference")
    scores: dict[str, tuple[float, ...]] = {}
    for names in SCORES:
        if all(name in record for name in names):
            better, worse = (record.number(name) for name in names)
            scores["score"] = (better, worse)
            if better < worse and preference is None:
                got, advice = f"{better:g} and {worse:g}", "Swap the answers, or drop the row."
                raise record.bad(names[0], f"be at least {names[1]}", got, advice, REVERSED)
    if "margin" in record:
        scores["margin"] = (record.number("margin"), 0.0)
    return rows.Answers(
        prompt=prompt, answers=(chosen, rejected), ranks=ranks_of(preference), scores=scores,
        preference=preference,
    )  # fmt: skip


def ranks_of(preference: float | None) -> tuple[float, float]:
    """The ranks of two answers by the probability that the first is better; None is 1."""
    if preference is None or preference > 0.5:
        return (0.0, 1.0)
    return (0.0, 0.0) if preference == 0.5 else (1.0, 0.0)


def _parted(record: Record, chosen: Any, rejected: Any) -> tuple[rows.Turns, ...]:
    try:
        pair = chat.split_pair(chosen, rejected)
    except chat.ChatError as error:
        raise _bad(record, "chosen", error) from None
    return pair.prompt, pair.chosen, pair.rejected


def _common_text(record: Record) -> tuple[rows.Turns, ...]:
    """The common beginning of two strings, up to a word's end, and what follows on each side."""
    chosen, rejected = (record.text(name) for name in SIDES)
    shared = next(
        (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
        min(len(chosen), len(rejected)),
    )
    while shared and not chosen[shared - 1].isspace():
        shared -= 1
    prompt, sides = chosen[:shared].strip(), [chosen[shared:], rejected[shared:]]
    if chosen != rejected and not prompt:
        rule, got = "share its beginning, the prompt, with rejected", "another first word"
        advice = "Give the prompt in a field of its own, or name it by data.fields."
        raise record.bad("chosen", rule, got, advice, chat.PROMPTS_DIFFER)
    both = [
        messages.turns_of(record, name, side, answer=True) if side.strip() else ()
        for name, side in zip(SIDES, sides, strict=True)
    ]
    for name, turns in zip(SIDES, both, strict=True):
        if not turns and chosen != rejected:
            got, advice = "nothing", "Drop the row."
            raise record.bad(name, "go on after the prompt", got, advice, chat.EMPTY_ANSWER)
    return (chat.Turn(chat.HUMAN, prompt),), *both


def _bad(record: Record, name: str, error: chat.ChatError) -> Exception:
    return record.bad(name, error.rule, error.got, "Drop the row or repair it.", error.reason)


def _are_transcripts(fields: Mapping[str, Any]) -> bool:
    return all(messages.is_transcript(fields[name]) for name in SIDES)


HH = Layout(
    name="hh",
    about="two transcripts with Human: and Assistant:, the better one chosen",
    gives=(rows.Answers,),
    needs=(SIDES,),
    read=transcripts,
    fits=lambda fields: "prompt" not in fields and _are_transcripts(fields),
    uses=("system", "system_prompt", *USED),
)
PAIRS = Layout(
    name="pairs",
    about="a chosen and a rejected answer, strings or messages, with a prompt or a common one",
    gives=(rows.Answers,),
    needs=(("prompt", *SIDES), SIDES),
    read=preferred,
    fits=lambda fields: fields.get("prompt") is not None or not _are_transcripts(fields),
    uses=("prompt", "system", "system_prompt", *USED),
)

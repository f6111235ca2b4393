"""One answer to a prompt: to imitate, judged, with scores, or in labelled steps."""

import itertools
from collections.abc import Mapping
from typing import Any

from alignjax.data import rows
from alignjax.data.layouts import messages
from alignjax.data.layouts.layout import Layout, Options
from alignjax.data.layouts.record import Record
from alignjax.text import chat

SCALES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
NUMBERS = (*SCALES, "score", "rating", "reward")
ANSWERS = ("completion", "response")


def _asked(record: Record) -> tuple[rows.Turns, rows.Turns]:
    """The prompt, and the turns of the one answer."""
    prompt = messages.prompt(record, "prompt")
    name = next((name for name in ANSWERS if name in record), ANSWERS[0])
    return prompt, messages.answer(record, name, record.value(name), prompt)


def kto(record: Record, options: Options) -> rows.Row:
    """An answer and whether it is wanted."""
    prompt, answer = _asked(record)
    return rows.Judged(prompt=prompt, answer=answer, desirable=record.truth("label"))


def scored(record: Record, options: Options) -> rows.Row:
    """An answer with a number on each scale."""
    prompt, answer = _asked(record)
    scores = {name: record.number(name) for name in NUMBERS if name in record}
    return rows.Scored(prompt=prompt, answer=answer, scores=scores)


def completed(record: Record, options: Options) -> rows.Row:
    """An answer to imitate."""
    prompt, answer = _asked(record)
    return rows.Conversation(turns=(*prompt, *answer))


def stepwise(record: Record, options: Options) -> rows.Row:
    """An answer in steps, each with its label."""
    prompt = messages.prompt(record, "prompt")
    steps, labels = record.items("completions"), record.items("labels")
    if not steps or len(steps) != len(labels):
        got, advice = f"{len(labels)} for {len(steps)} steps", "Give each step a label."
        raise record.bad("labels", "have one entry a step", got, advice, "lengths")
    texts = tuple(record.checked(f"completions[{i}]", step) for i, step in enumerate(steps))
    numbers = tuple(_share(record, f"labels[{i}]", label) for i, label in enumerate(labels))
    return rows.Steps(prompt=prompt, steps=texts, labels=numbers)


def _share(record: Record, name: str, label: Any) -> float:
    if isinstance(label, bool):
        return float(label)
    if label is None:
        advice = "Write true or false, or a share."
        raise record.bad(name, "be given", "null", advice, "null field")
    number = record.number(name, label)
    if not 0 <= number <= 1:
        raise record.bad(name, "lie in 0..1", repr(number), "Write 1 for a right step.", "label")
    return number


def spans(record: Record, options: Options) -> rows.Row:
    """An answer whose parts inside a span are wrong, as steps that are its own text.

    start and end count Unicode code points.
    """
    prompt = messages.prompt(record, "prompt")
    name = next((name for name in ANSWERS if name in record), ANSWERS[0])
    text = record.text(name)
    right = [True] * len(text)
    for i, span in enumerate(record.items("spans")):
        own: Mapping[str, Any] = span if isinstance(span, Mapping) else {}
        start: Any = own.get("start")
        end: Any = own.get("end")
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (start, end))
        if not whole or not 0 <= start < end <= len(text):
            got, advice = f"{start!r} to {end!r}", "Count Unicode code points."
            rule = f"lie within the {len(text)} characters of {name}"
            raise record.bad(f"spans[{i}]", rule, got, advice, "span")
        right[start:end] = [False] * (end - start)
    steps, labels, at = list[str](), list[float](), 0
    for label, group in itertools.groupby(right):
        size = len(list(group))
        steps.append(text[at : at + size])
        labels.append(float(label))
        at += size
    return rows.Steps(prompt=prompt, steps=tuple(steps), labels=tuple(labels), is_text=True)


def labelled(record: Record, options: Options) -> rows.Row:
    """A conversation as far as it has come, or a text that a user wrote, with labels.

    A label that is null, or whose category is not there, is missing. A name, or a list of them, is
    of the categories that hold: all others do not.
    """
    name = "turns" if "turns" in record else "text"
    turns = messages.with_system(record, messages.turns(record, name))
    value = record.value("labels")
    if isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] not in ("{", "[")):
        held = value if isinstance(value, list) else [value]
        names = [record.checked(f"labels[{i}]", own) for i, own in enumerate(held)]
        return rows.Labelled(turns=turns, labels=dict.fromkeys(names, 1.0), is_whole=True)
    given = record.object("labels", value)
    numbers = {
        str(category): _share(record, f"labels.{category}", label)
        for category, label in given.items()
        if label is not None
    }
    return rows.Labelled(turns=turns, labels=numbers)


def question(record: Record, options: Options) -> rows.Row:
    """A question, with a context after it where there is one, and its answer."""
    parts = [record.text("question"), record.optional("context")]
    asked = "\n\n".join(text for text in parts if text)
    prompt = messages.with_system(record, (chat.Turn(chat.HUMAN, asked),))
    return rows.Conversation(turns=(*prompt, chat.Turn(chat.ASSISTANT, record.text("answer"))))


def alpaca(record: Record, options: Options) -> rows.Row:
    """An instruction, its input where there is one, and the output."""
    parts = [record.text("instruction"), record.optional("input")]
    turns: list[rows.Turn] = []
    for i, entry in enumerate(record.items("history") if "history" in record else []):
        said = record.listed(f"history[{i}]", entry)
        texts = [record.checked(f"history[{i}]", text) for text in said]
        if len(texts) != 2:
            got, advice = f"{len(texts)} texts", "Write what was asked and answered."
            raise record.bad(f"history[{i}]", "hold two texts", got, advice, "history")
        turns += [chat.Turn(chat.HUMAN, texts[0]), chat.Turn(chat.ASSISTANT, texts[1])]
    turns.append(chat.Turn(chat.HUMAN, "\n\n".join(text for text in parts if text)))
    answer = chat.Turn(chat.ASSISTANT, record.text("output"))
    return rows.Conversation(turns=(*messages.with_system(record, tuple(turns)), answer))


def conversation(record: Record, options: Options) -> rows.Row:
    """A list of messages; one in which the assistant says nothing is a prompt."""
    name = "messages" if "messages" in record else "conversations"
    turns = messages.with_system(record, messages.turns(record, name))
    tools = messages.tools(record)
    if any(turn.role == chat.ASSISTANT for turn in turns):
        return rows.Conversation(turns=turns, tools=tools)
    return rows.Prompt(prompt=turns, tools=tools)


def prompt_alone(record: Record, options: Options) -> rows.Row:
    """A prompt; all else is its columns."""
    return rows.Prompt(prompt=messages.prompt(record, "prompt"), tools=messages.tools(record))


def plain(record: Record, options: Options) -> rows.Row:
    """Plain text."""
    return rows.Text(text=record.text("text"))


def _is_label(fields: Mapping[str, Any]) -> bool:
    return str(fields["label"]).strip().lower() in ("true", "false", "0", "1", "0.0", "1.0")


KTO = Layout(
    name="kto",
    about="a prompt, a completion, and whether it is wanted",
    gives=(rows.Judged,),
    needs=tuple(("prompt", name, "label") for name in ANSWERS),
    read=kto,
    fits=_is_label,
    uses=("prompt", *ANSWERS, "label", "system", "system_prompt"),
)
SCORED = Layout(
    name="scored",
    about="a prompt, a response, and numbers on one or several scales (HelpSteer)",
    gives=(rows.Scored,),
    needs=tuple(("prompt", answer, name) for answer in ANSWERS for name in NUMBERS),
    read=scored,
    uses=("prompt", *ANSWERS, *NUMBERS, "system", "system_prompt"),
)
COMPLETION = Layout(
    name="completion",
    about="a prompt and a completion to imitate",
    gives=(rows.Conversation,),
    needs=tuple(("prompt", name) for name in ANSWERS),
    read=completed,
    uses=("prompt", *ANSWERS, "system", "system_prompt"),
    yields=True,
)
STEPWISE = Layout(
    name="stepwise",
    about="a prompt, the steps of an answer, and a label of each",
    gives=(rows.Steps,),
    needs=(("prompt", "completions", "labels"),),
    read=stepwise,
    fits=lambda fields: isinstance(fields["labels"], list | str),
    uses=("prompt", "completions", "labels"),
)
SPANS = Layout(
    name="spans",
    about="a prompt, a response, and spans of it that are wrong, in code points",
    gives=(rows.Steps,),
    needs=tuple(("prompt", name, "spans") for name in ANSWERS),
    read=spans,
    fits=lambda fields: isinstance(fields["spans"], list),
    uses=("prompt", *ANSWERS, "spans", "system", "system_prompt"),
)
GUARD = Layout(
    name="guard",
    about="a text or the turns of a conversation, and labels by category, null where unknown",
    gives=(rows.Labelled,),
    needs=(("turns", "labels"), ("text", "labels")),
    read=labelled,
    fits=lambda fields: isinstance(fields["labels"], dict | list | str),
    uses=("turns", "text", "labels", "system", "system_prompt"),
)
QUESTION = Layout(
    name="question",
    about="a question and its answer, which rules may compare with (GSM8K)",
    gives=(rows.Conversation,),
    needs=(("question", "answer"),),
    read=question,
    fits=lambda fields: all(isinstance(fields[n], str) for n in ("question", "answer")),
    uses=("system", "system_prompt"),
)
ALPACA = Layout(
    name="alpaca",
    about="an instruction, an input that may be empty, and an output",
    gives=(rows.Conversation,),
    needs=(("instruction", "output"),),
    read=alpaca,
    uses=("instruction", "input", "output", "history", "system", "system_prompt"),
)
SHAREGPT = Layout(
    name="sharegpt",
    about="conversations of turns with from and value",
    gives=(rows.Conversation, rows.Prompt),
    needs=(("conversations",),),
    read=conversation,
    fits=lambda fields: messages.is_messages(fields["conversations"]),
    uses=("conversations", "system", "system_prompt", "tools"),
    yields=True,
)
MESSAGES = Layout(
    name="messages",
    about="messages with role and content, calls of tools among them (OpenAI)",
    gives=(rows.Conversation, rows.Prompt),
    needs=(("messages",),),
    read=conversation,
    fits=lambda fields: (
        isinstance(fields["messages"], str) or messages.is_messages(fields["messages"])
    ),
    uses=("messages", "system", "system_prompt", "tools"),
    yields=True,
)
PROMPTS = Layout(
    name="prompts",
    about="prompts, with columns that rules read",
    gives=(rows.Prompt,),
    needs=(("prompt",),),
    read=prompt_alone,
    uses=("prompt", "system", "system_prompt", "tools"),
    yields=True,
)
TEXT = Layout(
    name="text",
    about="plain text",
    gives=(rows.Text,),
    needs=(("text",),),
    read=plain,
    fits=lambda fields: isinstance(fields["text"], str),
    uses=("text",),
    yields=True,
)

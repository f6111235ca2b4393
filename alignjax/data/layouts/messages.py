"""Conversations as data sets write them: lists of messages, transcripts, plain strings."""

from collections.abc import Mapping
from typing import Any

from alignjax.core import untrusted
from alignjax.data import records, rows
from alignjax.data.layouts.record import Record
from alignjax.text import chat, template_tools

TOOL = "tool"
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), chat.HUMAN),
    **dict.fromkeys(
        ("assistant", "gpt", "model", "bot", "chatgpt", "bing", "bard"), chat.ASSISTANT
    ),
    **dict.fromkeys(("system", "developer"), chat.SYSTEM),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "ipython"), TOOL),
    "function_call": chat.ASSISTANT,
}
ROLE_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value")


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages, with role and content or from and value."""
    if isinstance(value, Mapping):  # columns of messages
        return bool(set(ROLE_KEYS) & set(value)) and all(
            isinstance(c, list) for c in value.values()
        )
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, Mapping) and any(key in m for key in ROLE_KEYS) for m in value)
    )


def is_transcript(value: Any) -> bool:
    """Whether a value is text with speakers marked as hh-rlhf marks them."""
    return isinstance(value, str) and chat.is_transcript(value)


def turns(record: Record, name: str, *, answer: bool = False) -> rows.Turns:
    """The field as turns: messages, a transcript, or a string that one speaker says.

    answer: whether a string is the assistant's; else it is the human's.

    Raises:
      DataError: no message, an unknown role, a text that is missing or empty.
    """
    return turns_of(record, name, record.value(name), answer=answer)


def turns_of(record: Record, name: str, value: Any, *, answer: bool = False) -> rows.Turns:
    """A value as turns, with the same rules; `name` says where it stands."""
    if isinstance(value, str) and not value.lstrip().startswith("[{"):
        text = record.checked(name, value)
        if not answer and is_transcript(text):
            return _prompt(record, name, text)
        return (chat.Turn(chat.ASSISTANT if answer else chat.HUMAN, text),)
    messages = record.listed(name, value)
    if not messages:
        got, advice = "an empty list", "Drop the row."
        raise record.bad(name, "hold a message", got, advice, "empty field")
    return tuple(_turn(record, f"{name}[{i}]", m) for i, m in enumerate(messages))


def _prompt(record: Record, name: str, text: str) -> rows.Turns:
    """The turns of a transcript that ends where the assistant is to speak."""
    try:
        parsed = chat.parse_transcript(
            text.rstrip().removesuffix("Assistant:") + "\n\nAssistant: x"
        )
    except chat.ChatError as error:
        advice = "Drop the row or repair it."
        raise record.bad(name, error.rule, error.got, advice, error.reason) from None
    if len(parsed) > 1 and parsed[-1].text != "x":
        got, advice = "an assistant's turn last", "Cut it off."
        raise record.bad(name, "end before the assistant speaks", got, advice, "prompt")
    return tuple(parsed[:-1])


def _turn(record: Record, name: str, message: Any) -> rows.Turn:
    if not isinstance(message, Mapping):
        got, advice = records.kind(message), "Write role and content."
        raise record.bad(name, "be a message", got, advice, "mistyped field")
    said = next((message[key] for key in ROLE_KEYS if message.get(key) is not None), None)
    role = ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        got = repr(said)[:40] if isinstance(said, str) else records.kind(said)
        advice = f"Known roles are {', '.join(ROLES)}."
        raise record.bad(f"{name}.role", "be known", got, advice, "unknown role")
    body = next((message[key] for key in TEXT_KEYS if message.get(key) is not None), None)
    calls = _calls(record, name, message)
    if str(said).lower() == "function_call":
        calls, body = (_call(record, f"{name}.value", body),), ""
    if body is None and calls:
        body = ""
    where = f"{name}.{'content' if 'role' in message else 'value'}"
    empty = bool(calls) or role in (TOOL, chat.SYSTEM)
    text = record.checked(where, _joined(record, where, body), empty=empty)
    if role == TOOL or calls:
        return template_tools.Message(role, text, calls, str(message.get("tool_call_id") or ""))
    return chat.Turn(role, text)


def _joined(record: Record, name: str, body: Any) -> Any:
    """The text of a content in parts."""
    if not isinstance(body, list):
        return body
    for part in body:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else records.kind(part)
            got, advice = f"a part of type {str(kind)[:40]}", "Drop the row."
            raise record.bad(name, "hold parts of text alone", got, advice, "no text")
    return "".join(part["text"] for part in body)


def _calls(record: Record, name: str, message: Mapping[str, Any]) -> tuple[Any, ...]:
    single = message.get("function_call")
    listed = message.get("tool_calls")
    if single is None and listed is None:
        return ()
    given = [single] if listed is None else record.listed(f"{name}.tool_calls", listed)
    return tuple(_call(record, f"{name}.tool_calls", call) for call in given)


def _call(record: Record, name: str, call: Any) -> template_tools.Call:
    """A call of a function: {"id", "function": {"name", "arguments"}}, or name and arguments."""
    call = _parsed(call)
    if isinstance(call, Mapping):
        function = call.get("function", call)
        arguments = _parsed(function.get("arguments")) if isinstance(function, Mapping) else None
        arguments = {} if arguments in (None, "") else arguments
        if isinstance(arguments, Mapping) and isinstance(function.get("name"), str):
            kept = {key: value for key, value in arguments.items() if value is not None}
            return template_tools.Call(function["name"], kept, str(call.get("id") or ""))
    got, advice = records.kind(call), 'Write {"name": ..., "arguments": {...}}.'
    raise record.bad(name, "hold a call with name and arguments", got, advice, "call")


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        try:
            return untrusted.parse_json(value, "a field")
        except untrusted.Refused:
            return value
    return value


def tools(record: Record) -> tuple[Mapping[str, Any], ...]:
    """The functions of the field `tools`, a list or JSON of one; () where there is none."""
    if "tools" not in record or record.fields["tools"] in ("", []):
        return ()
    found = record.items("tools")
    for tool in map(_parsed, found):
        if not isinstance(tool, Mapping):
            got, advice = records.kind(tool), "Write the JSON description of a function."
            raise record.bad("tools", "list functions", got, advice, "tools")
    return tuple(_parsed(tool) for tool in found)


def with_system(record: Record, own: rows.Turns) -> rows.Turns:
    """The turns, after the text of the field `system` or `system_prompt` where there is one."""
    for name in ("system", "system_prompt"):
        text = record.optional(name) if own[:1] and own[0].role != chat.SYSTEM else ""
        if text.strip():
            return (chat.Turn(chat.SYSTEM, text), *own)
    return own


def prompt(record: Record, name: str) -> rows.Turns:
    """The field as a prompt.

    Raises:
      DataError: as `turns`, or it ends in the assistant's turn.
    """
    own = with_system(record, turns(record, name))
    if own[-1].role == chat.ASSISTANT:
        got, advice = "an assistant's turn last", "Move it to the answer."
        raise record.bad(name, "end before the assistant speaks", got, advice, "prompt")
    return own


def answer(record: Record, name: str, value: Any, asked: rows.Turns = ()) -> rows.Turns:
    """A value as the turns after a prompt; messages may begin with the prompt's own.

    Raises:
      DataError: as `turns`, or it does not begin and end with the assistant's turn.
    """
    own = turns_of(record, name, value, answer=True)
    unsaid = asked[1:] if asked[:1] and asked[0].role == chat.SYSTEM else asked
    for before in (asked, unsaid):
        if before and len(own) > len(before) and own[: len(before)] == before:
            own = own[len(before) :]
            break
    ends = (own[0].role, own[-1].role)
    if ends != (chat.ASSISTANT, chat.ASSISTANT):
        got, advice = f"{ends[0]} first and {ends[1]} last", "Drop the row or repair it."
        rule = "begin and end with the assistant's turn"
        raise record.bad(name, rule, got, advice, chat.NO_ANSWER)
    return own

"""How chat templates show functions, the assistant's calls of them and their results."""

import collections.abc
import dataclasses
import json
import typing

from alignjax.core import untrusted

LAST_USER = "last user"


class Call(typing.NamedTuple):
    """A function call of the assistant: its name, JSON arguments, and id for families with ids."""

    name: str
    arguments: collections.abc.Mapping[str, typing.Any]
    id: str = ""


class Message(typing.NamedTuple):
    """One turn: role "system", "user" ("human"), "assistant" or "tool".

    calls: of an assistant. id: of a tool turn, that of the call which it answers.
    """

    role: str
    text: str
    calls: tuple[Call, ...] = ()
    id: str = ""


def message_of(value: typing.Any) -> Message:
    """Returns a message, of a Message, a chat.Turn, a (role, text) pair or the field's usual dict.

    A dict has role and content, a text or parts {"type": "text", "text": ...}; an assistant's may
    have tool_calls {"function": {"name", "arguments"}, "id"}, a tool's tool_call_id.

    Raises: ValueError for anything else; its first fault is named.
    """
    if isinstance(value, Message):
        return value
    if isinstance(value, collections.abc.Mapping):
        return _of_mapping(value)
    is_pair = isinstance(value, tuple | list) and 2 <= len(value) <= len(Message._fields)
    if not is_pair or not all(isinstance(part, str) for part in value[:2]):
        raise _no_message(f"{type(value).__name__} {str(value)[:30]!r}")
    return Message(*value)


def _no_message(got: str) -> ValueError:
    return ValueError(
        "a message must be a Message, a (role, text) pair or a dict of role and content; got "
        f"{got} (message). Lay the conversation out so."
    )


def _of_mapping(value: collections.abc.Mapping[str, typing.Any]) -> Message:
    unknown = sorted(map(str, set(value) - {"role", "content", "tool_calls", "tool_call_id"}))
    role, content = value.get("role"), value.get("content")
    if unknown or not isinstance(role, str):
        raise _no_message(f"a dict with {unknown[0] if unknown else 'no role'}")
    if isinstance(content, list):
        content = "".join(map(_text_part, content))
    calls = value.get("tool_calls") or ()
    if content is None and calls:
        content = ""
    if not isinstance(content, str) or not isinstance(calls, list | tuple):
        raise _no_message(f"content of {type(value.get('content')).__name__}")
    own = tuple(map(_call_of, calls))
    return Message(role, content, own, str(value.get("tool_call_id") or ""))


def _text_part(part: typing.Any) -> str:
    text = part.get("text") if isinstance(part, collections.abc.Mapping) else None
    if not isinstance(text, str):
        raise _no_message(f"a part of content that is no text, {str(part)[:30]!r}")
    return text


def _call_of(call: typing.Any) -> Call:
    function = call.get("function", call) if isinstance(call, collections.abc.Mapping) else None
    if not isinstance(function, collections.abc.Mapping):
        raise _no_message(f"a tool call {str(call)[:30]!r}")
    name, arguments = function.get("name"), function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = untrusted.parse_json(arguments, "arguments")
        except untrusted.Refused:
            arguments = None
    if not isinstance(name, str) or not isinstance(arguments, collections.abc.Mapping):
        raise _no_message(f"a tool call without name and arguments, {str(call)[:30]!r}")
    return Call(name, arguments, str(call.get("id") or ""))


class Piece(typing.NamedTuple):
    """A stretch of a conversation; `layout` is the template's own string, else it is text."""

    text: str
    layout: bool
    trained: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tools:
    """How a family shows functions, calls and results; pairs stand before and after a text.

    needs: control tokens that such a conversation must have beside the template's.
    place: "system", "user" or "last user", the turn that lists the functions, "" for a family that
    lists none; `before_header` puts the list before the turn. listing: around the list, `around`
    each function, `between` between two. written: how a function is: "json", indented by
    `indent`; "python", the literal of its dict; "bare", its JSON with first-level texts unescaped.
    system_lead: stands first in a system turn, and `system_close` after it, where functions are
    listed. calls: around all calls of a turn, `call` around one, which is a JSON object with its
    arguments under `call_key`, or, with `call_between`, its name, that string and the arguments.
    join: between calls, and after a text before them unless `join_text` is off. lead: around the
    text of a turn with calls, None leaves it out. ids: calls and results carry one.
    results: around a run of them, `result` around one, as a JSON string where `result_json`;
    `result_id` stands before its call's id. after_results: the header of an answer that follows.
    """

    needs: tuple[str, ...] = ()
    place: str
    before_header: bool = False
    listing: tuple[str, str] = ("", "")
    around: tuple[str, str] = ("", "")
    between: str = ""
    written: str = "json"
    indent: int | None = None
    system_lead: str = ""
    system_close: str = ""
    calls: tuple[str, str] = ("", "")
    call: tuple[str, str] = ("", "")
    call_key: str = "arguments"
    call_between: str | None = None
    join: str = ""
    join_text: bool = True
    most_calls: int | None = None
    lead: tuple[str, str] | None = ("", "")
    ids: bool = False
    results: tuple[str, str] = ("", "")
    result: tuple[str, str] = ("", "")
    result_json: bool = False
    result_id: str = ""
    after_results: str | None = None


NO_TOOLS = Tools(place="")


def listing(style: Tools, tools: collections.abc.Sequence[typing.Any]) -> list[Piece]:
    """Returns the list of functions; [] of none."""
    if not tools:
        return []
    pieces = [Piece(style.listing[0], True)]
    for index, tool in enumerate(tools):
        pieces.append(Piece((style.between if index else "") + style.around[0], True))
        pieces.append(Piece(_described(style, tool), False))
        pieces.append(Piece(style.around[1], True))
    return [*pieces, Piece(style.listing[1], True)]


def _described(style: Tools, tool: typing.Any) -> str:
    if style.written == "python":
        return str(tool)
    if style.written == "json":
        return json.dumps(tool, ensure_ascii=False, indent=style.indent)
    parts = [
        f'"{key}": "{value}"' if isinstance(value, str) else f'"{key}": {_json(value)}'
        for key, value in tool.get("function", tool).items()
        if key != "return"
    ]
    return f'{{"type": "function", "function": {{{", ".join(parts)}}}}}'


def _json(value: typing.Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def result(style: Tools, turn: Message, *, first: bool, last: bool) -> list[Piece]:
    """Returns the result of a call, the `first` or `last` of its run or not."""
    pieces = [
        Piece((style.results[0] if first else "") + style.result[0], True),
        Piece(_json(turn.text) if style.result_json else turn.text, False),
    ]
    if style.ids:
        pieces += [Piece(style.result_id, True), Piece(turn.id, False)]
    return [*pieces, Piece(style.result[1] + (style.results[1] if last else ""), True)]


def calls(style: Tools, text: str, tool_calls: collections.abc.Sequence[Call]) -> list[Piece]:
    """Returns a turn's text and its calls, all of it trained."""
    pieces = []
    if style.lead is not None:
        pieces += [Piece(style.lead[0], True, True), Piece(text, False, True)]
        pieces.append(Piece(style.lead[1], True, True))
    pieces.append(Piece(style.calls[0], True, True))
    spoken = bool(text) and style.lead is not None and style.join_text
    for index, call in enumerate(tool_calls):
        before = (style.join if index or spoken else "") + style.call[0]
        pieces += [Piece(before, True, True), *_called(style, call)]
        pieces.append(Piece(style.call[1], True, True))
    return [*pieces, Piece(style.calls[1], True, True)]


def _called(style: Tools, call: Call) -> list[Piece]:
    arguments = _json(call.arguments)
    if style.call_between is not None:
        parts = ((call.name, False), (style.call_between, True), (arguments, False))
        return [Piece(text, layout, True) for text, layout in parts]
    body = f'{{"name": "{call.name}", "{style.call_key}": {arguments}'
    return [Piece(body + (f', "id": "{call.id}"}}' if style.ids else "}"), False, True)]

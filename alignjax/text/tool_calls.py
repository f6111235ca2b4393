"""Calls of functions read out of what a model wrote in its template's own form."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from alignjax.core import untrusted
from alignjax.text import chat, chat_format, templates
from alignjax.text.template_tools import Call, Tools


class Written(NamedTuple):
    """What an assistant's turn holds.

    text: beside the calls. calls: in their order. problem: what is wrong with the first call that
    can't be read; "" where all can.
    """

    text: str
    calls: tuple[Call, ...] = ()
    problem: str = ""


class _Unreadable(ValueError):
    """A call that breaks the template's form."""


def style_of(speaker: chat.Speaker, asked: str) -> Tools:
    """The form in which a speaker's family calls functions.

    Raises:
      ValueError: it is not known, or the family has none; `asked` says where it is needed.
    """
    template = speaker.template if isinstance(speaker, chat_format.ChatFormat) else None
    if isinstance(template, templates.Template) and template.tools is not None:
        return template.tools
    own = template.name if isinstance(template, templates.Template) else "a layout without a name"
    raise ValueError(
        f"the template must be of a family whose form of function calls is known; got {own} "
        f"({asked}). Name the family in data.template."
    )


def listed(speaker: chat.Speaker) -> tuple[Mapping[str, Any], ...]:
    """The descriptions of functions that a speaker's conversations list."""
    return speaker.tools if isinstance(speaker, chat_format.ChatFormat) else ()


def written(speaker: chat.Speaker, ids: Iterable[int]) -> str:
    """The text of ids with control tokens by their names, which `decode` leaves out."""
    special = speaker.special if isinstance(speaker, chat_format.ChatFormat) else speaker.control
    names = {number: name for name, number in special.items()}
    pieces: list[str] = []
    known: list[int] = []
    for token in map(int, ids):
        if token not in names:
            known.append(token)
            continue
        pieces += [chat.sampled_text(speaker, known), names[token]]
        known = []
    return "".join([*pieces, chat.sampled_text(speaker, known)])


def read(style: Tools, text: str) -> Written:
    """The calls in an assistant's turn; text: as from `written`, without the token that ends it.

    Blanks between the parts of a call are of no account.
    """
    opening = (style.calls[0] + style.call[0]).strip()
    if opening:
        before, found, rest = text.partition(opening)
        if not found:
            return Written(_spoken(style, text))
    else:  # a bare object, behind nothing but text in its marks
        before, found, rest = text.partition("{")
        first, last = style.lead or ("", "")
        marked = bool(first) and before.strip().startswith(first) and before.strip().endswith(last)
        if not found or (before.strip() and not marked):
            return Written(_spoken(style, text))
        rest = "{" + rest
    calls: list[Call] = []
    try:
        while True:
            call, rest = _call(style, rest)
            calls.append(call)
            rest = _after(rest, style.call[1])
            more = (style.join + style.call[0]).strip()
            if more and rest.lstrip().startswith(more):
                rest = _after(rest, more)
                continue
            if more or not rest.lstrip().startswith("{"):
                break
        rest = _after(rest, style.calls[1])
        if rest.strip():
            raise _Unreadable("text behind the calls")
    except _Unreadable as error:
        return Written(_spoken(style, before), tuple(calls), str(error))
    if style.most_calls is not None and len(calls) > style.most_calls:
        problem = f"{len(calls)} calls, and the template knows {style.most_calls} at most"
        return Written(_spoken(style, before), tuple(calls[: style.most_calls]), problem)
    return Written(_spoken(style, before), tuple(calls))


def _spoken(style: Tools, text: str) -> str:
    """A turn's text without what the template puts around it."""
    for mark in style.lead or ():
        text = text.replace(mark, "")
    return text.strip()


def _call(style: Tools, text: str) -> tuple[Call, str]:
    """(a call, what follows it)."""
    if style.call_between is None:
        body, rest = _object(text)
        name, arguments = body.get("name"), body.get(style.call_key)
        own = body.get("id", "")
    else:
        mark = style.call_between.strip()
        name, found, rest = text.partition(mark)
        if not found:
            raise _Unreadable(f"no {mark!r} behind a function's name")
        name, own = name.strip(), ""
        arguments, rest = _object(rest)
    if not isinstance(name, str) or not name:
        raise _Unreadable("a call without the name of a function")
    if not isinstance(arguments, Mapping):
        raise _Unreadable(f"{style.call_key} of {name} that are no JSON object")
    return Call(name, arguments, own if isinstance(own, str) else ""), rest


def _object(text: str) -> tuple[Mapping[str, Any], str]:
    text = text.lstrip()
    try:
        value, end = untrusted.decode_at(text, 0)
    except (ValueError, RecursionError):
        raise _Unreadable("a call that is no JSON") from None
    if not isinstance(value, Mapping):
        raise _Unreadable("a call that is no JSON object")
    return value, text[end:]


def _after(text: str, mark: str) -> str:
    """The text behind a mark at its beginning."""
    text, mark = text.lstrip(), mark.strip()
    if not text.startswith(mark):
        raise _Unreadable(f"no {mark!r} behind a call")
    return text[len(mark) :]

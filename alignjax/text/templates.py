"""Chat templates as data: how a family lays a conversation out, rendered turn by turn to ids.

A template is strings around texts. Control tokens stand in the template's strings only and are
found there by name; the texts of turns, tools and results are always text. The mask is True on
an assistant's text, its tool calls and its end token, so it is exact by construction. An
assistant's text is tokenized apart from its header, hence the ids of a prompt are a prefix of
the ids of the prompt with its answer.
"""

import collections.abc
import dataclasses
import re
import typing

from alignjax.text import rendered, template_tools
from alignjax.text.template_tools import Call, Message, Piece, Tools, message_of
from alignjax.text.tokenizers import ahead, interface

__all__ = ["Call", "Message", "Piece", "Template", "Tools", "encode", "render"]
SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
_CALL_ID = re.compile("[a-zA-Z0-9]{9}")
_ALIASES = {"human": USER, "ipython": TOOL, "model": ASSISTANT}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """A family's layout.

    needs: control tokens that the tokenizer must have. begin: opens every conversation.
    system: around a system turn; None where the family has none. system_in_user: around the
    system's text inside the first user turn, or with `system_in_last` the last, in place of
    `system`. default_system: the text
    of a system turn that is added where none comes first. system_lead: stands before any system
    text; "{date}" in it is the date given, or `date`. user, assistant: around the turns; the
    assistant's `end` is trained, `after` is not. spaces: around an assistant's text, trained.
    answer: stands between header and text of an answer, untrained (an empty thinking block);
    `answer_last` puts it before the last turn only. trim: which roles' texts are stripped, where
    `strip_joined` after the system's text was put before the first user's; `rstrip_system` strips
    the end of the system's text alone. trim_lines: line breaks
    at the start of a text after `answer` are dropped. system_first: no later system turns.
    own_spaces: the strings hold every space, so that a vocabulary which puts one after control
    tokens must not. alternate: user and assistant must alternate. refuse: what an assistant's
    text must not hold.
    """

    name: str
    needs: tuple[str, ...]
    begin: str = ""
    system: tuple[str, str] | None = None
    system_in_user: tuple[str, str] | None = None
    system_in_last: bool = False
    default_system: str | None = None
    system_lead: str = ""
    date: str | None = None
    user: tuple[str, str]
    assistant: str
    end: str
    after: str = ""
    spaces: tuple[str, str] = ("", "")
    answer: str = ""
    answer_last: bool = False
    trim: frozenset[str] = frozenset()
    strip_joined: bool = False
    rstrip_system: bool = False
    trim_lines: bool = False
    own_spaces: bool = False
    alternate: bool = False
    system_first: bool = True
    refuse: tuple[str, ...] = ()
    refuse_system: tuple[str, ...] = ()
    tools: Tools | None = None


def encode(
    tokenizer: interface.TextTokenizer,
    template: Template,
    messages: collections.abc.Sequence[typing.Any],
    *,
    generation_prompt: bool = False,
    tools: collections.abc.Sequence[collections.abc.Mapping] = (),
    date: str | None = None,
) -> tuple[list[int], list[bool]]:
    """Returns (ids, assistant_mask) of a conversation, of equal length.

    Args:
      messages: `Message`s, or `chat.Turn`s, or (role, text) pairs.
      generation_prompt: end with the assistant's header, ready to be continued.
      tools: JSON descriptions of functions, for a family that shows them.
      date: "26 Jul 2024", for a family that states today's date: given, never read from a clock,
        since the ids of a dataset must not depend on the day.
    Raises: ValueError for a conversation that the family cannot lay out, or a tokenizer without
      its control tokens.
    """

    def make() -> list[rendered.Atom]:
        return rendered.atoms_of(tokenizer.special, _pieces(tokenizer, template, messages, options))

    options = _Options(generation_prompt, tools, date)
    if isinstance(tokenizer, ahead.Ahead) and not tools:  # it is asked twice for the same
        try:
            atoms = tokenizer.once((template.name, *messages, generation_prompt, date), make)
        except TypeError:  # arguments of calls may have no hash
            atoms = make()
    else:
        atoms = make()
    return rendered.encode_atoms(tokenizer, atoms, own_spaces=template.own_spaces)


class _Options(typing.NamedTuple):
    """Of `encode`."""

    generation_prompt: bool
    tools: collections.abc.Sequence[collections.abc.Mapping]
    date: str | None


def _pieces(
    tokenizer: interface.TextTokenizer,
    template: Template,
    messages: collections.abc.Sequence[typing.Any],
    options: _Options,
) -> list[Piece]:
    """The pieces of a conversation whose control tokens the tokenizer has."""
    messages = [message_of(message) for message in messages]
    style = template.tools
    roles = {_ALIASES.get(turn[0], turn[0]) for turn in messages}
    speaks = options.tools or TOOL in roles or any(turn[2] for turn in messages)
    require(tokenizer, template, style.needs if style and speaks else ())
    return render(template, messages, **options._asdict())


def require(
    tokenizer: interface.TextTokenizer,
    template: Template,
    others: collections.abc.Iterable[str] = (),
    where: str = "templates.encode",
) -> None:
    """Compares a tokenizer with the control tokens that a family's template writes, and others.

    Raises: ValueError for one that the tokenizer lacks.
    """
    missing = [name for name in (*template.needs, *others) if name not in tokenizer.special]
    if missing:
        raise ValueError(
            f"tokenizer must have the control tokens of template {template.name}; got none called "
            f"{missing[0]!r} ({where}). Take the template of the model's family."
        )


def render(
    template: Template,
    messages: collections.abc.Sequence[typing.Any],
    *,
    generation_prompt: bool = False,
    tools: collections.abc.Sequence[collections.abc.Mapping] = (),
    date: str | None = None,
) -> list[Piece]:
    """Returns the pieces of a conversation in order; see `encode`."""
    turns = _checked(template, messages, generation_prompt, tools)
    style = template.tools or template_tools.NO_TOOLS
    turns = _trimmed(template, turns, bool(tools) and style.place == USER)
    head, turns = _system(template, turns, bool(tools), date)
    pieces = [Piece(template.begin, True), *head]
    shown = template_tools.listing(style, tools)
    if shown and style.place == SYSTEM:
        pieces[-1:-1] = shown  # before what closes the system turn
        pieces.append(Piece(style.system_close, True))
    users = [index for index, turn in enumerate(turns) if turn.role == USER]
    listed = {USER: users[:1], template_tools.LAST_USER: users[-1:]}.get(style.place, [])
    for index, turn in enumerate(turns):
        after_results = index > 0 and turns[index - 1].role == TOOL
        if turn.role == USER:
            told = shown if index in listed else []
            header = [Piece(template.user[0], True)]
            pieces += [*told, *header] if style.before_header else [*header, *told]
            pieces += [Piece(turn.text, False), Piece(template.user[1], True)]
        elif turn.role == SYSTEM:
            assert template.system is not None  # checked
            pieces.append(Piece(template.system[0], True))
            pieces += [Piece(turn.text, False), Piece(template.system[1], True)]
        elif turn.role == TOOL:
            last = index == len(turns) - 1 or turns[index + 1].role != TOOL
            pieces += template_tools.result(style, turn, first=not after_results, last=last)
        else:
            last = index == len(turns) - 1
            pieces += _answer(template, turn, last=last, after_results=after_results)
    if generation_prompt:
        after_results = bool(turns) and turns[-1].role == TOOL
        pieces.append(Piece(_header(template, after_results) + template.answer, True))
    return [piece for piece in pieces if piece.text]


def _header(template: Template, after_results: bool) -> str:
    style = template.tools
    if after_results and style is not None and style.after_results is not None:
        return style.after_results
    return template.assistant


def _system(template: Template, turns: list[Message], has_tools: bool, date: str | None):
    """Returns (the pieces of the system turn, the turns that are left to lay out)."""
    text = None
    if turns and turns[0].role == SYSTEM:
        text, turns = turns[0].text, turns[1:]
    if template.system_in_user is not None:
        if text is not None:
            before, after = template.system_in_user
            users = [index for index, turn in enumerate(turns) if turn.role == USER]
            at = users[-1] if template.system_in_last else 0
            joined = turns[at]._replace(text=before + text + after + turns[at].text)
            turns = [*turns[:at], joined, *turns[at + 1 :]]
        return [], turns
    tools_here = has_tools and template.tools is not None and template.tools.place == SYSTEM
    if text is None or (template.rstrip_system and not text):
        text = template.default_system
    if text is None and not template.system_lead and not tools_here:
        return [], turns
    assert template.system is not None  # checked
    lead, day = template.system_lead, date or template.date
    if "{date}" in lead and day is None:
        raise ValueError(
            f"date must be given for template {template.name}, which states today's; got none "
            "(templates.render). Pass date, in the form '26 Jul 2024'."
        )
    parts = lead.split("{date}")
    pieces = [Piece(template.system[0], True)]
    if has_tools and template.tools is not None:
        pieces.append(Piece(template.tools.system_lead, True))
    pieces.append(Piece(parts[0], True))
    for part in parts[1:]:
        pieces += [Piece(day or "", False), Piece(part, True)]
    pieces.append(Piece(text or "", False))
    if tools_here and text:
        pieces.append(Piece("\n\n", True))
    pieces.append(Piece(template.system[1], True))
    return pieces, turns


def _trimmed(template: Template, turns: list[Message], lists_tools: bool) -> list[Message]:
    """Returns the turns with texts stripped where the family strips them."""
    stripped = [
        turn._replace(text=turn.text.strip()) if turn.role in template.trim else turn
        for turn in turns
    ]
    first = 1 if turns and turns[0].role == SYSTEM else 0
    if first and template.rstrip_system:
        stripped[0] = turns[0]._replace(text=turns[0].text.rstrip())
    if first and template.strip_joined:  # what follows the system's text keeps its beginning
        stripped[1] = turns[1]._replace(text=turns[1].text.rstrip())
    if lists_tools:
        stripped[first] = turns[first]._replace(text=turns[first].text.strip())
    return stripped


def _answer(template: Template, turn: Message, *, last: bool, after_results: bool) -> list[Piece]:
    has_block = template.answer and (last or not template.answer_last)
    header = _header(template, after_results)
    pieces = [Piece(header + (template.answer if has_block else ""), True)]
    text = turn.text
    if template.trim_lines and has_block:
        text = text.lstrip("\n")
    trained = bool(text or turn.calls)  # silence is never a target
    if turn.calls:
        assert template.tools is not None  # checked
        pieces += template_tools.calls(template.tools, text, turn.calls)
    else:
        before, after = template.spaces
        pieces += [Piece(before, True, trained), Piece(text, False, trained)]
        pieces.append(Piece(after, True, trained))
    return [*pieces, Piece(template.end, True, trained), Piece(template.after, True)]


def _checked(template: Template, messages, generation_prompt: bool, tools) -> list[Message]:
    turns = []
    for number, message in enumerate(messages):
        turn = message_of(message)
        turn = turn._replace(role=_ALIASES.get(turn.role, turn.role))
        _check_turn(template, turn, number)
        turns.append(turn)
    if tools and template.tools is None:
        _refuse(template, "have no tools", f"{len(tools)}", "Leave them out.")
    if tools and template.tools and not template.tools.place:
        _refuse(
            template, "have no list of tools, which the family's template leaves out",
            f"{len(tools)}", "Describe them in the system's text.",
        )  # fmt: skip
    rest = turns[1:] if turns and turns[0].role == SYSTEM else turns
    starts_with_user = bool(rest) and rest[0].role == USER
    merges = len(rest) < len(turns) and template.system_in_user is not None
    if merges and not starts_with_user:
        _refuse(template, "have a user turn after the system's", "none", "Add one.")
    if template.system_first and any(turn.role == SYSTEM for turn in rest):
        _refuse(template, "have its system turn first", "a later one", "Move or drop it.")
    in_user = template.tools is not None and template.tools.place in (
        USER,
        template_tools.LAST_USER,
    )
    if tools and in_user and not starts_with_user:
        _refuse(template, "list tools in its first user turn", "none", "Add one.")
    spoken = [turn.role for turn in rest if turn.role != TOOL and not turn.calls]
    order = [(USER, ASSISTANT)[index % 2] for index in range(len(spoken))]
    if template.alternate and spoken != order:
        _refuse(template, "alternate, user first", ", ".join(spoken[:6]), "Join turns of one role.")
    if generation_prompt and turns and turns[-1].role == ASSISTANT:
        _refuse(
            template, "end before the assistant speaks", "an assistant turn last",
            "Pass generation_prompt=False or drop the last turn.",
        )  # fmt: skip
    return turns


def _check_turn(template: Template, turn: Message, number: int) -> None:
    where = f"turn {number + 1}"
    if turn.role not in (SYSTEM, USER, ASSISTANT, TOOL):
        roles = ", ".join((SYSTEM, USER, ASSISTANT, TOOL))
        _refuse(template, f"have roles among {roles}", repr(turn.role), "Rename it.", where)
    interface.check_text(turn.text)
    if turn.role == SYSTEM and template.system is None and template.system_in_user is None:
        _refuse(template, "have no system turn", "one", "Put it into the user's text.", where)
    if (turn.role == TOOL or turn.calls) and template.tools is None:
        _refuse(template, "have no tool turns or calls", "one", "Drop the row.", where)
    if turn.calls and turn.role != ASSISTANT:
        _refuse(template, "have calls in assistant turns", turn.role, "Move them.", where)
    most = template.tools.most_calls if template.tools else None
    if most is not None and len(turn.calls) > most:
        _refuse(template, f"have at most {most} call", str(len(turn.calls)), "Split it.", where)
    _check_ids(template, turn, where)
    words = {ASSISTANT: template.refuse, SYSTEM: template.refuse_system}.get(turn.role, ())
    held = [word for word in words if word in turn.text]
    if held:
        _refuse(
            template, f"not hold {held[0]} in a turn of the {turn.role}, which the family's "
            "template rewrites", "it", "Take it out; of an answer, keep what follows.", where,
        )  # fmt: skip


def _check_ids(template: Template, turn: Message, where: str) -> None:
    """Refuses calls and results without an id that the family writes."""
    if template.tools is None or not template.tools.ids:
        return
    ids = [call.id for call in turn.calls] + [turn.id] * (turn.role == TOOL)
    for name in ids:
        if not _CALL_ID.fullmatch(name):
            _refuse(
                template, "have calls and results with ids of nine letters and digits",
                repr(name[:40]), "Give each call an id, and its result the same.", where,
            )  # fmt: skip


def _refuse(template: Template, rule: str, got: str, advice: str, where: str = "render") -> None:
    raise ValueError(
        f"a conversation for template {template.name} must {rule}; got {got} (templates, {where}). "
        f"{advice}"
    )

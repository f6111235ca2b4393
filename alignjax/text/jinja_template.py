"""Chat templates as Jinja, from a model folder: run in a sandbox with limits, masks checked.

The source is somebody else's program. It runs in a process of its own, in Jinja's immutable
sandbox, with bounds on its length, its time, its memory and its output (promise R51), without
the environment of this process. Texts that spell control tokens are broken up by a character
that Unicode reserves for such uses before the template sees them, so that what it writes holds
control tokens of its own only (promise R31).
"""

import collections.abc
import dataclasses
import datetime
import hashlib
import json
import re
import typing

from alignjax.text import jinja_process, rendered, template_tools, templates
from alignjax.text.tokenizers import interface

MAX_SOURCE = 200_000  # characters; the longest in use have about 20,000
MAX_OUTPUT = 4_000_000  # characters of one conversation
MAX_TOKENS = 2**21  # of one conversation
SECONDS = 10.0  # for one rendering, the start of the process included
ALL, LAST = "all", "last"
_RESERVED = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # noncharacters of Unicode
_START, _STOP, _BREAK = _RESERVED[:3]
_GENERATION = re.compile(r"\{%-?\+?\s*generation\b")
_FUNCTION = re.compile(r"[A-Za-z0-9_.:/-]{1,256}")


@dataclasses.dataclass(frozen=True)
class JinjaTemplate:
    """A template's source and what else its output depends on.

    date: what `strftime_now` says; a template that asks for it without a date is refused.
    variables: further names that the template reads, such as {"enable_thinking": False}.
    """

    source: str
    date: datetime.date | None = None
    variables: collections.abc.Mapping[str, typing.Any] = dataclasses.field(default_factory=dict)
    seconds: float = SECONDS
    max_output: int = MAX_OUTPUT

    def __post_init__(self):
        if not isinstance(self.source, str) or not 0 < len(self.source) <= MAX_SOURCE:
            got = len(self.source) if isinstance(self.source, str) else type(self.source).__name__
            raise ValueError(
                f"a Jinja template must have 1 to {MAX_SOURCE} characters; got {got} "
                "(JinjaTemplate). Check the model folder."
            )
        if any(mark in self.source for mark in _RESERVED):
            raise ValueError(
                "a Jinja template must hold no noncharacter of U+FDD0..U+FDEF; got one "
                "(JinjaTemplate). Check the model folder."
            )
        started = jinja_process.Renderer(
            self.source,
            date=self.date,
            marks=(_START, _STOP),
            limit=self.max_output,
            seconds=self.seconds,
        )
        object.__setattr__(self, "_renderer", started)

    @property
    def fingerprint(self) -> str:
        """sha256 in hex of the source, the date and the variables."""
        rest = json.dumps([str(self.date), dict(self.variables)], sort_keys=True)
        return hashlib.sha256(f"{len(self.source)} {self.source}{rest}".encode()).hexdigest()

    @property
    def marks_answers(self) -> bool:
        """Whether the source has {% generation %} blocks."""
        return _GENERATION.search(self.source) is not None

    def render(
        self,
        messages: collections.abc.Sequence[templates.Message],
        *,
        generation_prompt: bool = False,
        tools: collections.abc.Sequence[collections.abc.Mapping] = (),
        tokens: collections.abc.Mapping[str, str] | None = None,
        names: collections.abc.Iterable[str] = (),
    ) -> str:
        """Returns what the template writes, with marks around {% generation %} blocks.

        Args:
          tokens: "bos_token" and so on -> name.
          names: control tokens; a text that spells one is broken up.
        Raises: ValueError when the template fails, or exceeds a limit.
        """
        starts = _starts(names)
        variables = {
            **self.variables,
            **(tokens or {}),
            "messages": [_dictionary(message, starts) for message in messages],
            "tools": [_broken(tool, starts, ends=False) for tool in tools] or None,
            "add_generation_prompt": generation_prompt,
        }
        text = vars(self)["_renderer"].render(variables)
        if f"\\u{ord(_BREAK):x}" in text.lower():
            raise jinja_process.failure("text as ASCII escapes")
        return text


def encode(
    tokenizer: interface.TextTokenizer,
    template: JinjaTemplate,
    messages: collections.abc.Sequence[typing.Any],
    *,
    generation_prompt: bool = False,
    tools: collections.abc.Sequence[collections.abc.Mapping] = (),
    trained: str = ALL,
) -> tuple[list[int], list[bool]]:
    """Returns (ids, assistant_mask) of a conversation, of equal length.

    The mask is True on the assistant's text, its calls and its end token: inside the
    {% generation %} blocks where the source has them, else from each prompt's end to the end of
    its answer, if every prompt is a prefix of the whole.

    Args:
      trained: "all" answers, or the "last" only, for a template that rewrites earlier turns.
    Raises: ValueError when the template fails, or the mask cannot be exact.
    """
    if trained not in (ALL, LAST):
        raise ValueError(
            f"trained must be {ALL} or {LAST}; got {trained!r} (jinja_template.encode). Choose one."
        )
    turns = [_message(message) for message in messages]
    if generation_prompt and turns and turns[-1].role == templates.ASSISTANT:
        raise ValueError(
            "a prompt must end before the assistant speaks; got an assistant turn last "
            "(jinja_template.encode). Pass generation_prompt=False or drop the last turn."
        )
    names = {token: name for name, token in tokenizer.special.items()}
    ends = (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id), ("pad", tokenizer.pad_id))
    tokens = {f"{kind}_token": names.get(token, "") for kind, token in ends if token is not None}

    def render(count: int, prompt: bool) -> str:
        return template.render(
            turns[:count],
            generation_prompt=prompt,
            tools=tools,
            tokens=tokens,
            names=tokenizer.special,
        )

    whole = render(len(turns), generation_prompt)
    answers = [i for i, turn in enumerate(turns) if turn.role == templates.ASSISTANT]
    answers = answers[-1:] if trained == LAST else answers
    if template.marks_answers:
        text, regions = _marked_regions(whole)
        spoken = sum(turn.role == templates.ASSISTANT for turn in turns)
        if len(regions) != spoken:
            _inexact(f"{len(regions)} generation blocks for {spoken} assistant turns")
        regions = regions[len(regions) - len(answers) :]
        regions = [
            _after_prompt(text, region, turns, index, render)
            for region, index in zip(regions, answers, strict=True)
        ]
    else:
        text = whole
        regions = [_region(text, turns, index, render) for index in answers]
    regions = [_to_end_token(text, region, tokenizer) for region in regions]
    regions = [
        region for region, index in zip(regions, answers, strict=True) if _speaks(turns[index])
    ]
    ids, mask = rendered.encode_pieces(tokenizer, _pieces(text, regions))
    if len(ids) > MAX_TOKENS:
        raise jinja_process.failure(f"more than {MAX_TOKENS} tokens")
    return ids, mask


def _marked_regions(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Returns (the text without marks, the stretches between them)."""
    marks = "".join(re.findall(f"[{_START}{_STOP}]", text))
    if marks != (_START + _STOP) * (len(marks) // 2):
        _inexact("generation blocks within one another")
    plain, regions, length = [], [], 0
    for index, part in enumerate(re.split(f"[{_START}{_STOP}]", text)):
        if index % 2:
            regions.append((length, length + len(part)))
        plain.append(part)
        length += len(part)
    return "".join(plain), regions


def _region(text: str, turns, index: int, render) -> tuple[int, int]:
    """Returns the stretch of an answer: what follows its prompt, if all else stays the same."""
    prompt = render(index, True)
    known = render(index + 1, False) if index + 1 < len(turns) else text
    if not (text.startswith(known) and known.startswith(prompt)):
        _inexact(f"turn {index + 1} written otherwise in a longer conversation")
    _check_answer(known[len(prompt) :], turns[index], index)
    return len(prompt), len(known)


def _after_prompt(text: str, region: tuple[int, int], turns, index: int, render):
    """Returns the region without what a prompt already holds (the line break of a header)."""
    start, stop = region
    prompt = re.sub(f"[{_START}{_STOP}]", "", render(index, True))
    if text.startswith(prompt) and start < len(prompt) <= stop:
        start = len(prompt)
    _check_answer(text[start:stop], turns[index], index)
    return start, stop


def _check_answer(region: str, turn: templates.Message, index: int) -> None:
    """Raises unless the region starts with the answer's text (calls may come first)."""
    body, wanted = region.replace(_BREAK, "").strip(), turn.text.strip()
    if not (wanted in body if turn.calls else body.startswith(wanted)):
        _inexact(f"turn {index + 1} rewritten")


def _to_end_token(text: str, region: tuple[int, int], tokenizer) -> tuple[int, int]:
    """Returns the region up to its end token: without the blanks after it, or with it added."""
    start, stop = region
    names = sorted(tokenizer.special, key=len, reverse=True)
    body = text[start:stop].rstrip()
    if any(body.endswith(name) for name in names):
        return start, start + len(body)
    for name in names:
        if text.startswith(name, stop):
            return start, stop + len(name)
    return _inexact("an answer without an end token")


def _speaks(turn: templates.Message) -> bool:
    return bool(turn.text or turn.calls)  # silence is never a target


def _pieces(text: str, regions: list[tuple[int, int]]) -> list[templates.Piece]:
    """Returns the text as pieces; a broken-up name stays broken, since each piece is read alone."""
    pieces, place = [], 0
    for start, stop in regions:
        pieces += [(text[place:start], False), (text[start:stop], True)]
        place = stop
    pieces.append((text[place:], False))
    return [
        templates.Piece(part, True, trained)
        for stretch, trained in pieces
        for part in stretch.split(_BREAK)
    ]


def _message(message: typing.Any) -> templates.Message:
    turn = template_tools.message_of(message)
    interface.check_text(turn.text)
    for call in turn.calls:
        if not _FUNCTION.fullmatch(call.name):
            raise ValueError(
                "a function's name must be letters, digits and _.:/-; got "
                f"{call.name[:40]!r} (jinja_template.encode). Rename it."
            )
    for name in (turn.id, *(call.id for call in turn.calls)):
        if name and not _FUNCTION.fullmatch(name):
            raise ValueError(
                "a call's id must be letters, digits and _.:/-; got "
                f"{name[:40]!r} (jinja_template.encode). Rename it."
            )
    return turn._replace(role="user" if turn.role == "human" else turn.role)


def _dictionary(turn: templates.Message, starts: re.Pattern[str]) -> dict[str, typing.Any]:
    fields: dict[str, typing.Any] = {"role": turn.role, "content": _broken(turn.text, starts)}
    if turn.calls:
        fields["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": _broken(call.arguments, starts)},
            }
            for call in turn.calls
        ]
    if turn.id:
        fields["tool_call_id"] = turn.id
    return fields


def _starts(names: collections.abc.Iterable[str]) -> re.Pattern[str]:
    """Returns the pattern of the first characters of names, wherever one begins."""
    escaped = [re.escape(name) for name in names if len(name) > 1]
    return re.compile(f"(?={'|'.join(escaped)}).", re.DOTALL) if escaped else re.compile("(?!)")


def _broken(value: typing.Any, starts: re.Pattern[str], *, ends: bool = True) -> typing.Any:
    """Returns a JSON value whose texts can spell no control token, alone or with what is near.

    A break stands after the first character of each name that a text spells, and with `ends` at
    both its ends, inside its outer blanks so that stripping works as before. Descriptions of
    functions go without `ends`, since templates compare their types with words.
    """
    if isinstance(value, collections.abc.Mapping):
        return {
            _broken(name, starts, ends=False): _broken(inner, starts, ends=ends)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_broken(inner, starts, ends=ends) for inner in value]
    if not isinstance(value, str) or not value.strip():
        return value
    if any(mark in value for mark in (_START, _STOP, _BREAK)):
        raise ValueError(
            "a text for a Jinja template must hold no noncharacter of U+FDD0..U+FDD2; got one "
            "(jinja_template). Drop the row, or use a template of template_families."
        )
    body = value.strip()
    start = value.index(body)
    inner = starts.sub(lambda match: match[0] + _BREAK, body)
    end = _BREAK if ends else ""
    return f"{value[:start]}{end}{inner}{end}{value[start + len(body) :]}"


def _inexact(what: str) -> typing.NoReturn:
    raise ValueError(
        f"a Jinja template's assistant mask must be exact; got {what} (jinja_template.encode). "
        "Use a template of template_families, a source with {% generation %}, or trained='last'."
    )

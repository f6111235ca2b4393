"""Rows as text with their loss mask, for a terminal or a page: what is a target stands out."""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignjax.data import comparisons, encoding, rows
from alignjax.text import chat

LONGEST = 1200  # characters of a shown side; the middle of a longer one is left out
COLOUR, PLAIN = "\x1b[30;42m", "\x1b[0m"


class Piece(NamedTuple):
    """A stretch of text, and whether its tokens are targets of the loss."""

    text: str
    counted: bool


class Example(NamedTuple):
    """A row: its title, and (name, pieces) of each side."""

    title: str
    sides: tuple[tuple[str, tuple[Piece, ...]], ...]


def examples(
    entries: Sequence[rows.Row],
    kind: str,
    speaker: chat.Speaker | None,
    options: encoding.Options,
) -> list[Example]:
    """The rows as examples of a kind: by token with a tokenizer, else by turn."""
    shown = []
    for row in entries:
        title = f"{row.file}, {row.line}"
        if speaker is None:
            sides = list(_by_turn(row))
        else:
            made, counts = encoding.encode([row], kind, speaker, options)
            sides = [side for example in made for side in _by_token(example, speaker)]
            if not made:
                title = f"{title}: dropped ({counts})"
        shown.append(Example(title, tuple((name, tuple(_cut(p))) for name, p in sides)))
    return shown


def _by_token(
    example: encoding.Example, speaker: chat.Speaker
) -> Iterator[tuple[str, list[Piece]]]:
    if "sizes" not in example:
        mask = example.get("mask", example["ids"] < 0)
        yield _label(example), _pieces(example["ids"].tolist(), mask.tolist(), speaker)
        return
    start = 0
    for number, size in enumerate(example["sizes"].tolist()):
        ids = example["answers"][start : start + size].tolist()
        mask = example["mask"][start : start + size].tolist()
        prompt = example["prompt"].tolist()
        pieces = _pieces(prompt + ids, [False] * len(prompt) + mask, speaker)
        two = len(example["sizes"]) == 2
        yield ("chosen", "rejected")[number] if two else f"answer {number + 1}", pieces
        start += size


def _label(example: encoding.Example) -> str:
    for name in ("desirable", "scores", "step_labels"):
        if name in example:
            return f"{name} {', '.join(str(value) for value in example[name].tolist())}"
    return "row"


def _pieces(ids: list[int], mask: list[bool], speaker: chat.Speaker) -> list[Piece]:
    """Tokens of one kind together; control tokens by their names."""
    names = {token: name for name, token in speaker.special.items()}
    pieces: list[Piece] = []
    run: list[int] = []

    def flush(counted: bool) -> None:
        if run:
            pieces.append(Piece(speaker.decode(run), counted))
            run.clear()

    last = False
    for token, counted in zip(ids, mask, strict=True):
        if counted != last:
            flush(last)
            last = counted
        if token in names:
            flush(last)
            pieces.append(Piece(names[token], counted))
        else:
            run.append(token)
    flush(last)
    return pieces


def _by_turn(row: rows.Row) -> Iterator[tuple[str, list[Piece]]]:
    """The sides of a row by its turns; the assistant's text is the target."""
    if isinstance(row, rows.Text):
        yield "text", [Piece(row.text, True)]
    elif isinstance(row, rows.Answers):
        first = comparisons.best(row)
        for place, answer in enumerate(row.answers):
            name = "chosen" if place == first else "rejected"
            yield name, _turns(row.prompt, False) + _turns(answer, True)
    elif isinstance(row, rows.Conversation):
        yield "conversation", _turns(row.turns, True)
    elif isinstance(row, rows.Labelled):
        labels = ", ".join(f"{name} {number:g}" for name, number in row.labels.items())
        yield labels or "no label", _turns(row.turns, False)
    elif isinstance(row, rows.Prompt):
        yield "prompt", _turns(row.prompt, False)
    elif isinstance(row, rows.Judged):
        said = "desirable" if row.desirable else "undesirable"
        yield said, _turns(row.prompt, False) + _turns(row.answer, True)
    elif isinstance(row, rows.Scored):
        scores = ", ".join(f"{name} {number:g}" for name, number in row.scores.items())
        yield scores, _turns(row.prompt, False) + _turns(row.answer, True)
    elif isinstance(row, rows.Steps):
        labelled = zip(row.steps, row.labels, strict=True)
        steps = [Piece(f"{step}\n[{label:g}]\n", True) for step, label in labelled]
        yield "steps", _turns(row.prompt, False) + steps


def _turns(turns: rows.Turns, trained: bool) -> list[Piece]:
    pieces = []
    for turn in turns:
        counted = trained and turn.role == chat.ASSISTANT
        calls = "".join(f"\ncalls {call.name}" for call in getattr(turn, "calls", ()))
        pieces += [Piece(f"\n[{turn.role}] ", False), Piece(turn.text + calls, counted)]
    return pieces


def _cut(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The pieces with the middle of a long text left out."""
    total, at = sum(len(piece.text) for piece in pieces), 0
    head, tail = LONGEST * 2 // 3, LONGEST // 3
    for piece in pieces:
        text, start = piece.text, at
        at += len(text)
        if total <= LONGEST or at <= head or start >= total - tail:
            yield piece
            continue
        before = text[: max(head - start, 0)]
        after = text[max(total - tail - start, 0) :] if at > total - tail else ""
        mark = " [...] " if before or start == head else ""
        if before or after:
            yield Piece(f"{before}{mark}{after}", piece.counted)


def visible(text: str) -> str:
    """The text with control characters, but for line breaks and tabs, as their codes."""

    def shown(match: re.Match[str]) -> str:
        return f"<U+{ord(match[0]):04X}>"

    return _HIDDEN.sub(shown, text)


_HIDDEN = re.compile(
    "["
    + "".join(
        re.escape(chr(code))
        for code in range(0x2100)
        if unicodedata.category(chr(code)) in ("Cc", "Cf") and chr(code) not in "\n\t"
    )
    + "\ud800-\udfff\ufeff]"
)


def terminal(shown: Sequence[Example], *, colour: bool) -> list[str]:
    """Lines for a terminal; without colour targets stand between »« marks."""
    start, end = (COLOUR, PLAIN) if colour else ("»", "«")
    lines = []
    for example in shown:
        lines.append(f"--- {visible(example.title)}")
        for name, pieces in example.sides:
            parts = [
                f"{start}{visible(p.text)}{end}" if p.counted else visible(p.text) for p in pieces
            ]
            lines += [f"{visible(name)}:", "".join(parts).strip("\n")]
    return lines


def page(title: str, lines: Sequence[str], shown: Sequence[Example]) -> str:
    """A page of HTML; whatever the rows hold is text there."""
    text = html.escape(visible("\n".join(lines)))
    body = [f"<h1>{html.escape(visible(title))}</h1>", f"<pre>{text}</pre>"]
    for example in shown:
        body.append(f"<h2>{html.escape(visible(example.title))}</h2>")
        for name, pieces in example.sides:
            body.append(f"<h3>{html.escape(visible(name))}</h3><pre>")
            for piece in pieces:
                text = html.escape(visible(piece.text))
                body.append(f"<mark>{text}</mark>" if piece.counted else text)
            body.append("</pre>")
    style = "body{font-family:sans-serif;max-width:60em;margin:auto}pre{white-space:pre-wrap}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(visible(title))}</title><style>{style}mark{{background:#9e9}}</style>"
        f"</head>\n<body>\n{''.join(body)}\n</body></html>\n"
    )

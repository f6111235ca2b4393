"""What an item may hold, its identity, and the refusal of what it may not."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# A line of our own loader holds 1 MiB. A pair has the prompt twice, so an item has half of that.
TEXT_BYTES = 100_000
ITEM_BYTES = 400_000
ANSWERS = 9  # one for each digit of a keyboard


class Refusal(ValueError):
    """Something that is not taken, in one line. status: the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class Candidate(NamedTuple):
    """An answer. model: what wrote it, never shown before the judgement. logprob: nats."""

    text: str
    model: str = ""
    logprob: float | None = None


class Item(NamedTuple):
    """A prompt as (role, text) turns and its answers.

    gold: {kind: payload} in the answers' own order, where the right judgement is known.
    source: where the answers come from: run, fingerprint of its checkpoint, sampling.
    """

    turns: tuple[tuple[str, str], ...]
    candidates: tuple[Candidate, ...]
    language: str = ""
    gold: Mapping[str, Any] | None = None
    source: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        """sha256 in hex of the turns and the answers' texts."""
        said = [self.turns, [candidate.text for candidate in self.candidates]]
        text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def check_text(name: str, text: Any, *, limit: int = TEXT_BYTES, empty: bool = False) -> str:
    """The text, which is valid Unicode without NUL and short enough.

    Raises:
      Refusal: it is not.
    """
    if not isinstance(text, str) or (not empty and not text.strip()):
        got = "an empty string" if isinstance(text, str) else type(text).__name__
        raise Refusal(f"{name} must be a non-empty string; got {got}. Write text there.")
    if "\0" in text:
        raise Refusal(
            f"{name} must hold no NUL; got one at character {text.index(chr(0))}. Leave it out."
        )
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise Refusal(
            f"{name} must be valid Unicode; got a lone surrogate at character {error.start}. "
            "Repair the escape."
        ) from None
    if size > limit:
        raise Refusal(f"{name} must have at most {limit} bytes; got {size}. Shorten it.", 413)
    return text


def checked(item: Item, where: str) -> Item:
    """The item, after checks of its texts and sizes.

    Raises:
      Refusal: a text is refused, it has no answer, too many, or equal ones, or is too large.
    """
    if not item.turns or item.turns[-1][0] == "assistant":
        raise Refusal(f"a prompt must end before the assistant speaks ({where}). Correct it.")
    if not item.candidates:
        raise Refusal(f"an item must have an answer; got none ({where}). Leave it out.")
    if len(item.candidates) > ANSWERS:
        raise Refusal(
            f"an item must have at most {ANSWERS} answers; got {len(item.candidates)} ({where})."
        )
    for i, (_, text) in enumerate(item.turns):
        check_text(f"turn {i + 1} of the prompt ({where})", text, limit=ITEM_BYTES)
    for i, candidate in enumerate(item.candidates):
        check_text(f"answer {i + 1} ({where})", candidate.text)
    texts = [candidate.text for candidate in item.candidates]
    if len(set(texts)) < len(texts):
        raise Refusal(f"answers must differ; got equal ones ({where}). Keep one of them.")
    size = size_of([*(text for _, text in item.turns), *texts])
    if size > ITEM_BYTES:
        raise Refusal(
            f"an item must have at most {ITEM_BYTES} bytes; got {size} ({where}). Shorten it.", 413
        )
    return item


def size_of(texts: Sequence[str]) -> int:
    """Bytes of texts in a file of JSON lines."""
    return sum(len(json.dumps(text, ensure_ascii=False).encode()) for text in texts)

"""The interface by which a server asks a guard, before the model and while it answers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from alignjax.text import chat

WINDOW = 32  # tokens of an answer between two questions to a guard


class Verdict(NamedTuple):
    """What a guard says of a text.

    blocked: whether it must not go out. categories: {name: probability from 0 to 1}; NaN where it
    could not be told. error: why there is no verdict, in one line, or None; a server takes a
    verdict with an error as it takes an exception.
    """

    blocked: bool
    categories: Mapping[str, float] = {}
    error: str | None = None


class Guard(Protocol):
    """Judges conversations. Called from several threads at once.

    The calls see whole text, decoded, never tokens or pieces of characters.
    """

    def before(self, turns: Sequence[chat.Turn]) -> Verdict:
        """The verdict on a conversation before the model answers it."""
        ...

    def window(self, turns: Sequence[chat.Turn], text_so_far: str) -> Verdict:
        """The verdict on an answer so far, all of it: at every window of tokens, before any text of
        that window is sent, and at its end."""
        ...

    def answered(self, turns: Sequence[chat.Turn], text: str, verdict: Verdict) -> None:
        """Told once of an answer that went out whole, with the verdict on its end."""
        ...

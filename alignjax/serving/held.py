"""What of an answer may go out: windows of tokens, each once a guard has passed all text so far."""

from typing import NamedTuple

from alignjax.core import shapes
from alignjax.serving import requests


class Passed(NamedTuple):
    """Tokens and text that may be sent."""

    scored: tuple[requests.Scored, ...]
    text: str


class Held:
    """A choice's tokens that the guard has not passed.

    whole: the answer so far as it reads, its pieces put together without anything between, which is
    what a guard must see: a word may be cut anywhere.
    """

    def __init__(self, window: int) -> None:
        """window: tokens between two questions to the guard; 0 asks nobody."""
        shapes.check_number("window", window, minimum=0)
        self.whole = ""
        self._window, self._text = window, ""
        self._scored: list[requests.Scored] = []

    def add(self, scored: tuple[requests.Scored, ...], text: str) -> None:
        """Holds what a step drew: tokens, and the characters that these end."""
        self._scored += scored
        self._text += text
        self.whole += text

    def is_due(self, ends: bool) -> bool:
        """Whether the guard is to be asked before anything goes out: a window is full, or the
        answer ends. With fewer tokens nothing goes out."""
        return self._window > 0 and (ends or len(self._scored) >= self._window)

    def is_held(self, ends: bool) -> bool:
        """Whether what is there must wait for more."""
        return self._window > 0 and not self.is_due(ends)

    def passed(self) -> Passed:
        """All that is held, which the guard has passed."""
        out = Passed(tuple(self._scored), self._text)
        self._scored, self._text = [], ""
        return out

    def dropped(self) -> None:
        """Forgets what the guard has not passed: it never goes out."""
        self._scored, self._text = [], ""

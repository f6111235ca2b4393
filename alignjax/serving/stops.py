"""Texts that end an answer, found in text that comes in pieces."""

from collections.abc import Sequence


class Stops:
    """Lets text through up to that of the texts `stop` which is complete first.

    What may be its beginning waits.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop, self._held = tuple(stop), ""

    def add(self, text: str) -> tuple[str, bool]:
        """(text that may go out, whether one of the texts is complete; it is left out)."""
        if not self._stop:
            return text, False
        text = self._held + text
        places = [(at + len(own), at) for own in self._stop if (at := text.find(own)) >= 0]
        if places:
            self._held = ""
            return text[: min(places)[1]], True
        held = max(_overlap(text, own) for own in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def end(self) -> str:
        """What still waits where nothing follows."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next(n for n in range(longest, -1, -1) if text.endswith(stop[:n]))

"""How far a run is: a bar with rate and time left on a terminal, plain lines otherwise."""

import sys
import time
from typing import TextIO

import tqdm

PLAIN_EVERY = 10.0  # seconds between plain lines


class Progress:
    """Progress over a number of steps."""

    def __init__(self, name: str, total: int, *, start: int = 0, out: TextIO | None = None):
        self._out = out or sys.stderr
        self._name, self._total, self._start, self._done = name, total, start, start
        self._begin = self._said = time.monotonic()
        self._bar = None
        if self._out.isatty():
            self._bar = tqdm.tqdm(
                total=total, initial=start, desc=name, unit="step", file=self._out, leave=True
            )

    def update(self, done: int, note: str = "") -> None:
        """Says that `done` steps are complete, with a short note such as the loss."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._done)
        self._done = done
        now = time.monotonic()
        if self._bar is None and now - self._said >= PLAIN_EVERY and done < self._total:
            self._said = now
            self._line(now, note)

    def _line(self, now: float, note: str) -> None:
        seconds = max(now - self._begin, 1e-9)
        rate = (self._done - self._start) / seconds
        left = (self._total - self._done) / rate if rate else 0.0
        print(
            f"{self._name}: {self._done}/{self._total} steps, {rate:.2f} steps/s, "
            f"{left:.0f} s left{', ' + note if note else ''}",
            file=self._out,
            flush=True,
        )

    def close(self, note: str = "") -> None:
        """The last line."""
        if self._bar is not None:
            self._bar.set_postfix_str(note)
            self._bar.close()
        else:
            self._line(time.monotonic(), note)

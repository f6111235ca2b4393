"""How far something is: a bar with rate and time left on a terminal, plain lines otherwise."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

import tqdm

from alignjax.parallel import processes

PLAIN_EVERY = 10.0  # seconds between plain lines
TICK = 1.0  # seconds between changes of a bar that waits


class Progress:
    """Progress over a number of steps, or of other units.

    brief: whether plain lines are left out where it takes less than `PLAIN_EVERY`.
    """

    def __init__(
        self,
        name: str,
        total: int,
        *,
        start: int = 0,
        unit: str = "steps",
        brief: bool = False,
        out: TextIO | None = None,
    ):
        self._out = out or sys.stderr
        self._name, self._total, self._start, self._done = name, total, start, start
        self._unit, self._brief = unit, brief
        self._begin = self._said = time.monotonic()
        self._bar = None
        if self._out.isatty():
            self._bar = tqdm.tqdm(
                total=total, initial=start, desc=name, unit=unit.removesuffix("s"),
                file=self._out, leave=True,
            )  # fmt: skip

    def update(self, done: int, note: str = "") -> None:
        """Says that `done` units are complete, with a short note such as the loss."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._done)
        self._done = done
        now = time.monotonic()
        if self._bar is None and now - self._said >= PLAIN_EVERY and done < self._total:
            self._said = now
            self._line(now, note)

    @contextlib.contextmanager
    def waiting(self, words: str) -> Iterator[None]:
        """Inside, something of unknown length goes on: the bar counts its seconds, or lines do."""
        over, begin = threading.Event(), time.monotonic()

        def tell() -> None:
            while not over.wait(TICK if self._bar is not None else PLAIN_EVERY):
                seconds = f"{time.monotonic() - begin:.0f} s"
                if self._bar is not None:
                    self._bar.set_postfix_str(f"{words}, {seconds}")
                else:
                    self._print(f"{self._name}: {words}, {seconds} so far")

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._begin += time.monotonic() - begin  # rates are of what comes after it

    def _line(self, now: float, note: str) -> None:
        seconds = max(now - self._begin, 1e-9)
        rate = (self._done - self._start) / seconds
        left = (self._total - self._done) / rate if rate else 0.0
        self._print(
            f"{self._name}: {self._done}/{self._total} {self._unit}, {rate:.2f} {self._unit}/s, "
            f"{left:.0f} s left{', ' + note if note else ''}"
        )

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            print(line, file=self._out, flush=True)

    def close(self, note: str = "") -> None:
        """The last line."""
        if self._bar is not None:
            self._bar.set_postfix_str(note)
            self._bar.close()
            return
        now = time.monotonic()
        if not self._brief or now - self._begin >= PLAIN_EVERY:
            self._line(now, note)


class Silent:
    """In place of a bar where nothing is to be said."""

    def update(self, done: int, note: str = "") -> None:
        """Says nothing."""


@contextlib.contextmanager
def shown(
    words: str, total: int, *, start: int = 0, unit: str = "steps", out: TextIO | None = None
) -> Iterator[Progress | Silent]:
    """Progress while the body runs, in the first process; `words` "" says nothing."""
    if not words or not processes.is_first():
        yield Silent()
        return
    bar = Progress(words, total, start=start, unit=unit, brief=True, out=out)
    try:
        yield bar
    finally:
        bar.close()

"""Writing to storage that may hang."""

import contextlib
import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable
from typing import Any

from alignjax.core import errors

POLL = 1.0  # seconds between two checks of what was written


class Complaints(logging.Handler):
    """Orbax's log record of a save that failed in the background.

    It keeps the exception for whoever asks first, which with several processes is a thread of its
    own that then waits for processes whose saves are well; its log tells at once.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the first exception."""
        # A command hides the tracebacks of libraries from those who read its log, not from us.
        caught = record.exc_info or getattr(record, "untraced", None)
        if caught and "orbax" in record.pathname and "save" in record.getMessage():
            self.error = self.error or caught[1]


def written(folder: pathlib.Path) -> tuple[int, int]:
    """(files, bytes) of what Orbax is saving in a folder of checkpoints."""
    sizes = []
    for saving in folder.glob("*tmp*"):
        for place, folders, files in os.walk(saving):  # which passes over what it can't read
            for name in (*folders, *files):
                with contextlib.suppress(OSError):  # renamed under our eyes
                    sizes.append(os.stat(os.path.join(place, name)).st_size)
    return len(sizes), sum(sizes)


def patiently(
    act: Callable[[], Any], check: Callable[[], Any], folder: pathlib.Path, seconds: float
) -> None:
    """Does something that saves into the folder, however long it takes while it gets on.

    It runs in a thread of its own and so do the checks of the folder: a hanging file system can't
    take the caller with it.

    Args:
      act: what is done. check: raises what went wrong in the background; `act` itself may wait in
        vain then for other processes, which wait for this one.

    Raises:
      errors.Stalled: nothing was written for so many seconds. And what `act` or `check` raises.
    """
    raised: list[BaseException] = []
    done = threading.Event()
    moved = [time.monotonic()]

    def work() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)
        done.set()

    def watch() -> None:
        seen = written(folder)
        while not done.wait(min(POLL, seconds / 4)):
            now = written(folder)
            if now != seen:
                seen = now
                moved[0] = time.monotonic()

    for target in (work, watch):
        threading.Thread(target=target, daemon=True).start()
    while not done.wait(min(POLL, seconds / 4)):
        check()
        if time.monotonic() - moved[0] > seconds:
            raise errors.Stalled(
                f"a checkpoint in {folder} made no progress for {seconds:g} s. Earlier ones are "
                "untouched; check the storage and run the same command again, with a larger "
                "loop.save_patience if it is merely slow."
            )
    if raised:
        raise raised[0]

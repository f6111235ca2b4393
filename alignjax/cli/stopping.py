"""SIGTERM and SIGINT where there is nothing to save: the process ends at once, with exit code 143.

Nothing is raised. While Python loads modules and XLA compiles, code of other languages calls back
into Python: an exception there is printed and forgotten, and the run trains on, or it ends in a
crash. The train loop, which has a state to save, counts signals with a handler of its own.
"""

import os
import signal
import threading
from typing import Any

CODE = 143  # as `core.errors.Preempted`, which is not loaded yet
NUMBERS = (signal.SIGTERM, signal.SIGINT)
LINE = b"alignjax: stopped by a signal. The same command goes on from the last checkpoint.\n"


def leave(number: int, frame: Any) -> None:
    """The handler: a line on stderr, and no clean-up that another thread could hold up."""
    try:
        os.write(2, LINE)
    finally:
        os._exit(CODE)


class AtOnce:
    """Both signals end the process while the body runs, or until `undo`.

    Only the main thread may ask for it; elsewhere nothing changes. A signal that is ignored, as
    that of a shell's background job, stays so.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "AtOnce":
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, leave)
        return self

    def undo(self) -> None:
        """Puts back the handlers that were there, unless others came since."""
        for number, handler in self._before.items():
            if signal.getsignal(number) is leave:
                signal.signal(number, handler)

    def __exit__(self, *_: Any) -> None:
        self.undo()

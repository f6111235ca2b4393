"""Work in a thread beside the loop, in order, with its errors raised in the loop."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

MOST = 8  # calls that may wait; one more waits for the first


class Background:
    """Runs calls one after the other in a thread of its own.

    What a call raises is raised by the next method called here; the calls behind it are dropped.
    """

    def __init__(self, name: str):
        self._pool = concurrent.futures.ThreadPoolExecutor(1, name)
        self._waiting: list[concurrent.futures.Future[Any]] = []

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Queues a call."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= MOST):
            self._finish()
        self._waiting.append(self._pool.submit(call, *arguments))

    def wait(self) -> None:
        """Returns when all calls are done."""
        while self._waiting:
            self._finish()

    def _finish(self) -> None:
        try:
            self._waiting.pop(0).result()
        except BaseException:
            for call in self._waiting:
                call.cancel()
            self._waiting.clear()
            raise

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown(wait=True)

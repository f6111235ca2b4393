"""Tasks of `prepare` in this process or in others, by need; a killed worker is replaced."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from alignjax.core import errors, source_file

RESTARTS = 3  # of workers that were killed, before the run stops
AHEAD = 2  # tasks that wait for each worker


def default_count() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(
    function: Callable[..., Any], shared: tuple[Any, ...], tasks: Iterable[Any], count: int
) -> Iterator[Any]:
    """Yields function(*shared, task) of every task, as they end, from `count` processes.

    function, shared and the tasks are sent to the processes; with one process, or where a class of
    `shared` is of a file that cannot be imported there, the tasks run in this one.

    Raises:
      errors.Failure: workers were killed again and again.
    """
    tasks = list(tasks)
    if count <= 1 or len(tasks) <= 1 or any(source_file.file_of(type(x)) for x in shared):
        for task in tasks:
            yield function(*shared, task)
        return
    left = dict(enumerate(tasks))
    for attempt in itertools.count():
        try:
            yield from _round(function, shared, left, min(count, len(left)))
            return
        except concurrent.futures.process.BrokenProcessPool:
            if attempt >= RESTARTS:
                raise errors.Failure(
                    f"workers that prepare data were killed {attempt + 1} times; {len(left)} of "
                    f"{len(tasks)} parts are left. For want of memory? Use fewer with --workers; "
                    "the same command goes on from there."
                ) from None


def _round(
    function: Callable[..., Any], shared: tuple[Any, ...], left: dict[int, Any], count: int
) -> Iterator[Any]:
    """Runs the tasks that are left, and takes each out when it has ended."""
    pool = concurrent.futures.ProcessPoolExecutor(
        count, multiprocessing.get_context("spawn"), _begin
    )
    waiting = iter(list(left.items()))
    running: dict[concurrent.futures.Future[Any], int] = {}

    def submit(most: int) -> None:
        for number, task in itertools.islice(waiting, most):
            running[pool.submit(function, *shared, task)] = number

    try:
        with _without_main():
            submit(count * AHEAD)
        while running:
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                result, number = future.result(), running.pop(future)
                del left[number]
                submit(1)
                yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    """A worker's first call: it leaves when its parent does, however that ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    owner = multiprocessing.parent_process()

    def watch() -> None:
        if owner is not None:
            owner.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Processes that start inside do not run this one's script again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main

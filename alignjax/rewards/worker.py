"""A process that scores rows, one after the other; see `pool`, which starts and ends it.

It is run by path, and imports of this package only what needs no JAX. It speaks JSON lines on the
pipes that it was started with; what jobs print goes nowhere. A request {"handler", "spec",
"payload"} is answered by {"ready": true} once its handler is loaded, and {"value"} or {"error"} at
its end. A handler is a function "module:name" of a spec, which returns a function of a payload.

Memory, core files, and how many processes and threads there may be are bounded here; time by the
other side, which ends the process.
"""

import contextlib
import importlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

PARENT_SECONDS = 1.0  # between looks whether whoever started us is alive
TASKS = 256 + 4 * (os.cpu_count() or 1)  # processes and threads; libraries start some per CPU


def limit(kind: int, value: int) -> None:
    """A limit of the process, as far as its hard limit allows."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def watch(parent: int) -> None:
    """Ends this process, and what it started, once its parent is gone."""
    from alignjax.rewards import processes

    token = os.environ.get(processes.TOKEN, "")
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    processes.sweep(os.getpid(), token)
    os._exit(1)


def line(error: BaseException) -> str:
    """An error in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes of the protocol, out of reach of what jobs read and print."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb")


def main(memory_mib: int, user: int) -> None:
    """Answers requests on stdin until it ends."""
    requests, answers = own_pipes()
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from alignjax.rewards import processes

    own = os.getpid()
    handlers: dict[str, Callable[[Any], Any]] = {}
    processes.adopt_orphans()
    if sys.platform == "linux":  # elsewhere it is refused, or means nothing
        limit(resource.RLIMIT_AS, memory_mib << 20)
    limit(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(OSError):  # the other side counts as well
        processes.bound(TASKS, user)
    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()

    def answer(what: dict[str, Any]) -> None:
        if os.getpid() != own:
            os._exit(0)  # a job forked, and its child came back here
        answers.write(json.dumps(what).encode() + b"\n")
        answers.flush()

    for request in map(json.loads, requests):
        key = json.dumps([request["handler"], request["spec"]])
        try:
            if key not in handlers:
                module, _, name = request["handler"].partition(":")
                handlers[key] = getattr(importlib.import_module(module), name)(request["spec"])
        except BaseException as error:
            answer({"error": line(error), "broken": True})
            continue
        answer({"ready": True})
        try:
            answer({"value": handlers[key](request["payload"])})
        except MemoryError as error:
            answer({"error": line(error), "last": True})
            return
        except BaseException as error:  # of SystemExit too: a job doesn't end its worker
            answer({"error": line(error)})


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

"""The process that runs one program of a model; see `programs`, which starts and judges it.

It is run by path and reads its task from stdin: {"folder", "report", "nonce", "user", "seconds",
"memory_mib", "tests", "input"}. Before anything of the program runs, it is bounded in CPU time,
memory, processes, open files and what it may write, and under root it becomes a user of its own,
who can read files but change none. What it may tell goes to the file descriptor `report`, in lines
that begin with the nonce: "ready" once all that is done, "pass 3" for test 3.
"""

import importlib
import json
import os
import resource
import runpy
import sys
from collections.abc import Mapping
from typing import Any

TASKS = 32  # processes and threads
FILES = 64  # open at once
WRITTEN = 16 << 20  # bytes in a file


def bound(task: Mapping[str, Any]) -> None:
    """The limits of the process, for good."""
    from alignjax.rewards import processes

    if task["user"]:
        processes.become(task["user"])
        try:
            os.close(os.open(os.__file__, os.O_RDONLY))
        except OSError:
            sys.exit(
                f"under root it runs as another user, who can't read Python at {sys.prefix}; put "
                "Python where every user may read it, or train as another user than root"
            )
    limits = {
        resource.RLIMIT_CPU: task["seconds"],
        resource.RLIMIT_AS: task["memory_mib"] << 20,
        resource.RLIMIT_FSIZE: WRITTEN,
        resource.RLIMIT_NOFILE: FILES,
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform != "linux":
        del limits[resource.RLIMIT_AS]  # refused, or means nothing
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # One more second of CPU time, for who ignores the first signal.
        resource.setrlimit(kind, (value, value + (kind == resource.RLIMIT_CPU)))
    processes.bound(TASKS)


def main() -> None:
    """Runs what stands on stdin, inside the sandbox."""
    task = json.load(sys.stdin)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.insert(0, root)
    bound(task)
    sys.path.remove(root)
    os.chdir(task["folder"])
    os.environ |= {"HOME": task["folder"], "TMPDIR": task["folder"]}
    sys.path.insert(0, task["folder"])
    source = os.path.join(task["folder"], "input.txt" if task["input"] else os.devnull)
    os.dup2(os.open(source, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, closefd=False)
    nonce, report = task["nonce"], task["report"]
    os.write(report, f"{nonce} ready\n".encode())
    if task["input"]:
        sys.argv = ["candidate.py"]
        runpy.run_path(os.path.join(task["folder"], "candidate.py"), run_name="__main__")
        return
    names = vars(importlib.import_module("candidate"))
    for number in range(task["tests"]):
        file = os.path.join(task["folder"], f"test_{number}.py")
        try:
            runpy.run_path(file, init_globals=dict(names), run_name="test")
        except BaseException:
            continue
        os.write(report, f"{nonce} pass {number}\n".encode())


if __name__ == "__main__":
    main()

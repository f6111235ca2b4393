"""Programs of a model, run and judged by a worker; imports no JAX. See `code` and `program`."""

import contextlib
import json
import math
import os
import pathlib
import resource
import secrets
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from alignjax.rewards import processes

LOOK_SECONDS = 0.5  # between looks at one that is late
IDLE = 0.03  # share of a CPU below which it does nothing
SHOWN = 2000  # bytes of what a process says when it can't start


class Run(NamedTuple):
    """How a program ended.

    code: exit code, negative for a signal; None where the wall clock stopped it. passed: numbers of
    the tests that it passed. output: what it wrote. late: whether its CPU time ran out.
    """

    code: int | None
    passed: frozenset[int]
    output: bytes
    late: bool


def wall(seconds: float) -> float:
    """Wall-clock limit of a program that may use so many seconds of CPU time, once it is idle."""
    return 2 * seconds + 1


def patience(seconds: float) -> float:
    """Wall-clock limit of one that works, on a machine that has little time for it."""
    return 10 * seconds + 1


def code(spec: Mapping[str, Any]) -> Callable[[Any], float]:
    """The share of tests that a program passes.

    payload: {"program", "tests": sources, "seconds", "memory_mib", "all"}, or with "pairs": [input,
    output] in place of "tests". all: stop at the first test that fails.
    """

    def score(payload: Mapping[str, Any]) -> float:
        if "tests" in payload:
            tests = payload["tests"]
            ran = run(payload, {f"test_{i}.py": test for i, test in enumerate(tests)}, len(tests))
            return len(ran.passed) / len(tests)
        passed = 0
        for given, wanted in payload["pairs"]:
            ran = run(payload, {"input.txt": given}, 0)
            right = ran.code == 0 and same(ran.output, wanted)
            passed += right
            if ran.late or (payload["all"] and not right):
                break
        return passed / len(payload["pairs"])

    return score


def same(output: bytes, wanted: str) -> bool:
    """Whether two outputs are equal but for blanks at the ends of lines and of the whole."""
    got = output.decode("utf-8", "replace")
    return [x.rstrip() for x in got.rstrip().splitlines()] == [
        x.rstrip() for x in wanted.rstrip().splitlines()
    ]


def run(payload: Mapping[str, Any], files: Mapping[str, str], tests: int) -> Run:
    """Runs a program once.

    Raises:
      RuntimeError: it could not be started (or only as root), or was stopped by something else
        than its own doing: the wall clock, though it had CPU time left, or a kill from outside.
    """
    user = int(os.environ.get(processes.USER, "0"))
    if os.geteuid() == 0 and not user:
        raise RuntimeError(
            "programs must not run as root, and here is no other user to run them as; train as "
            "another user than root"
        )
    with tempfile.TemporaryDirectory(prefix="alignjax-", ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        for file, text in {"candidate.py": payload["program"], **files}.items():
            (folder / file).write_text(text, encoding="utf-8", errors="replace")
            (folder / file).chmod(0o644)
        if user:
            os.chown(folder, user, user)
        return _run(payload, folder, tests, user)


def _run(payload: Mapping[str, Any], folder: pathlib.Path, tests: int, user: int) -> Run:
    token = f"{os.environ.get(processes.TOKEN, '')}{secrets.token_hex(4)}/"
    environment = {
        processes.TOKEN: token, "PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    }  # fmt: skip
    seconds = math.ceil(payload["seconds"])
    before = _cpu_seconds()
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as report,
        tempfile.TemporaryFile() as said,
    ):
        task = {
            "folder": str(folder), "report": report.fileno(), "nonce": secrets.token_hex(16),
            "user": user, "seconds": seconds, "memory_mib": payload["memory_mib"], "tests": tests,
            "input": not tests,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-B", str(pathlib.Path(__file__).with_name("program.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if tests else output,
            stderr=said,
            pass_fds=(report.fileno(),),
            env=environment,
            start_new_session=True,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(task).encode())
        begun = time.monotonic()
        ended = _wait(process, payload["seconds"], token, user)
        waited = time.monotonic() - begun
        _clear(process, token, user)
        late = _cpu_seconds() - before >= seconds
        lines = [line.split() for line in _read(report).decode("ascii", "replace").splitlines()]
        told = [line[1:] for line in lines if line[:1] == [task["nonce"]]]
        if ["ready"] not in told:
            words = _read(said)[-SHOWN:].decode("utf-8", "replace").split("\n")
            raise RuntimeError(f"a program could not be started: {' '.join(words[-2:]).strip()}")
        if not late and not ended:
            raise RuntimeError(
                f"a program did not end within {waited:.0f} seconds, though it had CPU time left"
            )
        if not late and process.returncode == -9:
            raise RuntimeError("a program was killed from outside; is there memory enough?")
        passed = frozenset(int(words[1]) for words in told if words[0] == "pass")
        return Run(process.returncode if ended else None, passed, _read(output), late)


def _read(file: Any) -> bytes:
    file.seek(0)
    return file.read()


def _cpu_seconds() -> float:
    """CPU time of all processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _wait(process: subprocess.Popen[bytes], seconds: float, token: str, user: int) -> bool:
    """Whether it ended by itself, before the clock says that it is idle or has had enough time."""
    end = time.monotonic() + patience(seconds)
    if _ends_within(process, wall(seconds)):
        return True
    used = -1.0
    while time.monotonic() < end:
        before = used
        used = processes.cpu_seconds(processes.members(process.pid, token, (user,) if user else ()))
        if used >= seconds or used - before < IDLE * LOOK_SECONDS:
            return False  # all its processes together have had their time, or none does anything
        if _ends_within(process, LOOK_SECONDS):
            return True
    return False


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    if hasattr(os, "pidfd_open"):
        handle = os.pidfd_open(process.pid)
        try:
            ended = bool(select.select([handle], [], [], seconds)[0])
        finally:
            os.close(handle)
        if ended:
            process.wait()
        return ended
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _clear(process: subprocess.Popen[bytes], token: str, user: int) -> None:
    """Ends what a program left behind, and itself."""
    if process.returncode is not None and not _has_children():
        return  # orphans would be ours: see `processes.adopt_orphans`
    processes.sweep(process.pid, token, (user,) if user else ())
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    _has_children()


def _has_children() -> bool:
    """Whether a child lives; takes note of those that have ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
    return False

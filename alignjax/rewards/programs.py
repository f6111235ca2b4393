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
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from alignjax.rewards import processes

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
    """Wall-clock limit of a program that may use so many seconds of CPU time."""
    return 2 * seconds + 1


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
      RuntimeError: it could not be started, or was stopped by something else than its own doing:
        the wall clock, though it had CPU time left, or a kill from outside.
    """
    user = int(os.environ.get(processes.USER, "0"))
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
        ended = _wait(process, wall(payload["seconds"]))
        _clear(process, token, user)
        late = _cpu_seconds() - before >= seconds
        lines = [line.split() for line in _read(report).decode("ascii", "replace").splitlines()]
        told = [line[1:] for line in lines if line[:1] == [task["nonce"]]]
        if ["ready"] not in told:
            words = _read(said)[-SHOWN:].decode("utf-8", "replace").split("\n")
            raise RuntimeError(f"a program could not be started: {' '.join(words[-2:]).strip()}")
        if not late and not ended:
            limit = wall(payload["seconds"])
            raise RuntimeError(f"a program did not end within {limit:g} seconds and used no CPU")
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


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it ended by itself in time."""
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

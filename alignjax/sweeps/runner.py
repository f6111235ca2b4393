"""Runs what is not finished of a sweep, several processes at once.

A run is a process of `alignjax train` or `alignjax run`, whose own resume it goes on by. Its folder
is locked by a file that the process inherits: where a sweep was killed and its runs live on, the
next one waits for them.
"""

import fcntl
import os
import pathlib
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple

from alignjax.core import errors, untrusted
from alignjax.lifecycles import lifecycle
from alignjax.sweeps import folder

Log = Callable[[str], None]
POLL = 0.1  # seconds
TAIL = 64 * 1024  # bytes of a log in which the reason of a failure is looked for
STOPPED = errors.Preempted.code


class Failed(NamedTuple):
    """A run that did not finish, and the line that tells why."""

    cell: folder.Cell
    line: str


class _Running(NamedTuple):
    process: subprocess.Popen
    cell: folder.Cell
    begin: float


class Stop:
    """SIGTERM and SIGINT as a flag, which the runs are told of."""

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def run(cells: Sequence[folder.Cell], sweep: pathlib.Path, jobs: int, log: Log) -> list[Failed]:
    """Runs the cells, at most `jobs` at once; one that fails keeps no other from running.

    Raises:
      ValueError: another process runs this sweep.
      errors.Preempted: a signal asked to stop; runs that train have saved.
    """
    with (sweep / "lock").open("a") as held:
        if not _taken(held):
            raise ValueError(
                f"a sweep must be run by one process; got {sweep}, in which another runs. Wait for "
                "it, or stop it."
            )
        return _run(list(cells), sweep, jobs, log)


def _run(waiting: list[folder.Cell], sweep: pathlib.Path, jobs: int, log: Log) -> list[Failed]:
    failed: list[Failed] = []
    running: list[_Running] = []
    total, done = len(waiting), 0
    with Stop() as stop:
        while running or (waiting and not stop.asked):
            while waiting and len(running) < jobs and not stop.asked:
                started = _start(waiting.pop(0), sweep, log, stop)
                done += started is None
                running += [started] if started else []
            if stop.asked:
                for own in running:
                    own.process.send_signal(signal.SIGTERM)
                while any(_is_alive(own.process.pid) for own in running):
                    time.sleep(POLL)
            for own in list(running):
                before = _spent()
                if own.process.poll() is None:
                    continue
                running.remove(own)
                done += 1
                line = _ended(own, _spent() - before)  # whose time is counted when it is reaped
                seconds = time.monotonic() - own.begin
                log(f"[{done}/{total}] {own.cell.name}: {line or f'{seconds:.0f} s'}")
                if line:
                    failed.append(Failed(own.cell, line))
            time.sleep(POLL)
    if stop.asked:
        raise errors.Preempted("stopped by a signal. The same command goes on from there.")
    return failed


def _taken(file: IO[str]) -> bool:
    """Whether the lock of a file is ours now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(cell: folder.Cell, sweep: pathlib.Path, log: Log, stop: Stop) -> _Running | None:
    """The running process; None where the run has finished, or the sweep is to stop."""
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    with cell.beside("lock").open("a") as held:
        told = False
        while not _taken(held):
            if not told:
                log(f"{cell.name}: waits for a run of it that an earlier sweep left")
            told = True
            if stop.asked:
                return None
            time.sleep(POLL)
        if cell.is_finished():
            log(f"{cell.name}: finished before, skipped")
            return None
        with cell.beside("log").open("ab") as out:
            process = subprocess.Popen(
                folder.program(cell),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=folder.environment(sweep),
                pass_fds=(held.fileno(),),
                start_new_session=True,  # a signal from the keyboard reaches it through the sweep
            )
    return _Running(process, cell, time.monotonic())


def _is_alive(pid: int) -> bool:
    """Whether a process of ours still runs; it is not reaped here."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, flags) is None


def _spent() -> float:
    """Processor seconds of all runs that have been reaped."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ended(own: _Running, spent: float) -> str:
    """Writes how a run ended; the line that tells why it failed, or ""."""
    cell, code = own.cell, own.process.returncode
    before = folder.outcome(cell)
    seconds = before.get("seconds", 0.0) + time.monotonic() - own.begin
    spent += before.get("cpu_seconds", 0.0)
    finished = code in (0, 1) and cell.is_finished()
    line = "" if finished else f"exit code {code}: {reason(cell)}"
    said = line or (reason(cell) if code else "")
    told = {"code": code, "seconds": seconds, "cpu_seconds": spent, "line": said}
    lifecycle.write_json(cell.beside("json"), told)
    return line


def reason(cell: folder.Cell) -> str:
    """The last line of a run's log that tells of an error, or its last one."""
    try:
        with untrusted.opened(cell.beside("log")) as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - TAIL, 0))
            lines = file.read(TAIL).decode("utf-8", "replace").split("\n")
    except (OSError, ValueError):
        return "it left no log"
    lines = [" ".join(line.split()) for line in lines if line.strip()]
    told = [line for line in lines if line.startswith("alignjax") and "error" in line]
    found = (told or lines or ["it said nothing"])[-1]
    return f"{found} ({cell.beside('log')})"

"""The processes that a job leaves behind, found and ended; imports nothing but Python's own.

A job's processes are those of its session, the descendants of its first process, and all whose
environment has its token (or one that begins with it): a child that called setsid, was orphaned,
or both, is found as well.
Where there is no /proc (macOS), only the first process's group is known.
"""

import contextlib
import ctypes
import os
import pathlib
import signal
import time
from collections.abc import Iterable

PROC = pathlib.Path("/proc")
TOKEN = "ALIGNJAX_JOB"  # environment variable that marks a job's processes
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of Linux's prctl


def adopt_orphans() -> None:
    """From now on orphaned descendants become children of this process (Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def members(leader: int, token: str = "") -> set[int]:
    """The living processes of a job, by the id of its first one and its token."""
    parents, found = {}, set()
    mark = f"{TOKEN}={token}".encode()
    for entry in _numbered():
        try:
            stat = (PROC / entry / "stat").read_bytes().rpartition(b")")[2].split()
            state, parent, session = stat[0], int(stat[1]), int(stat[3])
            if state in (b"Z", b"X"):
                continue
            parents[int(entry)] = parent
            if session == leader or (token and _is_marked(entry, mark)):
                found.add(int(entry))
        except (OSError, IndexError):
            continue  # it ended meanwhile
    if leader in parents:
        found.add(leader)
    more = {leader}
    while more:
        more = {pid for pid, parent in parents.items() if parent in more} - found
        found |= more
    return found - {os.getpid()}


def _numbered() -> list[str]:
    try:
        return [name for name in os.listdir(PROC) if name.isdigit()]
    except OSError:
        return []


def _is_marked(entry: str, mark: bytes) -> bool:
    with contextlib.suppress(OSError):
        entries = (PROC / entry / "environ").read_bytes().split(b"\0")
        return any(own.startswith(mark) for own in entries)
    return False


def sweep(leader: int, token: str = "", *, seconds: float = 1.5) -> int:
    """Kills all processes of a job; returns how many still live, 0 unless time ran out.

    They are stopped before they are killed: a process that forks as fast as others are killed would
    else outrun us, and stopped ones still count towards the limit of processes.
    """
    if leader != os.getpid():
        send([leader], signal.SIGKILL, group=True)
    end = time.monotonic() + seconds
    alive = members(leader, token)
    while alive and time.monotonic() < end:
        stopped: set[int] = set()
        while (alive - stopped) and time.monotonic() < end:
            send(alive - stopped, signal.SIGSTOP)
            stopped |= alive
            alive = members(leader, token)
        send(stopped | alive, signal.SIGKILL)
        for pid in stopped:
            with contextlib.suppress(OSError):  # children of ours where we are a container's init
                os.waitpid(pid, os.WNOHANG)
        alive = members(leader, token)
        if alive:
            time.sleep(0.005)
    return len(alive)


def send(pids: Iterable[int], number: int, *, group: bool = False) -> None:
    """A signal to processes, or to their groups; those that are gone are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            (os.killpg if group else os.kill)(pid, number)


def count_of_user() -> int:
    """Tasks (threads too) of this user, as RLIMIT_NPROC counts them."""
    count, own = 0, os.getuid()
    for entry in _numbered():
        with contextlib.suppress(OSError, IndexError):
            if os.stat(PROC / entry).st_uid == own:
                stat = (PROC / entry / "stat").read_bytes().rpartition(b")")[2].split()
                count += int(stat[17])
    return count

"""The processes of a job: bounded in number, found, and ended; imports nothing but Python's own.

A job's processes are those of its session, the descendants of its first process, and all whose
environment has its token (or one that begins with it), or whose real user is the job's own: a
child that called setsid, was orphaned, or both, is found as well. Where there is no /proc (macOS),
only the first process's group is known.

RLIMIT_NPROC counts all processes and threads of a real user, and never binds root. So under root a
job gets a real user of its own; any other user's job may start so many more than the user has.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Container, Iterable

PROC = "/proc"
TOKEN = "ALIGNJAX_JOB"  # environment variable that marks a job's processes
USER = "ALIGNJAX_JOB_USER"  # environment variable: under root, the user of a job's programs
# Of Linux's prctl and capabilities.
KEEP_CAPABILITIES, DROP_FROM_BOUNDING, SUBREAPER = 8, 24, 36
READ_ANY_FILE, SYS_ADMIN, SYS_RESOURCE = 2, 21, 24
ALL_CAPABILITIES = (1 << 64) - 1
# Ids that no system gives away: above all that systemd knows, and where a container has only 2^16
# of them, the part of those that it leaves free.
LARGE_IDS, SMALL_IDS = (2_000_000_000, 2_000_000_000), (60_578, 606)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """From now on orphaned descendants become children of this process (Linux)."""
    _prctl(SUBREAPER, 1)


def spare_user(number: int) -> int:
    """An id that no user has, for job `number` of this process; 0 where we aren't root."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return 0
    with contextlib.suppress(OSError, ValueError):
        maps = [tuple(map(int, m.split())) for m in _read("self", "uid_map").splitlines()]
        for first, count in (LARGE_IDS, SMALL_IDS):
            if any(inside <= first and first + count <= inside + many for inside, _, many in maps):
                return first + (os.getpid() * 400 + number % 400) % count
    return 0


def _keep_capabilities(kept: int) -> None:
    """Gives up all capabilities but the bits of `kept`, as far as there are such."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(ctypes.byref(header), sets):
        raise OSError(ctypes.get_errno(), "capget")
    # Twice 32 bits of effective, permitted, inheritable.
    for half in range(2):
        mask = (kept >> (32 * half)) & 0xFFFFFFFF
        permitted = sets[3 * half + 1] & mask
        sets[3 * half], sets[3 * half + 1], sets[3 * half + 2] = permitted, permitted, 0
    if libc.capset(ctypes.byref(header), sets):
        raise OSError(ctypes.get_errno(), "capset")


def bound(most: int, user: int = 0) -> None:
    """At most so many processes and threads, from now on, of this one and what it starts.

    user: under root, the job's own id: forks count as this user's, all rights stay root's.
    """
    if user:
        for capability in (SYS_RESOURCE, SYS_ADMIN):
            _prctl(DROP_FROM_BOUNDING, capability)
        os.setresuid(user, 0, 0)
        _keep_capabilities(ALL_CAPABILITIES & ~(1 << SYS_RESOURCE) & ~(1 << SYS_ADMIN))
    elif os.getuid():
        most += count_of_user()
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, hard if not user else most))


def become(user: int) -> None:
    """Under root: this process is that user's in everything, but for reading files."""
    _prctl(KEEP_CAPABILITIES, 1)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _keep_capabilities(1 << READ_ANY_FILE)


def members(leader: int, token: str = "", users: Container[int] = ()) -> set[int]:
    """The living processes of a job: by its first one's id, its token, and its own users."""
    parents, found = {}, set()
    for entry in _numbered():
        try:
            stat = _read(entry, "stat").rpartition(b")")[2].split()
            state, parent, session = stat[0], int(stat[1]), int(stat[3])
            if state in (b"Z", b"X"):
                continue
            parents[int(entry)] = parent
            if session == leader or _is_marked(entry, token) or _is_of(entry, users):
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


def _read(entry: str, name: str) -> bytes:
    with open(f"{PROC}/{entry}/{name}", "rb") as file:
        return file.read()


def _numbered() -> list[str]:
    try:
        return [name for name in os.listdir(PROC) if name.isdigit()]
    except OSError:
        return []


def _is_marked(entry: str, token: str) -> bool:
    """Whether a process has the token in the environment that it began with."""
    if token:
        with contextlib.suppress(OSError):
            mark = f"{TOKEN}={token}".encode()
            entries = _read(entry, "environ").split(b"\0")
            return any(own.startswith(mark) for own in entries)
    return False


def _is_of(entry: str, users: Container[int]) -> bool:
    """Whether the real user of a process is one of these, and one that no other job can have."""
    if users:
        status = _read(entry, "status").partition(b"\nUid:")[2].split()
        return int(status[0]) in users and int(status[0]) >= LARGE_IDS[0]
    return False


def sweep(leader: int, token: str = "", users: Container[int] = (), *, seconds: float = 1.5) -> int:
    """Kills all processes of a job; returns how many still live, 0 unless time ran out.

    They are stopped before they are killed: a process that forks as fast as others are killed would
    else outrun us, and stopped ones still count towards the limit of processes.
    """
    if leader != os.getpid():
        send([leader], signal.SIGKILL, group=True)
    end = time.monotonic() + seconds
    alive = members(leader, token, users)
    while alive and time.monotonic() < end:
        stopped: set[int] = set()
        while (alive - stopped) and time.monotonic() < end:
            send(alive - stopped, signal.SIGSTOP)
            stopped |= alive
            alive = members(leader, token, users)
        send(stopped | alive, signal.SIGKILL)
        for pid in stopped:
            with contextlib.suppress(OSError):  # children of ours where we are a container's init
                os.waitpid(pid, os.WNOHANG)
        alive = members(leader, token, users)
        if alive:
            time.sleep(0.005)
    return len(alive)


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes, and of their children that have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            stat = _read(str(pid), "stat").rpartition(b")")[2].split()
            ticks += sum(map(int, stat[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


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
            if os.stat(f"{PROC}/{entry}").st_uid == own:
                stat = _read(entry, "stat").rpartition(b")")[2].split()
                count += int(stat[17])
    return count

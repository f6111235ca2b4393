"""One process trains in a folder at a time; a second one is refused, whatever host it is on.

The owner holds a POSIX lock on a file of the folder, which the system takes back when the process
ends, however it ends: nothing stale is left on a host. Storage that several hosts share need not
pass locks on, so the owner also counts up a number in the file. Who finds another host's name there
watches that number: while it moves the folder is in use, when it stands the owner is gone.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import threading
import time
from collections.abc import Iterator
from typing import Any

from alignjax.core import untrusted
from alignjax.parallel import processes

FILE = "owner.json"
BEAT = 5.0  # seconds between two counts of an owner
WATCHED = 3 * BEAT  # seconds without a count after which another host's owner is gone
WIDTH = 256  # bytes of the file: one write, never torn


class InUse(ValueError):
    """Another process trains in the folder. Exit code 2."""


@contextlib.contextmanager
def owned(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the folder, which must be there, while the body runs; for all processes of a run.

    Raises:
      InUse: another process has it.
    """
    owners: list[_Owner] = []
    processes.only_first(lambda: owners.append(_Owner(workdir)))
    try:
        yield
    finally:
        for owner in owners:
            owner.release()


def holder(workdir: pathlib.Path) -> str:
    """The process that says that it trains in a folder, as words; "" where none does.

    The lock is left alone: this is read by who only looks on. Of another host it is known what was
    written there last, of this one whether the process is alive.
    """
    try:
        there = untrusted.read_object(workdir / FILE, WIDTH)
        host, pid = there["host"], int(there["pid"])
    except (OSError, ValueError, TypeError, KeyError):
        return ""
    if not host or (host == platform.node() and not _is_alive(pid)):
        return ""
    return _who(there)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


class _Owner:
    def __init__(self, workdir: pathlib.Path):
        self._file = os.open(workdir / FILE, os.O_RDWR | os.O_CREAT, 0o644)
        self._host, self._count = platform.node(), 0
        self._done = threading.Event()
        try:
            self._take(workdir)
        except BaseException:
            os.close(self._file)
            raise
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _take(self, workdir: pathlib.Path) -> None:
        is_locked = True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise _in_use(workdir, self._read()) from None
        except OSError:  # a file system without locks: the count alone tells
            is_locked = False
        there = self._read()
        mine = there.get("host") == self._host
        if there.get("host") and not (mine and (is_locked or there.get("pid") == os.getpid())):
            self._watch(workdir, there)
        self._write()

    def _watch(self, workdir: pathlib.Path, there: dict[str, Any]) -> None:
        """Waits until another host's owner counts, or has not for long enough."""
        end = time.monotonic() + WATCHED
        while time.monotonic() < end:
            time.sleep(min(0.2, BEAT))
            now = self._read()
            if not now.get("host"):
                return
            if now != there:
                raise _in_use(workdir, now)

    def _read(self) -> dict[str, Any]:
        try:
            value = untrusted.parse_json(os.pread(self._file, WIDTH, 0) or b"{}", FILE)
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def _write(self, host: str | None = None) -> None:
        own = {"host": self._host if host is None else host, "pid": os.getpid()}
        text = json.dumps({**own, "count": self._count})
        # A full or broken disk ends the run where it saves, with words of its own.
        with contextlib.suppress(OSError):
            os.pwrite(self._file, text.ljust(WIDTH - 1).encode() + b"\n", 0)

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            self._count += 1
            self._write()

    def release(self) -> None:
        """Gives the folder back."""
        self._done.set()
        self._thread.join(BEAT)
        self._write(host="")
        os.close(self._file)  # and with it the lock


def _who(there: dict[str, Any]) -> str:
    return f"process {there.get('pid', '?')} on {there.get('host') or 'this host'}"


def _in_use(workdir: pathlib.Path, there: dict[str, Any]) -> InUse:
    return InUse(
        f"a run's folder must be in use by one process; got {workdir}, in which {_who(there)} "
        "trains. Wait for it, stop it, or name another folder."
    )

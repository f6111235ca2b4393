"""Files of a cache, on disk or in a bucket: whole or not there at all, and none is a pickle."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from alignjax.core import errors, retry, untrusted
from alignjax.data import records

PARTIAL = ".partial-"  # in the name of a file that is being written


def is_local(path: epath.Path) -> bool:
    """Whether a path is of this machine's file system, so that files can be mapped."""
    return "://" not in os.fspath(path)


def write(path: epath.Path, content: bytes) -> None:
    """Writes a file under another name and renames it; a bucket shows whole objects only.

    Raises:
      DataError: there is no permission. errors.Failure: there is no room.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not is_local(path):
            retry.again(lambda: path.write_bytes(content))
            return
        partial = f"{os.fspath(path)}{PARTIAL}{os.getpid()}"
        with open(partial, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: epath.Path, error: OSError) -> Exception:
    """The error of a cache that cannot be written; a full disk is nobody's wrong option."""
    if errors.is_no_room(error):
        return errors.Failure(
            f"the data cache has no room: {error.strerror} ({os.fspath(path)}). Free some, or name "
            "another folder with --data_cache, and run the same command again."
        )
    return records.problem(
        "data cache", "be a folder that can be written", error.strerror or type(error).__name__,
        file=os.fspath(path), reason="cache",
        advice="Name another folder with --data_cache.",
    )  # fmt: skip


def sweep(folder: epath.Path) -> None:
    """Deletes what killed processes left half written in a folder of this machine."""
    if not is_local(folder) or not folder.is_dir():
        return
    for file in folder.iterdir():
        _, mark, owner = file.name.rpartition(PARTIAL)
        if mark and not _is_alive(owner):
            file.unlink(missing_ok=True)


def _is_alive(owner: str) -> bool:
    try:
        os.kill(int(owner), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def write_json(path: epath.Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object with its own checksum."""
    text = json.dumps(values, sort_keys=True)
    write(path, json.dumps({"sha256": digest(text.encode()), "values": values}).encode())


def read_json(path: epath.Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None where there is no such file, or a damaged one."""
    try:
        stored = untrusted.read_json(path, untrusted.RECORD)
        values: dict[str, Any] = stored["values"]
        text = json.dumps(values, sort_keys=True)
        return values if digest(text.encode()) == stored["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def digest(content: bytes) -> str:
    """The sha256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def key_of(values: Mapping[str, Any]) -> str:
    """The name of a folder for these values: the same for equal ones."""
    return digest(json.dumps(values, sort_keys=True).encode())[:32]


@contextlib.contextmanager
def alone(folder: epath.Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Inside, no other process of this file system works on a folder; `waiting` is told of a wait.

    A killed process holds nothing. Processes that share no lock do the same work twice, to the
    same files.
    """
    if not is_local(folder):
        yield
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a")  # noqa: SIM115
    except OSError as error:
        raise unwritable(folder, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            waiting()
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def size(path: epath.Path) -> int:
    """The bytes of a file; -1 where there is none."""
    try:
        return int(path.stat().length)
    except OSError:
        return -1


def user_cache() -> epath.Path:
    """The folder for caches of this user, by the environment's rules."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return epath.Path(base) / "alignjax" / "data"


def at_hand(path: epath.Path) -> str:
    """A file of this machine with the content of `path`; objects of a bucket are copied once."""
    if is_local(path):
        return os.fspath(path)
    folder = os.path.join(tempfile.gettempdir(), "alignjax-data", digest(os.fspath(path).encode()))
    copy = epath.Path(folder) / path.name
    if not copy.exists():
        write(copy, path.read_bytes())
    return os.fspath(copy)

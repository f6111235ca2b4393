"""Digests of the contents of source files, computed once for each state of a file.

A file's size, times and inode tell whether it was touched since; the time of its last change cannot
be set back by a program. A file that changed within moments of being read is read again.
"""

import os
import time
from typing import Any

from etils import epath

from alignjax.data import cache_files, records, storage

MOMENTS = 3.0  # seconds: times of changes are as coarse on some file systems


def digest(file: str, cache: epath.Path) -> str:
    """A digest of a file's content; of an object in a bucket the bucket's own."""
    if storage.is_remote(file):
        return storage.digest_of(file)
    path = os.path.abspath(file)
    state = _state(path)
    memo = cache / "sources" / f"{cache_files.digest(path.encode())[:32]}.json"
    known = cache_files.read_json(memo)
    if known is not None and known["state"] == state:
        return str(known["digest"])
    found = storage.digest_of(path)
    if _state(path) == state and time.time() - max(state[1:3]) / 1e9 > MOMENTS:
        cache_files.write_json(memo, {"state": state, "digest": found})
    return found


def _state(path: str) -> list[Any]:
    own = os.stat(path)
    return [own.st_size, own.st_mtime_ns, own.st_ctime_ns, own.st_ino, own.st_dev]


def changed(where: str) -> records.DataError:
    """The error of a source that changed while it was read."""
    return records.problem(
        "data file", "stay as it is while it is prepared", "other rows than before", file=where,
        reason="changed", advice="Run the same command again.",
    )  # fmt: skip

"""Stages that several lifecycles train once: each lies in a folder that is named by its content.

A stage's content is its whole configuration, the fingerprints of its data, and the contents of the
stages from which its networks start. Two stages of one content end with the same bits, so
lifecycles that differ in a later stage alone can share those before it: what they find is then
paired.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from alignjax.parallel import processes
from alignjax.runs import continuing, experiment, records

DIGITS = 16  # of a content in a folder's name


def content(
    config: experiment.Experiment, upstream: Mapping[str, str], fingerprints: Mapping[str, Any]
) -> str:
    """A digest of what a stage will be.

    Args:
      config: the stage as an experiment. Where its sources and data lie counts for nothing.
      upstream: {field: content} of the stages from which its networks start.
      fingerprints: of its data.
    """
    flat = records.flat({"config": config})
    # A path that no stage stands behind is told by itself.
    algorithm: Any = config.algorithm
    own = {f"config.algorithm.{f.name}": f.name for f in dataclasses.fields(algorithm)}
    where = {n for n in continuing.paths(config) if n not in own or own[n] in upstream}
    values = {name: value for name, value in flat.items() if name not in where}
    identity = {"config": values, "upstream": dict(upstream), "data": dict(fingerprints)}
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def place(store: pathlib.Path, link: pathlib.Path, name: str, digest: str) -> pathlib.Path:
    """The stage's folder in the store; `link`, in the lifecycle's own folder, leads there.

    Raises:
      ValueError: the lifecycle has a folder of its own there, or a link to another content.
    """
    target = store / f"{name}-{digest}"
    wanted = os.path.relpath(target.absolute(), link.parent.absolute())

    def make() -> None:
        target.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() and os.readlink(link) == wanted:
            return
        if link.is_symlink() or link.exists():
            raise ValueError(
                f"a stage's folder must lead to {target}; got another one at {link}. Go on without "
                "--stages, or name another --workdir."
            )
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(wanted, target_is_directory=True)

    processes.only_first(make)
    return target


@contextlib.contextmanager
def alone(folder: pathlib.Path, tell: Callable[[], None]) -> Iterator[None]:
    """Holds a stage of the store while the body runs; waits for who has it, after `tell`.

    The system takes the lock back when a process ends, however it ends.
    """
    with contextlib.ExitStack() as held:
        if processes.is_first():
            file = held.enter_context(folder.with_name(f"{folder.name}.lock").open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell()
                fcntl.flock(file, fcntl.LOCK_EX)
        processes.barrier()
        yield

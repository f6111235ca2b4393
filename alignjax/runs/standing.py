"""How far the run of a folder has come, told wherever another command starts from it."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from alignjax.core import untrusted
from alignjax.parallel import processes
from alignjax.runs import folder, ownership
from alignjax.training import checkpoint

NEWEST = "its newest checkpoint"


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """A run before its last step. step: of its newest checkpoint; steps: what its record asks for.
    trainer: the process that trains it now, or ""."""

    path: str
    step: int
    steps: int
    trainer: str

    def line(self, used: str) -> str:
        """One line on it; used: the state that is taken."""
        now = f", and {self.trainer} trains it now" if self.trainer else ""
        return f"{self.path} stands at step {self.step} of {self.steps}{now}; {used} is used."

    def refusal(self) -> ValueError:
        """The error of an experiment that would start from it."""
        now = f" while {self.trainer} trains it" if self.trainer else ""
        return ValueError(
            f"a run to start from must have finished its {self.steps} steps; got {self.path}, "
            f"which stands at step {self.step}{now}. Let its own command finish it, or start from "
            "its newest checkpoint with --allow_unfinished."
        )


def unfinished(path: str, record: folder.Record) -> Unfinished | None:
    """Where a run stands that has checkpoints and more steps to go; None for all others.

    Finished is a run that saved the last step of its record, and one of which there is no more to
    train, as an import; not one that was finished and is to go on to more steps.
    """
    steps = record.config.loop.steps
    step = processes.from_first(lambda: _newest(pathlib.Path(path), steps))
    if step is None or step >= steps:
        return None
    trainer = processes.from_first(lambda: ownership.holder(pathlib.Path(path)))
    return Unfinished(path, step, steps, trainer)


def refuse(state: Unfinished) -> None:
    """What is done with one by default: nothing starts from it.

    Raises:
      ValueError: always.
    """
    raise state.refusal()


def telling(log: Callable[[str], None], used: str = NEWEST) -> Callable[[Unfinished], None]:
    """The other thing to do with one: it is used, and a line says so."""
    return lambda state: log(state.line(used))


def _newest(place: pathlib.Path, steps: int) -> int | None:
    """The newest checkpoint's step; None where there is none, or where it says it is the last.

    By the names and the text of files: the run may be in training, and who restores the step says
    what is wrong with it.
    """
    step = checkpoint.newest_name(place)
    if step is None:
        return None
    meta = meta_of(place, step)
    is_last = meta.get("finished") and asked_steps(meta) == steps
    return None if is_last else step


def meta_of(place: pathlib.Path, step: int) -> dict[str, Any]:
    """What is saved beside a checkpoint, by its text alone; {} where that is not to be read."""
    file = place / checkpoint.FOLDER / str(step) / "meta" / "metadata"
    try:
        return untrusted.read_object(file, untrusted.RECORD)
    except (OSError, ValueError):
        return {}


def asked_steps(meta: Mapping[str, Any]) -> int | None:
    """`loop.steps` of the run when a checkpoint was saved; None where its meta does not say."""
    try:
        asked = meta["config"]["loop"]["steps"]
    except (KeyError, TypeError):
        return None
    return asked if isinstance(asked, int) else None

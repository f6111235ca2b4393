"""A sweep's folder: its record, and a folder for each arm and seed.

SWEEP/sweep.json            the record: claim, arms, seeds, measures
SWEEP/arms/ARM/seed-N/      what `alignjax train` or `alignjax run` leaves
SWEEP/arms/ARM/seed-N.log   what it said; .json: how it ended
SWEEP/stages/               stages of lifecycles that several arms share
SWEEP/report.json, .html    what `alignjax report` makes of them
"""

import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.core import untrusted
from alignjax.lifecycles import lifecycle
from alignjax.sweeps import arms as arms_
from alignjax.sweeps import record
from alignjax.training import checkpoint

FILE, FORMAT = "sweep.json", 1
RESULTS = "results.json"  # which a lifecycle writes when it has finished


class Cell(NamedTuple):
    """One arm at one seed: its folder, and the command that runs it."""

    arm: str
    seed: int
    folder: pathlib.Path
    argv: tuple[str, ...]  # the words after `alignjax`
    steps: int  # of `alignjax train`; 0 for a lifecycle

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    def beside(self, kind: str) -> pathlib.Path:
        """A file of the sweep beside the run's folder, which is the run's alone."""
        return self.folder.with_name(f"{self.folder.name}.{kind}")

    def is_finished(self) -> bool:
        """Whether its results are there."""
        if self.steps:  # whose folder gets its name when it is whole; to verify it takes a device
            return (self.folder / checkpoint.FOLDER / str(self.steps)).is_dir()
        return (self.folder / RESULTS).is_file()


class Plan(NamedTuple):
    """A sweep as it is to run: the record, and how each of its runs is started."""

    own: record.Sweep
    arms: tuple[arms_.Arm, ...]
    configs: Mapping[str, Mapping[str, Any]]  # flat, by arm
    spec: str  # of --config
    command: str  # train | run
    fields: Mapping[str, str]  # fields of all arms
    seeds: tuple[int, ...]
    expected: record.Expected
    origin: Mapping[str, str]  # commit, versions

    def as_dict(self) -> dict[str, Any]:
        """For sweep.json."""
        return {
            "format": FORMAT,
            "spec": self.spec,
            "command": self.command,
            "given": dict(self.fields),
            "arms": {arm.name: {"folder": arm.folder, "set": dict(arm.texts)} for arm in self.arms},
            "configs": {name: dict(config) for name, config in self.configs.items()},
            "seeds": list(self.seeds),
            "sweep": self.own.as_dict(),
            "expected": {arm: dict(own) for arm, own in self.expected.items()},
            "origin": dict(self.origin),
        }


def is_sweep(folder: pathlib.Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / FILE).is_file()


def read(folder: pathlib.Path) -> Plan:
    """The plan in a sweep's folder.

    Raises:
      ValueError: it is damaged, or of a newer release.
    """
    file = folder / FILE
    values = untrusted.read_object(file, untrusted.RECORD)
    try:
        if values["format"] > FORMAT:
            raise ValueError(f"its format is {values['format']}, of a newer release")
        own = {name: dict(arm["set"]) for name, arm in values["arms"].items()}
        return Plan(
            record.from_dict(values["sweep"], own),
            tuple(
                arms_.Arm(name, str(arm["folder"]), own[name])
                for name, arm in values["arms"].items()
            ),
            dict(values["configs"]),
            str(values["spec"]),
            str(values["command"]),
            dict(values["given"]),
            tuple(int(seed) for seed in values["seeds"]),
            {
                arm: {name: tuple(value) for name, value in numbers.items()}
                for arm, numbers in values["expected"].items()
            },
            dict(values["origin"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} must hold the record of a sweep; got {error!r:.120}.") from None


def claim(folder: pathlib.Path, plan: Plan) -> Plan:
    """Writes the record of a sweep, or checks that it is the one that is there.

    What is read of the runs may change, and seeds may come: those that are there stay.

    Returns:
      The plan with all seeds.

    Raises:
      ValueError: the folder holds another sweep, or something else; nothing is written.
    """
    if is_sweep(folder):
        there = read(folder)
        changed = _changes(there, plan)
        if changed:
            raise ValueError(
                f"{folder} must be continued as the sweep that it was begun as; got "
                f"{'; '.join(changed[:4])}. Use another --workdir for another sweep."
            )
        origin = dict(there.origin)
        if plan.origin != there.origin:  # runs of both may be here
            origin["continued by"] = str(plan.origin.get("commit") or plan.origin)
        seeds = tuple(sorted({*there.seeds, *plan.seeds}))
        plan = plan._replace(seeds=seeds, origin=origin)
    elif folder.is_dir() and any(p.name != "error.txt" for p in folder.iterdir()):
        raise ValueError(
            f"--workdir must be a new folder, or that of this sweep; got {folder}, which holds "
            "something else. Name another."
        )
    lifecycle.write_json(folder / FILE, plan.as_dict())
    return plan


def _changes(there: Plan, now: Plan) -> list[str]:
    changed = []
    if there.command != now.command:
        changed.append(f"alignjax {there.command} there, {now.command} now")
    for name in dict.fromkeys([*there.configs, *now.configs]):
        old, new = there.configs.get(name), now.configs.get(name)
        if old is None or new is None:
            changed.append(f"the arm {name} {'is new' if old is None else 'is gone'}")
            continue
        changed += [
            f"{name}: {field} is {old.get(field)!r} there, {new.get(field)!r} now"
            for field in sorted({*old, *new})
            if old.get(field) != new.get(field) and field != arms_.SEED
        ]
    return changed


def cells(folder: pathlib.Path, plan: Plan) -> list[Cell]:
    """Every arm at every seed. All seeds of an arm come first: with several at once, each makes
    the stages that its own later arms share."""
    stages = (f"--stages={folder / 'stages'}",) if plan.command == "run" else ()
    found = []
    for arm in plan.arms:
        steps = int(plan.configs[arm.name].get("loop.steps", 0)) if plan.command == "train" else 0
        for seed in plan.seeds:
            own = folder / "arms" / arm.folder / f"seed-{seed}"
            texts = {**plan.fields, **arm.texts, arms_.SEED: str(seed)}
            words = [f"--config.{field}={text}" for field, text in texts.items()]
            argv = (plan.command, f"--config={plan.spec}", *words, f"--workdir={own}", *stages)
            found.append(Cell(arm.name, seed, own, argv, steps))
    return found


def outcome(cell: Cell) -> dict[str, Any]:
    """How a run ended last, or {}: its exit code, its seconds over all tries, its line."""
    try:
        return untrusted.read_object(cell.beside("json"), untrusted.OPTION)
    except (OSError, ValueError):
        return {}


def environment(folder: pathlib.Path) -> dict[str, str]:
    """Of a run: compiled programs are kept in the sweep's folder, unless the user names another."""
    known = dict(os.environ)
    known.setdefault("JAX_COMPILATION_CACHE_DIR", str((folder / "compiled").absolute()))
    known.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    known.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
    known.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")
    return known


def program(cell: Cell) -> Sequence[str]:
    """The words that start a run as a process."""
    return (sys.executable, "-m", "alignjax", *cell.argv)

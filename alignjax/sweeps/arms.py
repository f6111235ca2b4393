"""The arms of a sweep: each a command line over the experiment file, checked before all runs."""

import dataclasses
import itertools
import json
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.cli import config_file, flags
from alignjax.cli.config_file import one_line_error
from alignjax.lifecycles import lifecycle
from alignjax.models import config as model_config
from alignjax.parallel import mesh as meshes
from alignjax.runs import experiment, records
from alignjax.sweeps import record
from alignjax.training import loop as loops

SEED = "seed"
COMMANDS = {experiment.Experiment: "train", lifecycle.Lifecycle: "run"}
NO_EFFECT = frozenset({*loops.HARMLESS} - {"steps"})  # of a loop: how it is run, not what it learns


class Arm(NamedTuple):
    """An arm: its name, its folder, and {field: text} that its command line sets."""

    name: str
    folder: str
    texts: Mapping[str, str]


def command(config: Any, name: str) -> str:
    """The command that runs a configuration: train or run.

    Raises:
      ValueError: neither does.
    """
    for kind, own in COMMANDS.items():
        if isinstance(config, kind):
            return own
    raise ValueError(
        f"alignjax sweep takes an experiment or a lifecycle; got {type(config).__name__} ({name})."
    )


def declared(parsed: flags.Parsed) -> record.Sweep | None:
    """What the file's own sweep(variant) returns, checked; None where it has none.

    Raises:
      ValueError: it fails, or returns something else.
    """
    make = vars(parsed.module).get("sweep")
    if make is None:
        return None
    try:
        own = make(parsed.variant)
        if not isinstance(own, record.Sweep):
            raise ValueError(f"sweep() must return a Sweep; got {type(own).__name__}.")
        own.validate()
    except Exception as error:  # of a user's own code
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise one_line_error(f"sweep() of {parsed.name} can't be used: {kind}{error}") from error
    return own


def listed(parsed: flags.Parsed, lists: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """{arm: {field: text}} of --sweep.FIELD=A,B,C: all combinations, named after their values.

    Values of a field that is a tuple itself are separated by semicolons.
    """
    fields = config_file.walk(parsed.config, "config", parsed.name)
    columns = []
    for name, text in lists.items():
        is_tuple = typing.get_origin(fields[f"config.{name}"].type) is tuple
        values = [value.strip() for value in text.split(";" if is_tuple else ",")]
        if not all(values) or len({*values}) < len(values):
            raise one_line_error(
                f"--sweep.{name} must be different values between commas; got {text!r}."
            )
        columns.append([(name, value) for value in values])
    last = {name: name.rpartition(".")[2] for name in lists}
    short = last if len({*last.values()}) == len(last) else {name: name for name in lists}
    return {
        ",".join(f"{short[name]}={value}" for name, value in own): dict(own)
        for own in itertools.product(*columns)
    }


def text_of(value: Any) -> str:
    """A value as a command line sets it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(text_of, value))
    return repr(value) if isinstance(value, float) else str(value)


def check_fields(parsed: flags.Parsed, arms: Mapping[str, Mapping[str, str]], where: str) -> None:
    """Refuses fields that are not there, that change nothing that is learned, or the seed."""
    fields = config_file.walk(parsed.config, "config", parsed.name)
    known = {n: f for n, f in fields.items() if not f.holds_fields}
    for name in dict.fromkeys(name for texts in arms.values() for name in texts):
        if f"config.{name}" not in known:
            near = config_file.nearest(f"config.{name}", known).removeprefix("config.")
            hint = f" Did you mean {near}?" if near else ""
            raise one_line_error(
                f"{where} must set fields of {parsed.name} that a command line can set; got "
                f"{name!r}.{hint}"
            )
        if name == SEED:
            raise one_line_error(
                f"{where} must leave {SEED} alone, of which every arm has several; got {name!r}. "
                "Set --seeds=N, and the first by --config.seed."
            )
        if has_no_effect(name, parsed.config):
            raise one_line_error(
                f"{where} must set fields that change what is learned; got {name!r}, which says "
                f"how a run is run. Set --config.{name} for all arms."
            )


def has_no_effect(name: str, config: Any) -> bool:
    """Whether a field only says how a run is run: how often saved, on which devices, in tiles."""
    *above, last = name.split(".")
    parent = config
    for part in above:
        parent = getattr(parent, part)
    if isinstance(parent, loops.LoopConfig):
        return last in NO_EFFECT
    if isinstance(parent, model_config.ModelConfig):
        return last in parent.RUNNING
    is_lifecycle = isinstance(parent, lifecycle.Lifecycle)
    return isinstance(parent, meshes.MeshConfig) or (is_lifecycle and last == "eval_batch")


def folder_of(name: str) -> str:
    """The folder of an arm: its name without what a file system may not take."""
    return re.sub(r"[^\w.=+-]", "_", name)


def make(arms: Mapping[str, Mapping[str, str]]) -> list[Arm]:
    """The arms with their folders.

    Raises:
      ValueError: fewer than two, or two of one folder.
    """
    if len(arms) < 2:
        raise one_line_error(
            f"a sweep must have at least two arms; got {', '.join(arms) or 'none'}. Give "
            "--sweep.FIELD=A,B, or a file with sweep()."
        )
    by_folder: dict[str, str] = {}
    for name in arms:
        folder = folder_of(name)
        other = by_folder.setdefault(folder.casefold(), name)
        if other != name or not folder.strip("."):
            raise one_line_error(
                f"every arm must have a folder of its own; got {other!r} and {name!r} for "
                f"{folder!r}. Rename one."
            )
    return [Arm(name, folder_of(name), texts) for name, texts in arms.items()]


def configs(
    spec: str, name: str, fields: Mapping[str, str], arms: Sequence[Arm]
) -> dict[str, dict[str, Any]]:
    """{arm: its flat configuration}, each parsed as its command will be.

    fields: {field: text} that all arms take from the command line.

    Raises:
      ValueError: a value is wrong, or two arms are the same.
    """
    found: dict[str, dict[str, Any]] = {}
    seen: dict[str, str] = {}
    for arm in arms:
        words = [f"--config.{field}={text}" for field, text in {**fields, **arm.texts}.items()]
        try:
            config = flags.parse(
                [f"--config={spec}", *words], command="sweep", options=(), needs_config=True
            ).config
        except ValueError as error:
            raise one_line_error(f"the arm {arm.name} can't be made: {error}") from error
        flat = records.flat(config)
        found[arm.name] = flat
        same = {n: v for n, v in flat.items() if not _runs(n, config)}
        other = seen.setdefault(json.dumps(same, sort_keys=True), arm.name)
        if other != arm.name:
            raise one_line_error(
                f"every arm must be an experiment of its own; got {other!r} and {arm.name!r} with "
                f"the same configuration ({name}). Leave one out."
            )
    return found


def _runs(name: str, config: Any) -> bool:
    try:
        return has_no_effect(name, config)
    except (AttributeError, TypeError):  # an entry of a list, a class's tag
        return False


def overrides(parsed: flags.Parsed) -> dict[str, str]:
    """{field: text} that the command line gave for all arms, but for the seed."""
    return {n: text_of(v) for n, v in parsed.overrides.items() if n != SEED}


def default_measures(config: Any, kind: str) -> tuple[record.Measure, ...]:
    """What is read of a file without sweep(): what the lifecycle names, or the last values of the
    method's own curves."""
    if kind == "train":
        return tuple(
            record.Measure(name=key, key=key) for key in config.algorithm.METHOD.curves
        ) or (record.Measure(name="loss", key="loss"),)
    if told := config.measured():
        return tuple(record.Measure(name=f"{row}: {key}", row=row, key=key) for row, key in told)
    stages = [f for f in dataclasses.fields(config) if f.name == "stages"]
    if stages and config.stages:
        last = config.stages[-1]
        keys = last.training.algorithm.METHOD.curves
        return tuple(record.Measure(name=key, key=key, stage=last.name) for key in keys)
    raise one_line_error(
        f"the file must have a sweep() that says what is read of {type(config).__name__}; got none."
    )

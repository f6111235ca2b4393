"""The identity of a run in its folder: a run resumes only in the folder that it began."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from alignjax.core import untrusted
from alignjax.parallel import mesh as meshes
from alignjax.parallel import processes
from alignjax.runs import experiment, folder, ownership, records, standing, starts, upgrade
from alignjax.training import algorithm, checkpoint, metrics, schedules
from alignjax.training import loop as loops
from alignjax.training import method as methods

# What may change on resume: how long (which moves the end of the learning-rate schedule), how
# often saved and judged, on which devices, how a release words the formula. See `paths` too.
HARMLESS = frozenset(
    (
        *(f"config.loop.{name}" for name in loops.HARMLESS),
        *(f"config.mesh.{field.name}" for field in dataclasses.fields(meshes.MeshConfig)),
        "format",
        "formula",
    )
)


def harmless(config: experiment.Experiment) -> frozenset[str]:
    """Names of fields of a flat record that may differ when a run goes on."""
    roles = methods.trained_roles(config.algorithm.METHOD.roles(config.algorithm))
    models = ("config.model", *(f"networks.{role}.model" for role in roles))
    running = {f"{model}.{name}" for model in models for name in config.model.RUNNING}
    return HARMLESS | paths(config) | running


def paths(config: experiment.Experiment) -> frozenset[str]:
    """Names of fields of a flat record that hold locations."""
    roles = config.algorithm.METHOD.roles(config.algorithm).values()
    own = {role.source for role in roles if role.source} - {*methods.SOURCES}
    return frozenset(
        (
            "config.weights",
            *(f"config.{name}" for name in methods.SOURCES),
            *(f"config.algorithm.{name}" for name in own),
            *(f"config.data.{name}" for name in config.data.where()),
            "base.folder",
        )
    )


def claim(
    workdir: pathlib.Path,
    record: Mapping[str, Any],
    *,
    may_differ: frozenset[str] | None = None,
) -> list[str]:
    """Writes the run's identity into its folder, or checks that it is the one already there.

    may_differ: names of a flat record; those of the record's own experiment if None.

    Returns:
      Lines on what an older release did not write.

    Raises:
      ValueError: the processes of the run differ in it, or the folder belongs to a run of another
        configuration or data; nothing is written. Failure: the folder is not shared.
    """
    file, values = workdir / folder.FILE, records.as_json(record)
    processes.check_same("configuration and data", records.flat(values))
    notes: list[str] = []
    processes.only_first(lambda: _claim(file, values, may_differ, notes))
    processes.check_shared(file)
    return notes


@contextlib.contextmanager
def withdrawn_if_refused(workdir: pathlib.Path) -> Iterator[None]:
    """Leaves no record where a new run is refused before its first step.

    Some of what is wrong with a configuration shows only while the first step is traced.
    """
    file = workdir / folder.FILE
    is_new = not file.exists()
    try:
        yield
    except ownership.InUse:
        raise  # the record is the other process's
    except ValueError:
        if is_new and processes.is_first() and not _has_trained(workdir):
            file.unlink(missing_ok=True)
            (workdir / starts.FILE).unlink(missing_ok=True)
            shutil.rmtree(workdir / folder.TOKENIZER, ignore_errors=True)
        raise


def _has_trained(workdir: pathlib.Path) -> bool:
    """Whether a run left anything but its record: numbers of steps, or checkpoints."""
    numbers, saved = workdir / metrics.FILE, workdir / checkpoint.FOLDER
    return (numbers.exists() and numbers.stat().st_size > 0) or (
        saved.exists() and any(saved.iterdir())
    )


def check_schedule(
    workdir: pathlib.Path, config: experiment.Experiment, plan: algorithm.Plan, *, allow: bool
) -> schedules.Moved | None:
    """How the learning-rate schedule moves where a run goes on; None in a new folder.

    Nothing is written. allow: whether it may.

    Raises:
      ValueError: another `loop.steps` moves it, and it may not.
    """

    def newest() -> tuple[int, int | None] | None:
        step = checkpoint.newest_name(workdir)
        if step is None:
            return None
        return step, standing.asked_steps(standing.meta_of(workdir, step))

    found = processes.from_first(newest)
    if found is None:
        return None
    step, asked = found
    updates = plan.epochs * plan.minibatches
    change = schedules.moved(config.optim, updates, step=step, asked=asked, steps=config.loop.steps)
    if change is not None and not allow:
        raise change.refusal()
    return change


def _claim(
    file: pathlib.Path,
    record: dict[str, Any],
    may_differ: frozenset[str] | None,
    notes: list[str],
) -> None:
    workdir, is_run = file.parent, may_differ is None
    if not file.exists():
        _write(file, record, is_run)
        return
    stored = folder.stored_values(file)
    there = _comparable(stored, record, workdir, is_run, notes)
    if may_differ is None:
        config = folder.parse(there, str(workdir)).config
        may_differ = harmless(config) | {f"start.{n}" for n in _unwritten(stored, record)}
    old, new = (records.flat(values, files=True) for values in (there, record))
    changed = [
        name
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
        and name not in may_differ
        and not _is_same_file(name, old, new)
    ]
    if changed:
        lines = ", ".join(f"{n}: {old.get(n)!r} there, {new.get(n)!r} now" for n in changed[:8])
        raise ValueError(
            f"{workdir} must be continued with the configuration it was begun with; got {lines}. "
            "Use another --workdir for another configuration."
        )
    if {**stored, folder.PLACES: 0} != {**record, folder.PLACES: 0}:
        _write(file, record, is_run)  # the record tells of the run as it goes on


def _write(file: pathlib.Path, record: dict[str, Any], is_run: bool) -> None:
    """Writes a record; that of a run with the places of its sources beside it."""
    if is_run:
        config, values = folder.parse(record, str(file.parent)).config, records.flat(record)
        sources = {name: values.get(name) for name in sorted(paths(config))}
        record = {**record, folder.PLACES: folder.places(sources, file.parent)}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1))
    partial.replace(file)


def _comparable(
    stored: dict[str, Any],
    record: Mapping[str, Any],
    workdir: pathlib.Path,
    is_run: bool,
    notes: list[str],
) -> dict[str, Any]:
    """A folder's record as this release would write it; `notes` gets a line per absent field.

    Raises:
      ValueError: it is no record, or not to be read.
    """
    if "config" not in stored or is_run != ("method" in stored):
        begun = "an experiment" if is_run else "a lifecycle"
        raise ValueError(
            f"--workdir must be a new folder, or that in which {begun} was begun; got {workdir}, "
            f"whose {folder.FILE} is of something else. Name another."
        )
    records.check_format(stored, str(workdir))
    there = _with_files(upgrade.upgraded(stored, record), record)
    there.pop(folder.PLACES, None)
    if not is_run:
        return {**there, "config": records.filled(there["config"], notes.append)}
    config = folder.parse(there, str(workdir), notes.append).config
    samples = config.algorithm.METHOD.sampling(config.algorithm) is not None
    if samples and stored.get("format", 1) < records.ROW_KEYS:
        notes.append(
            f"{workdir}: begun by a release that drew samples with other keys; it goes on with "
            "those of this one, so it does not end with the bits that it would have had there."
        )
    if there.get("formula") != record.get("formula"):
        notes.append(f"{workdir}: the formula of its record is worded {there.get('formula')!r}.")
    networks = records.filled(there.get("networks", {}), lambda line: None)
    there |= {"networks": networks} if networks else {}
    return {**there, "config": records.as_json(records.encode(config))}


def _with_files(old: Any, new: Any) -> Any:
    """An old record whose classes' files, where they have gone, are those of the new one."""
    if isinstance(old, list) and isinstance(new, list):
        return [_with_files(*pair) for pair in zip(old, new, strict=False)] + old[len(new) :]
    if not isinstance(old, dict) or not isinstance(new, dict):
        return old
    values = {name: _with_files(value, new.get(name)) for name, value in old.items()}
    file = old.get(records.FILE)
    if file and records.FILE in new and not pathlib.Path(file).exists():
        values[records.FILE] = new[records.FILE]
    return values


def _is_same_file(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a field of two flat records names one class's file, under two names."""
    above, _, last = name.rpartition(".")
    files = [values.get(name) for values in (old, new)]
    if last != records.FILE or f"{above}.{records.CLASS}" not in new or not all(files):
        return False
    one, other = (pathlib.Path(str(file)) for file in files)
    if not (one.is_file() and other.is_file()):
        return False
    first, second = (untrusted.read_bytes(path, untrusted.OPTION) for path in (one, other))
    return first == second


def _unwritten(there: Mapping[str, Any], record: Mapping[str, Any]) -> set[str]:
    """Trees whose identities an older format does not hold, or tells otherwise."""
    if there.get("format", 1) >= records.TAGGED:
        return set()
    start = record.get("start", {})
    merged = {name for name, identity in start.items() if folder.OVER in identity}
    return (set(there.get("start", {})) ^ set(start)) | merged

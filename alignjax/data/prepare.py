"""`alignjax prepare`: a table made once, by any number of processes, in shards that are kept.

The source is scanned, it is decided which rows are kept, and every ROWS rows of the source become a
shard. Each file depends on its part of the source alone, is written whole or not at all, and is
verified before it is used again: a run that was killed goes on where it was.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from alignjax.data import (
    cache_files,
    codec,
    containers,
    contents,
    examples,
    leaks,
    padding,
    recipe,
    records,
    scan,
    selection,
    shard,
    source_rows,
    store,
    tables,
    workers,
)

FORMAT = 3  # of scans and shards: another one makes them anew
ROWS = source_rows.ROWS
TOLD_EVERY = 10.0  # seconds between lines on how far it is, where no bar is shown


def _silent(line: str) -> None:
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """Where prepared tables are kept, and how they are made.

    folder: local, or of a bucket. workers: processes; 0 is one for each core. log: takes lines.
    progress: whether a bar is shown, in place of lines. rows: of the source in a shard. run: of
    tasks, by default `workers.run`.
    """

    folder: epath.Path
    workers: int = 0
    log: Callable[[str], None] = _silent
    progress: bool = False
    rows: int = ROWS
    run: Callable[..., Any] | None = None

    def tasks(self, words: str, function: Any, shared: tuple[Any, ...], tasks: list[Any]) -> Any:
        """Yields the results of tasks as they end, under a progress bar."""
        count = self.workers or workers.default_count()
        found = (self.run or workers.run)(function, shared, tasks, count)
        if len(tasks) < 2:
            return found
        if not self.progress:
            return _told(found, words, len(tasks), self.log)
        import tqdm

        return tqdm.tqdm(found, words, len(tasks), unit="part", dynamic_ncols=True)


def _told(
    found: Iterable[Any], words: str, total: int, log: Callable[[str], None]
) -> Iterator[Any]:
    """The same results; a line now and then says how many there are."""
    begin = said = time.monotonic()
    for done, one in enumerate(found, 1):
        yield one
        now = time.monotonic()
        if now - said >= TOLD_EVERY and done < total:
            said = now
            log(f"{words}: {done} of {total} parts, {now - begin:.0f} s")


def source(own: recipe.Recipe, cache: Cache) -> source_rows.Source:
    """The source of a recipe, scanned now or before.

    Raises:
      DataError: the data are missing or bad; file and line are named.
    """
    parts, named = own.parts()
    identity = {
        "format": FORMAT,
        "parts": [
            [part.name, *(contents.digest(file, cache.folder) for file in part.files)]
            for part in parts
        ],
        "selection": dict(own.selection()),
        "rules": dataclasses.asdict(own.rules),
        "split": own.split if named else "",
    }
    key = cache_files.key_of(identity)
    folder = cache.folder / "scans" / key
    found = _stored_selection(folder)
    if found is None:
        with cache_files.alone(
            folder, lambda: cache.log(f"waiting for another process at {folder}")
        ):
            found = _stored_selection(folder) or _select(own, parts, named, folder, cache)
    return source_rows.Source(folder, parts, found, key)


def _stored_selection(folder: epath.Path) -> selection.Selection | None:
    values = cache_files.read_json(folder / "selection.json")
    if values is None:
        return None
    found = selection.Selection(**values | {"units": tuple(map(tuple, values["units"]))})
    if any(not (folder / leaks.FILE.format(n)).exists() for n in range(found.told)):
        return None
    states = folder / selection.STATES
    votes = found.votes * selection.VOTES.itemsize
    if votes and cache_files.size(folder / selection.VOTES_FILE) != votes:
        return None
    return found if cache_files.size(states) == found.read else None


def _select(
    own: recipe.Recipe,
    parts: Sequence[containers.Part],
    named: bool,
    folder: epath.Path,
    cache: Cache,
) -> selection.Selection:
    cache_files.sweep(folder)
    units = scan.units(parts)
    done: dict[int, bool] = {}
    for number in range(len(units)):
        noted = scan.load(_unit_file(folder, number))
        if noted is not None:
            done[number] = scan.BROKEN in noted.first
    tasks = [(n, parts[unit.part], unit) for n, unit in enumerate(units) if n not in done]
    shared = (own, os.fspath(folder))

    def load(number: int) -> scan.Scan:
        found = scan.load(_unit_file(folder, number))
        return scan.scan(own, parts[units[number].part], units[number]) if found is None else found

    for number, broken in cache.tasks(f"scan {own.split}", _scan_unit, shared, tasks):
        done[number] = broken
        first = min((n for n in done if done[n]), default=-1)
        if first >= 0 and not own.rules.skip and all(n in done for n in range(first)):
            raise records.DataError(load(first).first[scan.BROKEN][0])
    found = selection.decide(own, parts, units, load, named=named, folder=folder)
    cache_files.write_json(folder / "selection.json", found._asdict())
    for number in range(len(units)):
        scan.delete(_unit_file(folder, number))
    return found


def _unit_file(folder: epath.Path, number: int) -> epath.Path:
    return folder / f"unit-{number:06d}"


def _scan_unit(
    own: recipe.Recipe, folder: str, task: tuple[int, containers.Part, scan.Unit]
) -> tuple[int, bool]:
    """Scans a unit into its file; returns its number, and whether a row of it is broken."""
    number, part, unit = task
    noted = scan.scan(own, part, unit)
    scan.save(_unit_file(epath.Path(folder), number), noted)
    return number, scan.BROKEN in noted.first


def prepare(own: recipe.Recipe, cache: Cache) -> store.Stored:
    """The prepared table of a recipe, made now or before.

    Raises:
      DataError: the data are missing or bad. ValueError: too much of it is cut, or none is left.
      errors.Failure: workers were killed again and again.
    """
    found = source(own, cache)
    identity = {
        "format": FORMAT,
        "source": found.identity,
        "split": own.split,
        "limit": own.limit,
        "rows": cache.rows,
        "making": dict(own.making()),
    }
    folder = cache.folder / "tables" / cache_files.key_of(identity)
    manifest = store.read_whole(folder)
    if manifest is None:
        with cache_files.alone(
            folder, lambda: cache.log(f"waiting for another process at {folder}")
        ):
            manifest = store.read_whole(folder) or _make(own, found, folder, identity, cache)
    counts = examples.Counts(**manifest.counts)
    examples.check_counts(counts, own.max_truncated_share, str(own.making().get("kind", "table")))
    return store.Stored(folder, manifest)


def _make(
    own: recipe.Recipe,
    found: source_rows.Source,
    folder: epath.Path,
    identity: Mapping[str, Any],
    cache: Cache,
) -> store.Manifest:
    cache_files.sweep(folder)
    (folder / store.MANIFEST).unlink(missing_ok=True)
    tasks = source_rows.tasks_of(own, found, cache.rows)
    left = [task for task in tasks if _kept(folder, task.number) is None]
    if len(left) < len(tasks):
        cache.log(f"{len(tasks) - len(left)} of {len(tasks)} shards at {folder} are kept.")
    shared = (own, os.fspath(folder), found)
    for _ in cache.tasks(f"prepare {own.split}", make_shard, shared, left):
        pass
    notes = _notes(folder, tasks)
    counts = sum((examples.Counts(**note["counts"]) for note in notes), examples.Counts())
    specs = {
        task: codec.from_json(note["spec"])
        for task, note in zip(tasks, notes, strict=True)
        if shard.Info(*note["info"]).rows
    }
    if not specs:
        examples.check_counts(counts, 1.0, own.split)  # says that nothing is left
    # Which columns a table has, and how wide they are, is known when all of it is made.
    columns = padding.widest(spec.shapes for spec in specs.values())
    spec = codec.with_columns(next(iter(specs.values())), columns)
    narrow = [task for task, other in specs.items() if other != spec]
    for _ in cache.tasks(f"widen {own.split}", widen_shard, (os.fspath(folder), spec), narrow):
        pass
    found_infos = [shard.Info(*note["info"]) for note in _notes(folder, tasks)]
    infos = tuple(info for info in found_infos if info.rows)
    manifest = store.Manifest(identity, spec, infos, dataclasses.asdict(counts))
    store.write_manifest(folder, manifest)
    return manifest


def _notes(folder: epath.Path, tasks: Sequence[source_rows.Task]) -> list[Mapping[str, Any]]:
    found = [cache_files.read_json(_note_file(folder, task.number)) for task in tasks]
    assert all(note is not None for note in found)  # each was written after its shard
    return [note for note in found if note is not None]


def _note_file(folder: epath.Path, number: int) -> epath.Path:
    return folder / f"shard-{number:06d}.json"


def _kept(folder: epath.Path, number: int) -> shard.Info | None:
    """The shard that an earlier run made, verified; None where there is none."""
    note = cache_files.read_json(_note_file(folder, number))
    if note is None:
        return None
    info = shard.Info(*note["info"])
    return None if info.rows and shard.verify(folder / info.name, info) else info


def make_shard(
    own: recipe.Recipe, folder: str, source: source_rows.Source, task: source_rows.Task
) -> int:
    """Makes a shard and its note; returns its number."""
    place = epath.Path(folder)
    rows = list(source_rows.rows_of(own, source, task))
    table, counts = own.encode(rows, task.first)
    spec = codec.BYTES
    if not isinstance(table, list):
        spec = codec.spec_of(table, vocab_size=own.vocab_size, pad=own.pad)
    path = place / f"shard-{task.number:06d}.rows"
    _write(path, table, spec, dataclasses.asdict(counts))
    return task.number


def widen_shard(folder: str, spec: codec.Spec, task: source_rows.Task) -> int:
    """Writes a shard again with all columns of its table; returns its number."""
    place = epath.Path(folder)
    note = cache_files.read_json(_note_file(place, task.number))
    assert note is not None
    info = shard.Info(*note["info"])
    stored = store.Stored(place, store.Manifest({}, codec.from_json(note["spec"]), (info,), {}))
    table = stored.read(np.arange(info.rows), list(stored.shapes))
    wide = padding.widened(table, spec.shapes, spec.pad)
    _write(place / info.name, wide, spec, note["counts"])
    return task.number


def _write(path: epath.Path, table: Any, spec: codec.Spec, counts: Mapping[str, int]) -> None:
    """Writes a shard and its note."""
    if isinstance(table, list):
        info = shard.write_records(path, table, spec)
    elif tables.count(table):
        info = shard.write(path, table, spec)
    else:
        info = shard.Info(path.name, 0, 0, "")
    note = {"info": list(info), "counts": counts, "spec": codec.as_json(spec)}
    cache_files.write_json(path.with_suffix(".json"), note)

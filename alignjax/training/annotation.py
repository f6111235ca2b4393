"""Columns that a method computes once for all rows of a table, and their cache on disk."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from alignjax.data import cache_files, codec, lazy, pipeline, shard, store, tables
from alignjax.models import model as models
from alignjax.parallel import hosts, processes
from alignjax.training import algorithm, fingerprints, progress

FORMAT = 1  # of cached columns
ROWS = 16384  # of a shard of columns
SHARD_BYTES = 64 << 20  # at most about so many, where a row's columns are wide
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # of the environment, that may change a program's bits


def annotated(
    method: algorithm.Algorithm,
    frozen: models.Frozen,
    table: tables.Table,
    rows: int,
    folder: epath.Path | None = None,
    words: str = "",
) -> tables.Table:
    """The table with the columns that the method computes once for all rows, `rows` at a time.

    They are computed from the frozen trees themselves, by one program in one order: the same bits
    each time. folder: where they are kept, for the next start and for runs beside this one; under
    the content of rows and trees and the text of the program, so that no other ones are met. None
    keeps them in memory alone.

    Raises:
      DataError: a cached row is damaged; its file is named.
      ValueError: the table lacks a column that the method reads.
    """
    tables.need(table, method.columns)
    table = algorithm.with_columns(table, method.prepare)
    if method.annotate is not None:
        run = jax.jit(method.annotate)
        if folder is None:
            columns: dict[str, Any] = _joined(_parts(run, frozen, table, rows, words))
        else:
            columns = _cached(run, frozen, table, rows, folder, words)
        table = {**table, **columns}
    return algorithm.with_columns(table, method.over_table)


Columns = dict[str, np.ndarray]


def _parts(
    run: Any, frozen: models.Frozen, table: tables.Table, rows: int, words: str, skip: int = 0
) -> Iterator[Columns]:
    """The columns of `rows` rows after another; the first `skip` batches are left out."""
    done = skip * rows
    with progress.shown(words, tables.count(table), start=done, unit="rows") as bar:
        for batch, real in pipeline.in_order(table, rows, skip):
            found = hosts.to_host(run(frozen, hosts.to_global(batch)))
            done += real
            bar.update(done)
            yield {name: column[:real] for name, column in found.items()}


def _joined(parts: Iterator[Columns]) -> Columns:
    gathered: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for name, column in part.items():
            gathered.setdefault(name, []).append(column)
    return {name: np.concatenate(column) for name, column in gathered.items()}


def _cached(
    run: Any,
    frozen: models.Frozen,
    table: tables.Table,
    rows: int,
    folder: epath.Path,
    words: str,
) -> dict[str, Any]:
    """The columns as they are kept in the folder, after computing what is not there yet."""
    identity = _identity(run, frozen, table, rows)
    place = folder / "columns" / cache_files.key_of(identity)
    found = store.read_whole(place)
    # All processes compute together, or none does.
    if processes.least(int(found is not None)) == 0:
        found = _compute(run, frozen, table, rows, place, identity, words)
    assert found is not None
    return lazy.table_of(store.Stored(place, found))


def _identity(run: Any, frozen: models.Frozen, table: tables.Table, rows: int) -> dict[str, Any]:
    """All that the columns depend on: rows, trees, program, and what it runs on."""
    first, _ = next(pipeline.in_order(table, rows))
    text = run.lower(frozen, hosts.to_global(first)).as_text()
    device = jax.devices()[0]
    return {
        "format": FORMAT,
        "rows": store.content(table),
        "frozen": {name: fingerprints.identity(tree) for name, tree in sorted(frozen.items())},
        "program": hashlib.sha256(text.encode()).hexdigest(),
        "versions": [jax.__version__, jax.lib.__version__],
        "devices": [device.platform, device.device_kind, jax.device_count()],
        "flags": [os.environ.get(name, "") for name in FLAGS],
        "batch": rows,
    }


def _compute(
    run: Any,
    frozen: models.Frozen,
    table: tables.Table,
    rows: int,
    place: epath.Path,
    identity: dict[str, Any],
    words: str,
) -> store.Manifest:
    """Computes columns shard by shard, goes on after whole ones, and returns their manifest.

    Every process writes, for not all need share the folder; files of one name are the same.
    """
    cache_files.sweep(place)
    per_shard, shapes = _shard_rows(run, frozen, table, rows)
    spec = codec.spec_of(shapes, vocab_size=0, pad=0)
    total = tables.count(table)
    starts = range(0, total, per_shard)
    infos = _kept(place, len(starts), spec)
    infos = infos[: processes.least(len(infos))]
    parts = _parts(run, frozen, table, rows, words, len(infos) * per_shard // rows)
    for number in range(len(infos), len(starts)):
        wanted = -(-min(per_shard, total - starts[number]) // rows)
        columns = _joined(itertools.islice(parts, wanted))
        infos.append(_write(place, number, columns, spec))
    manifest = store.Manifest(identity, spec, tuple(infos), {})
    store.write_manifest(place, manifest)
    return manifest


def _shard_rows(
    run: Any, frozen: models.Frozen, table: tables.Table, rows: int
) -> tuple[int, tables.Table]:
    """Rows of a shard, whole batches of them; and one row of zeros of all columns."""
    first, _ = next(pipeline.in_order(table, rows))
    shapes = jax.eval_shape(run, frozen, hosts.to_global(first))
    zeros = {name: np.zeros((1, *x.shape[1:]), x.dtype) for name, x in shapes.items()}
    width = sum(x.nbytes for x in zeros.values())
    most = max(min(ROWS, SHARD_BYTES // max(width, 1)), 1)
    return max(most // rows, 1) * rows, zeros


def _note(place: epath.Path, number: int) -> epath.Path:
    return place / f"shard-{number:06d}.json"


def _write(place: epath.Path, number: int, columns: Columns, spec: codec.Spec) -> shard.Info:
    info = shard.write(place / f"shard-{number:06d}.rows", columns, spec)
    cache_files.write_json(_note(place, number), {"info": list(info)})
    return info


def _kept(place: epath.Path, count: int, spec: codec.Spec) -> list[shard.Info]:
    """The first shards that an earlier run finished, verified."""
    found: list[shard.Info] = []
    for number in range(count):
        note = cache_files.read_json(_note(place, number))
        info = None if note is None else shard.Info(*note["info"])
        if info is None or shard.verify(place / info.name, info):
            break
        if shard.Shard(place / info.name).spec != spec:
            break
        found.append(info)
    return found

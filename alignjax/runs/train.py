"""An experiment trained in its folder."""

import pathlib
from typing import Any

import jax
import numpy as np

from alignjax.data import corpus as corpora
from alignjax.data import pipeline, tables
from alignjax.parallel import hosts
from alignjax.parallel import mesh as meshes
from alignjax.runs import assembly, experiment, folder, judging, sources
from alignjax.training import algorithm as algorithms
from alignjax.training import loop as loops
from alignjax.training import speed


def annotated(
    method: algorithms.Algorithm, frozen: Any, table: tables.Table, rows: int
) -> tables.Table:
    """The table with the columns that the method computes once for all rows, `rows` at a time.

    They are recomputed at every start from the frozen trees themselves, by one program in one
    order: the same bits each time, and no cache whose identity could go wrong.
    """
    table = algorithms.with_columns(table, method.prepare)
    if method.annotate is not None:
        run = jax.jit(method.annotate)
        parts: dict[str, list[np.ndarray]] = {}
        for batch, real in pipeline.in_order(table, rows):
            for name, column in hosts.to_host(run(frozen, hosts.to_global(batch))).items():
                parts.setdefault(name, []).append(column[:real])
        table = {**table, **{name: np.concatenate(part) for name, part in parts.items()}}
    return algorithms.with_columns(table, method.over_table)


def train(
    config: experiment.Experiment,
    workdir: pathlib.Path,
    *,
    name: str,
    log: corpora.Log = print,
    profile: speed.Window | None = None,
) -> None:
    """Runs one experiment in its folder, or goes on with it.

    Raises:
      ValueError: bad configuration or data; nothing was written.
      errors.Failure and its kin: the run stopped.
    """
    config.validate()
    corpus = experiment.make_corpus(config.data, lambda line: log(f"{name}: {line}"))
    experiment.check_table(config, corpus)
    with meshes.use(meshes.make_mesh(config.mesh)):
        parts = assembly.Assembly(config, corpus, sources.Stored())
        method = parts.algorithm()
        loops.check_sizes(config.loop, method.plan, coupled=method.coupled)
        start, frozen = parts.start(), parts.frozen()
        record = folder.make_record(parts, start, frozen)
        table = corpus.read(config.algorithm.METHOD.table(config.algorithm), "train")
        notes = folder.claim(workdir, record)
        for line in (*notes, *corpus.summary, *parts.notes, record["formula"]):
            log(f"{name}: {line}")
        rows = config.loop.batch_size
        table = annotated(method, frozen, table, rows // config.loop.micro_batches)
        evaluators = judging.in_loop(parts, frozen)
        parts.release()
        for role in method.only_annotate:
            frozen.pop(role, None)
        batches = pipeline.Batches(
            table, batch_size=rows, seed=config.seed, own=hosts.own_rows(rows)
        )
        loops.train(
            method,
            batch_at=batches.batch,
            start=start,
            frozen=frozen,
            optimizer=config.optim,
            config=config.loop,
            seed=config.seed,
            workdir=workdir,
            meta=record,
            name=name,
            log=log,
            evaluators=evaluators,
            profile=profile,
        )

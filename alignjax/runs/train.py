"""Training of an experiment in its folder."""

import contextlib
import dataclasses
import pathlib

from alignjax.data import corpus as corpora
from alignjax.data import pipeline, prepare, tables
from alignjax.parallel import hosts
from alignjax.parallel import mesh as meshes
from alignjax.runs import (
    assembly,
    caches,
    continuing,
    experiment,
    folder,
    judging,
    kept,
    model_shape,
    ownership,
    records,
    sources,
    standing,
    starts,
)
from alignjax.training import annotation, journal, speed, trackers
from alignjax.training import loop as loops


def train(
    config: experiment.Experiment,
    workdir: pathlib.Path,
    *,
    name: str,
    log: corpora.Log = print,
    profile: speed.Window | None = None,
    allow_code: bool = False,
    allow_unfinished: bool = False,
    allow_moved_schedule: bool = False,
    cache: prepare.Cache | None = None,
    command: str = "",
    tracking: trackers.Tracking = trackers.NONE,
) -> None:
    """Runs one experiment in its folder, or goes on with it.

    allow_code: whether rules of the reward may run programs that the model wrote.
    allow_unfinished: whether it may start from runs that have not finished, with a line on each.
    allow_moved_schedule: whether it may go on with another `loop.steps` that moves its
    learning-rate schedule. cache: of prepared tables; None is `caches.default_cache`. command: as
    it was typed, for the folder's list of starts. tracking: who gets the metrics besides it.

    Raises:
      ValueError: bad configuration or data, or another process trains there; nothing was written.
      errors.Failure and its kin: the run stopped.
    """
    config.validate()
    cache = cache or caches.default_cache(workdir)

    def tell(line: str) -> None:
        log(f"{name}: {line}")

    cache = dataclasses.replace(cache, log=tell)
    corpus = experiment.make_corpus(config.data, cache.log, cache)
    experiment.check_table(config, corpus)
    with (
        meshes.use(meshes.make_mesh(config.mesh)),
        continuing.withdrawn_if_refused(workdir),
        contextlib.ExitStack() as held,
    ):
        told = standing.telling(tell) if allow_unfinished else standing.refuse
        parts = assembly.Assembly(config, corpus, sources.Stored(told))
        method = parts.algorithm(tell=tell, journal=journal.Journal(workdir), allow_code=allow_code)
        loops.check_sizes(config.loop, method.plan, coupled=method.coupled)
        change = continuing.check_schedule(workdir, config, method.plan, allow=allow_moved_schedule)
        start, frozen = parts.start(), parts.frozen()
        record = folder.make_record(parts, start, frozen)
        kind = config.algorithm.METHOD.table(config.algorithm)
        table = corpus.read(kind, "train")
        notes = continuing.claim(workdir, record)
        held.enter_context(ownership.owned(workdir))
        kept.write(workdir, config, corpus)
        rows = tables.count(table)
        starts.add(workdir, starts.row(workdir, config, corpus, rows, command, change))
        long = model_shape.context_lines(config.weights, corpus.length, config.weights_skip)
        for line in (*notes, *corpus.summary, *parts.notes, *long, record["formula"]):
            tell(line)
        rows = config.loop.batch_size // config.loop.micro_batches
        words = f"{name}: columns of frozen networks"
        table = annotation.annotated(method, frozen, table, rows, cache.folder, words)
        evaluators = judging.in_loop(parts, frozen, allow_code=allow_code)
        parts.release()
        for role in method.only_annotate:
            frozen.pop(role, None)
        batches = _batches(config, corpus, table)
        tracked = trackers.opened(tracking, workdir, records.flat(config), tell)
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
            rows_at=batches.whole,
            rows=0 if batches.is_mixed else batches.rows,
            tracked=held.enter_context(tracked),
        )


def _batches(
    config: experiment.Experiment, corpus: corpora.Corpus, table: tables.Table
) -> pipeline.Batches:
    """The rows of a table as the batches of a run."""
    rows, kind = config.loop.batch_size, config.algorithm.METHOD.table(config.algorithm)
    return pipeline.Batches(
        table,
        batch_size=rows,
        seed=config.seed,
        own=hosts.own_rows(rows),
        mixture=() if corpus.shares is None else corpus.shares(kind),
    )

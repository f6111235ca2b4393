"""Training of an experiment in its folder."""

import contextlib
import dataclasses
import pathlib

from alignjax.data import corpus as corpora
from alignjax.data import pipeline, prepare
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
    sources,
    standing,
)
from alignjax.training import annotation, journal, speed
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
    cache: prepare.Cache | None = None,
) -> None:
    """Runs one experiment in its folder, or goes on with it.

    allow_code: whether rules of the reward may run programs that the model wrote.
    allow_unfinished: whether it may start from runs that have not finished, with a line on each.
    cache: of prepared tables; None is `caches.default_cache`.

    Raises:
      ValueError: bad configuration or data, or another process trains there; nothing was written.
      errors.Failure and its kin: the run stopped.
    """
    config.validate()
    cache = cache or caches.default_cache(workdir)
    cache = dataclasses.replace(cache, log=lambda line: log(f"{name}: {line}"))
    corpus = experiment.make_corpus(config.data, cache.log, cache)
    experiment.check_table(config, corpus)
    with (
        meshes.use(meshes.make_mesh(config.mesh)),
        continuing.withdrawn_if_refused(workdir),
        contextlib.ExitStack() as held,
    ):
        tell = standing.telling(cache.log) if allow_unfinished else standing.refuse
        parts = assembly.Assembly(config, corpus, sources.Stored(tell))
        method = parts.algorithm(
            tell=lambda line: log(f"{name}: {line}"),
            journal=journal.Journal(workdir),
            allow_code=allow_code,
        )
        loops.check_sizes(config.loop, method.plan, coupled=method.coupled)
        start, frozen = parts.start(), parts.frozen()
        record = folder.make_record(parts, start, frozen)
        kind = config.algorithm.METHOD.table(config.algorithm)
        table = corpus.read(kind, "train")
        notes = continuing.claim(workdir, record)
        held.enter_context(ownership.owned(workdir))
        kept.write(workdir, config, corpus)
        long = model_shape.context_lines(config.weights, corpus.length, config.weights_skip)
        for line in (*notes, *corpus.summary, *parts.notes, *long, record["formula"]):
            log(f"{name}: {line}")
        rows = config.loop.batch_size
        table = annotation.annotated(
            method, frozen, table, rows // config.loop.micro_batches, cache.folder
        )
        evaluators = judging.in_loop(parts, frozen, allow_code=allow_code)
        parts.release()
        for role in method.only_annotate:
            frozen.pop(role, None)
        batches = pipeline.Batches(
            table,
            batch_size=rows,
            seed=config.seed,
            own=hosts.own_rows(rows),
            mixture=() if corpus.shares is None else corpus.shares(kind),
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
            rows_at=batches.whole,
        )

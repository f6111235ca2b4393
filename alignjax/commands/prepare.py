"""alignjax prepare: an experiment's data, tokenised and packed once, in shards on disk."""

import dataclasses
from typing import Any

import numpy as np

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import shapes
from alignjax.data import beam
from alignjax.lifecycles import lifecycle
from alignjax.runs import experiment

OPTIONS = (
    common.WORKDIR,
    common.DATA_CACHE,
    common.WORKERS,
    flags.Option("kinds", str, "", "tables to make, by comma; empty is what the method reads"),
    flags.Option(
        "beam", str, "", "options of an Apache Beam pipeline in place of workers, in quotes"
    ),
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = True
SPLITS = ("train", "eval")


def main(parsed: flags.Parsed) -> None:
    """Makes the tables that are missing, and says where they are."""
    common.stop_on_signals()
    config: Any = parsed.config
    if not isinstance(config, experiment.Experiment | lifecycle.Lifecycle):
        raise ValueError(
            f"alignjax prepare takes an experiment or a lifecycle; got {type(config).__name__} "
            f"({parsed.name})."
        )
    cache = common.data_cache(parsed, common.workdir(parsed))
    common.use_definitions(parsed)
    if parsed.options["beam"]:
        cache = dataclasses.replace(cache, run=beam.runner(parsed.options["beam"]))
    cache = dataclasses.replace(cache, log=common.log)
    corpus = experiment.make_corpus(config.data, common.log, cache)
    for line in corpus.summary:
        common.log(line)
    kinds = [name.strip() for name in parsed.options["kinds"].split(",") if name.strip()]
    if not kinds and isinstance(config, experiment.Experiment):
        experiment.check_table(config, corpus)
        kinds = [config.algorithm.METHOD.table(config.algorithm)]
    for kind in kinds or corpus.kinds:
        shapes.check_choice("--kinds", kind, corpus.kinds)
        for split in SPLITS:
            table = corpus.read(kind, split)
            if isinstance(next(iter(table.values())), np.ndarray):
                raise ValueError(
                    f"data must be of files to be prepared; got {type(config.data).__name__}, "
                    "whose rows are made in memory. There is nothing to prepare."
                )
    common.tell(f"prepared: {cache.folder}")

"""alignjax plan: memory and time of a run on a machine that may be absent."""

import json
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import shapes
from alignjax.planning import planner, report, sweep, sweep_report, topology
from alignjax.runs import experiment

OPTIONS = (
    flags.Option("topology", str, "", "v5e:4x4, v5p:2x2x4, ..., cuda:8 or cpu:8"),
    flags.Option("slices", int, 1, "slices of that topology, joined by the network"),
    flags.Option("evaluation", bool, True, "plan the programs of alignjax evaluate too"),
    flags.Option("sweep", bool, False, "try meshes, micro-batches and remat; compile the update"),
    flags.Option("compiles", int, 12, "programs that --sweep compiles at most"),
    flags.Option("json", bool, False, "print one JSON object instead of text"),
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = True


def main(parsed: flags.Parsed) -> int:
    """Compiles every program of the run from shapes; exit 1 where one does not fit."""
    if not isinstance(parsed.config, experiment.Experiment):
        raise ValueError(
            f"alignjax plan takes an experiment; got {type(parsed.config).__name__} "
            f"({parsed.name}). Plan the stages of a lifecycle one by one."
        )
    common.use_definitions(parsed)
    options = parsed.options
    machine = topology.find(options["topology"], options["slices"])
    name = parsed.name + (f":{parsed.variant}" if parsed.variant else "")
    if options["sweep"]:
        return _sweep(parsed.config, machine, name, options)
    plan = planner.plan(parsed.config, machine, common.log, evaluation=options["evaluation"])
    common.tell(json.dumps(report.table(plan, name)) if options["json"] else report.text(plan))
    return 0 if plan.fits else 1


def _sweep(
    config: experiment.Experiment, machine: topology.Machine, name: str, options: dict[str, Any]
) -> int:
    """The best of several ways to run; exit 1 where none fits."""
    shapes.check_number("--compiles", options["compiles"], minimum=1)
    result = sweep.sweep(config, machine, common.log, compiles=options["compiles"])
    as_json = options["json"]
    common.tell(
        json.dumps(sweep_report.table(result, name)) if as_json else sweep_report.text(result)
    )
    return 0 if result.best is not None else 1

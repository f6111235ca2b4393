"""alignjax plan: what a run needs of a machine that need not be here."""

import json

from alignjax import experiment
from alignjax.cli import flags
from alignjax.commands import common
from alignjax.planning import planner, report, topology

OPTIONS = (
    flags.Option("topology", str, "", "v5e:4x4, v5p:2x2x4, ..., cuda:8 or cpu:8"),
    flags.Option("slices", int, 1, "slices of that topology, joined by the network"),
    flags.Option("evaluation", bool, True, "plan the programs of alignjax evaluate too"),
    flags.Option("json", bool, False, "print one JSON object instead of text"),
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
    machine = topology.find(parsed.options["topology"], parsed.options["slices"])
    wanted = parsed.options["evaluation"]
    made = planner.plan(parsed.config, machine, common.say, evaluation=wanted)
    name = parsed.name + (f":{parsed.variant}" if parsed.variant else "")
    as_json = parsed.options["json"]
    print(json.dumps(report.table(made, name)) if as_json else report.text(made))
    return 0 if made.fits else 1

"""alignjax run: a lifecycle, from pretraining to the report."""

import pathlib

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import errors
from alignjax.lifecycles import lifecycle
from alignjax.parallel import processes
from alignjax.reporting import report

STAGES = flags.Option(
    "stages", str, "", "folder of stages that lifecycles share: equal ones are trained once"
)
OPTIONS = (
    common.WORKDIR,
    STAGES,
    *common.PROCESSES,
    *common.TRACKING,
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = True


def main(parsed: flags.Parsed) -> int | None:
    """Runs what is not finished, prints the table; exit 1 when a gate is missed."""
    common.stop_on_signals()
    config = parsed.config
    if not isinstance(config, lifecycle.Lifecycle):
        raise ValueError(
            f"alignjax run takes a lifecycle; got {type(config).__name__} ({parsed.name}). "
            "Use `alignjax train` for a single experiment."
        )
    workdir, tracking = common.workdir(parsed), common.tracking(parsed)
    common.use_definitions(parsed)
    common.join(parsed)
    common.keep_freed_memory()
    with common.compilation_cache(workdir):
        named = parsed.options["stages"]
        store = pathlib.Path(named) if named else None
        command = common.command_of(parsed)
        gates = lifecycle.run(
            config, workdir, common.log, store, command=command, tracking=tracking
        )
    # The experiment states its numbers for the configuration in the file, not for a changed one.
    if processes.is_first():
        if not {name for name in parsed.overrides if name != "data.path"}:
            expected = getattr(parsed.module, "EXPECTED", {}).get(parsed.variant, {})
            lifecycle.add_expected(workdir / "results.json", expected)
        print(report.write(workdir))
        print(f"\nreport: {workdir / 'report.html'}")
    missed = [gate.name for gate in gates if not gate.passed]
    if missed:
        raise errors.Failure(f"{len(missed)} gates were missed: {'; '.join(missed)}.")
    return None

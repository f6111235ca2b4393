"""alignjax run: a lifecycle, from pretraining to the report."""

from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import errors
from alignjax.lifecycles import human, review, stages
from alignjax.parallel import processes
from alignjax.reporting import report

OPTIONS = (common.WORKDIR, *common.PROCESSES, common.DEBUG)
NEEDS_CONFIG = True


def main(parsed: flags.Parsed) -> int | None:
    """Runs what is not finished, prints the table; exit 1 when a gate is missed."""
    lifecycles: dict[type, Any] = {
        review.ReviewLifecycle: review.run,
        human.HumanLifecycle: human.run,
    }
    run = lifecycles.get(type(parsed.config))
    if run is None:
        raise ValueError(
            f"alignjax run takes a lifecycle; got {type(parsed.config).__name__} ({parsed.name}). "
            "Use `alignjax train` for a single experiment."
        )
    workdir = common.workdir(parsed)
    common.join(parsed)
    common.keep_freed_memory()
    common.stop_on_sigterm()
    with common.compilation_cache(workdir):
        gates = run(parsed.config, workdir, common.say)
    # The experiment states its numbers for the configuration in the file, not for a changed one.
    if processes.is_first():
        if not {name for name in parsed.overrides if name != "data.path"}:
            expected = getattr(parsed.module, "EXPECTED", {}).get(parsed.variant, {})
            stages.add_expected(workdir / "results.json", expected)
        print(report.write(workdir))
        print(f"\nreport: {workdir / 'report.html'}")
    missed = [gate.name for gate in gates if not gate.passed]
    if missed:
        raise errors.Failure(f"{len(missed)} gates were missed: {'; '.join(missed)}.")
    return None

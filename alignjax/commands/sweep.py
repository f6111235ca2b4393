"""alignjax sweep: arms x seeds of an experiment file, and what they say together."""

import dataclasses
import os
import pathlib
import subprocess

import jax

import alignjax
from alignjax.cli import flags, outcome
from alignjax.cli.config_file import one_line_error
from alignjax.commands import common
from alignjax.core import errors, shapes
from alignjax.sweeps import arms, clusters, folder, record, report, runner

OPTIONS = (
    common.WORKDIR,
    flags.Option("sweep", str, "", "A,B,...: arms by values of a field", fields=True),
    flags.Option("seeds", int, 0, "of every arm, from config.seed on; 0 is the file's own, or 5"),
    flags.Option("jobs", int, 1, "runs at once, at most one a processor core"),
    flags.Option("print", str, "", "slurm | xpk: the text for a cluster; nothing runs here"),
    common.DEBUG,
)  # fmt: skip
NEEDS_CONFIG = True
KEEPS_EXPECTED = {"data.path", arms.SEED}  # what may be given without the numbers' being others


def main(parsed: flags.Parsed) -> None:
    """Runs what is not finished and prints the report.

    Raises:
      ValueError: the sweep is wrong, or the folder holds another; nothing was run.
      errors.Failure: a run failed, a number left its band, or the verdict is not that of the file.
    """
    options = parsed.options
    if options["print"]:
        shapes.check_choice("--print", options["print"], clusters.KINDS)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shapes.check_number("--jobs", options["jobs"], minimum=1)
    if options["jobs"] > (cores or 1) and not options["print"]:
        raise one_line_error(
            f"--jobs must be at most the {cores} cores of this machine; got {options['jobs']}."
        )
    plan = make(parsed)
    sweep = pathlib.Path(str(common.workdir(parsed)))
    plan = folder.claim(sweep, plan)
    cells = folder.cells(sweep, plan)
    if options["print"] == "slurm":
        print(clusters.slurm(cells, sweep, options["jobs"]), end="")
        return
    if options["print"] == "xpk":
        print(clusters.xpk(cells, sweep), end="")
        return
    failed = runner.run(cells, sweep, options["jobs"], common.log)
    shown, result = report.write(sweep)
    print(f"{shown}\n\nreport: {sweep / report.PAGE}")
    problems = [f"{len(failed)} of {len(cells)} runs failed"] if failed else []
    problems += result.outside
    problems += [result.contradiction] if result.contradiction else []
    if problems:
        raise errors.Failure(f"{'; '.join(problems)}.")


def make(parsed: flags.Parsed) -> folder.Plan:
    """The sweep that a command line asks for, checked.

    Raises:
      ValueError: in one line, what is wrong.
    """
    assert parsed.module is not None
    file, here = pathlib.Path(str(parsed.module.__file__)), pathlib.Path.cwd()
    place = file.relative_to(here) if file.is_relative_to(here) else file
    spec = f"{place}{':' + parsed.variant if parsed.variant else ''}"
    kind = arms.command(parsed.config, parsed.name)
    own, values = _declared(parsed, kind)
    chosen = arms.make(values)
    count = parsed.options["seeds"] or own.seeds
    if count < 2:
        raise one_line_error(
            f"--seeds must be at least 2, or no interval can be told; got {count}."
        )
    given = arms.overrides(parsed)
    expected: record.Expected = {}
    stated = vars(parsed.module).get("EXPECTED", {}).get(parsed.variant, {})
    if not parsed.options["sweep"]:
        expected = record.check_expected(stated, own, parsed.name)
    if {*parsed.overrides} - KEEPS_EXPECTED:
        own, expected = dataclasses.replace(own, verdict=""), {}
    configs = arms.configs(spec, parsed.name, given, chosen)
    seeds = tuple(range(parsed.config.seed, parsed.config.seed + count))
    origin = {"alignjax": alignjax.__version__, "jax": jax.__version__, "commit": commit()}
    return folder.Plan(own, tuple(chosen), configs, spec, kind, given, seeds, expected, origin)


def _declared(parsed: flags.Parsed, kind: str) -> tuple[record.Sweep, dict[str, dict[str, str]]]:
    """(what is measured and claimed, {arm: {field: text}}), of --sweep.FIELD or of the file."""
    lists, own = parsed.options["sweep"], arms.declared(parsed)
    if lists:
        arms.check_fields(parsed, {"": lists}, "--sweep")
        values = arms.listed(parsed, lists)
        measures = own.measures if own else arms.default_measures(parsed.config, kind)
        seeds, curves = (own.seeds, own.curves) if own else (5, ())
        first = next(iter(values))
        own = record.Sweep(
            arms=values, baseline=first, measures=measures, seeds=seeds, curves=curves
        )
        return own, values
    if own is None:
        raise one_line_error(
            f"a sweep must have arms; got none in {parsed.name}, which has no sweep(). Give "
            "--sweep.FIELD=A,B."
        )
    values = {
        name: {field: arms.text_of(value) for field, value in chosen.items()}
        for name, chosen in own.arms.items()
    }
    arms.check_fields(parsed, values, f"sweep() of {parsed.name}")
    return own, values


def commit() -> str:
    """The commit of the code, with a + where it was changed since; "" outside of a checkout."""
    root = outcome.PACKAGE.parent
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")

"""alignjax evaluate: a trained run on its eval split, its answers by a judge, or suites."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import shapes
from alignjax.runs import evaluated, evaluation

OPTIONS = (
    common.WORKDIR,
    *common.PROCESSES,
    flags.Option("rows", int, 64, "rows scored at once"),
    flags.Option("seed", int, 0, "of the sampled completions"),
    flags.Option("json", bool, False, "print one JSON object instead of lines"),
    common.BEST,
    common.ALLOW_CODE,
    common.BASE,
    common.DEFINITIONS,
    flags.Option("suite", str, "", "suites instead, by commas: docs/evaluation.md"),
    flags.Option("data", str, "", "with --suite: file of its rows, or SUITE=FILE,SUITE=FILE"),
    flags.Option("model", str, "", "with --suite: open weights in place of a run"),
    flags.Option("template", str, "", "with --model: layout of chats; none is plain text"),
    flags.Option("date", str, "", "today's for such a layout that states it, like '26 Jul 2024'"),
    common.SKIP,
    flags.Option("pad", str, "", "with --model: token to pad with, where it names none"),
    flags.Option("system", str, "", "with --suite: the system prompt"),
    flags.Option(
        "limit",
        int,
        0,
        "with --suite or --judge: so many rows, of suites by a fixed seed; 0 is all",
    ),
    flags.Option("length", int, 2048, "with --suite: tokens of a prompt with its answer at most"),
    flags.Option("max_new_tokens", int, 512, "with --suite or --judge: limit of an answer"),
    flags.Option("temperature", float, 0.0, "with --suite or --judge: of answers; 0 is greedy"),
    flags.Option("generate", bool, False, "with --suite=bbq: answers are written and read"),
    flags.Option("judge", str, "", "JSON file that describes a judge: docs/judgements.md"),
    flags.Option(
        "against",
        str,
        "",
        "with --judge: a run, or JSONL of prompt and answer, to win against; "
        "with --suite=mt_bench: result whose answers are compared",
    ),
    flags.Option("out", str, "", "folder of results; WORKDIR/evaluations for a run"),
    common.DEBUG,
)
NEEDS_CONFIG = False
JUDGE_OPTIONS = ("limit", "max_new_tokens", "temperature", "judge", "against", "out")
SUITE_OPTIONS = ("data", "model", "template", "pad", "date", "skip", "system", "length", "generate")


def main(parsed: flags.Parsed) -> None:
    """Prints every number with its standard error."""
    options = parsed.options
    common.use_base(parsed)
    if options["suite"]:
        _suites(options)
        return
    defaults = {option.name: option.default for option in OPTIONS}
    only = SUITE_OPTIONS if options["judge"] else (*SUITE_OPTIONS, *JUDGE_OPTIONS)
    wrong = [name for name in only if options[name] != defaults[name]]
    if wrong:
        beside = " or --judge" if wrong[0] in JUDGE_OPTIONS else ""
        raise ValueError(
            f"--{wrong[0]} must come with --suite{beside}; got it alone (evaluate). Name one."
        )
    if options["judge"]:
        _judged(parsed)
        return
    common.join(parsed)
    numbers = evaluation.evaluate(
        common.run_folder(parsed),
        rows=options["rows"],
        seed=options["seed"],
        best=options["best"],
        log=common.log,
        definitions=options["definitions"],
        allow_code=options["allow_code"],
    )
    evaluated.write(
        common.run_folder(parsed), numbers, best=options["best"],
        command=common.command_of(parsed), log=common.log,
    )  # fmt: skip
    if options["json"]:
        common.tell(json.dumps({name: value.as_dict() for name, value in numbers.items()}))
        return
    for name, value in numbers.items():
        common.tell(f"{name}: {value.value:.4f} ± {value.se:.4f} (n = {value.n})")


def _judged(parsed: flags.Parsed) -> None:
    """Prints how often a run's answers win against others; what was said is in files."""
    from alignjax.runs import judged_answers
    from alignjax.sampling import transforms

    options = parsed.options
    shapes.check_number("--limit", options["limit"], minimum=0)
    if options["coordinator"] or options["processes"]:
        raise ValueError("--judge must run in one process; got several (evaluate).")
    if not options["against"]:
        raise ValueError(
            "--against must name a run, or a file of prompts and answers, with --judge; got '' "
            "(evaluate). Say whom the answers are compared with."
        )
    sampling = transforms.SamplingConfig(
        max_new_tokens=options["max_new_tokens"], temperature=options["temperature"]
    )
    sampling.validate()
    asked = judged_answers.Asked(
        workdir=common.run_folder(parsed), against=pathlib.Path(options["against"]),
        judge=options["judge"], sampling=sampling,
        **{name: options[name] for name in ("seed", "limit", "rows", "best", "definitions")},
    )  # fmt: skip
    found = judged_answers.judged(asked, out_folder(options), common.log)
    print(json.dumps(found.as_dict()) if options["json"] else "\n".join(found.lines()))
    judged_answers.check_unread(found)


def _suites(options: Mapping[str, Any]) -> None:
    """Runs suites and prints their table; what they say of each row is in files alone."""
    from alignjax.evals.suites import candidate, record, run
    from alignjax.reporting import suites
    from alignjax.rewards import described
    from alignjax.runs import described_judge
    from alignjax.runs import suites as opening
    from alignjax.sampling import transforms

    shapes.check_number("--limit", options["limit"], minimum=0)
    if options["coordinator"] or options["processes"]:
        raise ValueError("--suite must run in one process; got several (evaluate).")
    chosen = {name: run.named(name) for name in options["suite"].split(",")}
    files = data_files(options["data"], list(chosen))
    data = {name: run.read(own, files[name], options["limit"]) for name, own in chosen.items()}
    folder = out_folder(options)
    sampling = transforms.SamplingConfig(
        max_new_tokens=options["max_new_tokens"], temperature=options["temperature"]
    )
    limits = candidate.Limits(options["rows"], options["length"], options["seed"])
    names = opening.Asked._fields
    asked = opening.Asked(**{name: options[name] for name in names})
    against = run.read_rows(pathlib.Path(options["against"])) if options["against"] else None
    with contextlib.ExitStack() as stack:
        judge, name = None, ""
        if options["judge"]:
            described_as = described.read(options["judge"])
            judge, digest = stack.enter_context(described_judge.opened(described_as))
            name = f"{described_as.name}@{digest[:12]}"
        settings = record.Settings(options["generate"], judge, against)
        run.check(list(chosen.values()), settings)
        own = stack.enter_context(opening.opened(asked, sampling, limits))
        how = {"judge": name, "generate": "texts" if options["generate"] else ""}
        own = own._replace(identity={**own.identity, **how})
        summaries = run.evaluate(data, own, settings, folder, common.log)
    if options["json"]:
        print(json.dumps(summaries))
    else:
        print(suites.text(summaries))
        print(f"\nresults: {folder}")


def data_files(text: str, names: list[str]) -> dict[str, str]:
    """{suite: file} of --data.

    Raises:
      ValueError: a suite has none, or a file is of no suite.
    """
    if len(names) == 1 and text and not text.startswith(f"{names[0]}="):
        return {names[0]: text}
    pairs = [entry.partition("=") for entry in text.split(",") if entry]
    files = {name: path for name, _, path in pairs}
    if set(files) != set(names) or not all(files.values()):
        raise ValueError(
            f"--data must name a file for each of {', '.join(names)}; got {text!r:.200} "
            "(evaluate). Write --data=SUITE=FILE,SUITE=FILE."
        )
    return files


def out_folder(options: Mapping[str, Any]) -> pathlib.Path:
    """The folder of results.

    Raises:
      ValueError: it is a file, or none is named for open weights.
    """
    from alignjax.evals.suites import run

    if not options["out"] and not options["workdir"]:
        raise ValueError("--out must name a folder with --model; got '' (evaluate). Name one.")
    folder = pathlib.Path(options["out"] or pathlib.Path(options["workdir"]) / run.EVALUATIONS)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out must be a folder; got the file {folder} (evaluate).")
    return folder

"""alignjax search: accuracy against samples, by how the answer is chosen."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import shapes, values
from alignjax.evals import estimate
from alignjax.reporting import search as picture
from alignjax.rewards import process
from alignjax.runs import searching
from alignjax.sampling import transforms
from alignjax.search import accuracy, beam, extract, report, solutions
from alignjax.search import scorer as scorers

METHODS = (*accuracy.METHODS, accuracy.BEAM)
QUESTIONS = (  # of commands that sample solutions
    common.WORKDIR,
    flags.Option("model", str, "", "open weights instead of a run: a model folder or .gguf file"),
    flags.Option("template", str, "", "layout of chats with --model; empty takes the model's own"),
    flags.Option("date", str, "", "today's for such a layout that states it, like '26 Jul 2024'"),
    flags.Option("prompts", str, "", "file of questions with answers; empty is the eval split"),
    flags.Option("answer", str, "answer", "column of the right answer"),
    flags.Option(
        "extract", str, "last_number", f"the answer in a text: {', '.join(extract.EXTRACTORS)}"
    ),
    flags.Option("count", int, 0, "so many questions; 0 is all"),
    flags.Option("rows", int, 64, "answers sampled, and scored, at once"),
)
OPTIONS = (
    *QUESTIONS,
    flags.Option("scorer", str, "", "run of a reward model or a process reward model"),
    flags.Option("steps", str, process.PRODUCT, f"joined how: {', '.join(process.JOINED)}"),
    flags.Option("n", str, "1,4,16", "numbers of samples, by commas"),
    flags.Option("method", str, "", f"by commas: {', '.join(METHODS)}; empty is all that it can"),
    flags.Option("branches", int, 4, "of a beam: continuations of each that is kept"),
    flags.Option("out", str, "", "folder of search.json and search.png; empty is WORKDIR/search"),
    *common.SAMPLING,
    common.BEST,
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Prints the table, and writes it with its picture."""
    options = parsed.options
    sizes, config = report.sizes(options["n"]), sampling_of(options)
    names = chosen(options, sizes)
    folder = out_folder(options)
    with searching.opened(asked_of(options)) as policy:
        searching.check_rows(options["rows"])
        judge = None
        if options["scorer"]:
            judge = searching.scorer(
                options["scorer"], policy, how=options["steps"], rows=options["rows"]
            )
        curves, spent = _curves(options, policy, judge, names, sizes, config)
        told = {
            "policy": policy.identity,
            "scorer": options["scorer"],
            "questions": len(policy.lengths),
            "steps": options["steps"] if judge is not None and judge.by_step else "",
            **{n: options[n] for n in ("extract", "branches", "seed", "prompts")},
            **{n: options[n] for n in ("max_new_tokens", "temperature", "top_k", "top_p")},
            "accuracy": report.as_dict(curves),
            "tokens": spent,
        }
    for line in report.lines(curves):
        print(line)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "search.json").write_text(json.dumps(told, indent=1) + "\n")
    (folder / "search.png").write_bytes(picture.accuracy(curves))
    print(f"written: {folder}")


def sampling_of(options: Mapping[str, Any]) -> transforms.SamplingConfig:
    """How answers are sampled, checked with all that needs no model."""
    config = transforms.SamplingConfig(
        **{n: options[n] for n in ("max_new_tokens", "temperature", "top_k", "top_p")}
    )
    config.validate()
    shapes.check_number("--count", options["count"], minimum=0)
    shapes.check_number("--rows", options["rows"], minimum=1)
    extract.extractor(options["extract"])
    return config


def asked_of(options: Mapping[str, Any]) -> searching.Asked:
    """The policy and its questions, of the options."""
    named = {name: options[name] for name in searching.Asked._fields if name != "limit"}
    return searching.Asked(**named, limit=options["count"])


def chosen(options: Mapping[str, Any], sizes: Sequence[int]) -> list[str]:
    """The methods: those asked for, or all that need no scorer where there is none.

    Raises:
      ValueError: an unknown one, one that lacks its scorer, or beams that do not fit.
    """
    values.check_choice("--steps", options["steps"], process.JOINED)
    given = [name.strip() for name in options["method"].split(",") if name.strip()]
    for name in given:
        values.check_choice("--method", name, METHODS)
        if name in (*accuracy.SCORED, accuracy.BEAM) and not options["scorer"]:
            raise ValueError(
                f"--method={name} must come with --scorer; got none (search). Name the run of a "
                "reward model."
            )
    if accuracy.BEAM in given:
        for size in sizes:
            beam.check(size, options["branches"])
    shapes.check_number("--branches", options["branches"], minimum=1)
    return given or [
        name for name in accuracy.METHODS if options["scorer"] or name not in accuracy.SCORED
    ]


def out_folder(options: Mapping[str, Any]) -> pathlib.Path:
    """The folder of results.

    Raises:
      ValueError: none is named, or it is a file.
    """
    if not options["out"] and not options["workdir"]:
        raise ValueError("--out must name a folder with --model; got '' (search). Name one.")
    folder = pathlib.Path(options["out"] or pathlib.Path(options["workdir"]) / "search")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out must be a folder; got the file {folder} (search).")
    return folder


def _curves(
    options: Mapping[str, Any],
    policy: searching.Opened,
    judge: scorers.Scorer | None,
    names: Sequence[str],
    sizes: Sequence[int],
    config: transforms.SamplingConfig,
) -> tuple[dict[str, dict[int, estimate.Estimate]], dict[str, Any]]:
    """(accuracy by method and n, tokens sampled a question by draws or beams and n)."""
    find, seed = extract.extractor(options["extract"]), options["seed"]
    shared = {"eos": policy.ends_at, "pad": policy.pad, "rows": options["rows"], "seed": seed}
    found: dict[str, dict[int, estimate.Estimate]] = {}
    spent: dict[str, Any] = {}
    plain = [name for name in names if name != accuracy.BEAM]
    if plain:
        draw = solutions.make_draw(policy.model, policy.params, config, **shared)
        rows = solutions.several(draw, policy.prompts, policy.lengths, sizes[-1])
        pool = accuracy.pool_of(rows, policy.text, policy.right, find)
        if judge is not None:
            scores = judge.score(rows).reshape(-1, sizes[-1])
            pool = pool._replace(scores=scores, weights=judge.weights(scores))
        found |= accuracy.curves(pool, plain, sizes, seed=seed)
        mean = float(np.mean(rows.lengths - rows.prompt_lengths))
        spent["draws"] = {str(n): n * mean for n in sizes}
    if accuracy.BEAM in names:
        if judge is None or not judge.by_step or policy.ends is None:
            raise ValueError(
                "--method=beam must have a scorer of steps; got a model of whole answers (search). "
                "Name the run of a process reward model."
            )
        step = solutions.make_draw(policy.model, policy.params, config, ends=policy.ends, **shared)
        own, spent["beam"] = {}, {}
        for size in sizes:
            beams = beam.search(
                step, judge.score, policy.prompts, policy.lengths, size=size,
                branches=options["branches"], new=config.max_new_tokens,
            )  # fmt: skip
            best = accuracy.pool_of(
                beams.rows.take(beams.best(size)), policy.text, policy.right, find
            )
            own[size] = estimate.mean(best.correct[:, 0])
            spent["beam"][str(size)] = float(np.mean(beams.tokens))
        found[accuracy.BEAM] = own
    return found, spent

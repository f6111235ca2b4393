"""alignjax collect: answers to be judged, sampled from runs or taken from a file."""

import pathlib
from collections.abc import Iterator
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import shapes, untrusted, values
from alignjax.feedback import content, database, imports, project
from alignjax.runs import answers
from alignjax.sampling import diverse, transforms

INDEPENDENT, NEGATIVE = "independent", "negatively_correlated"
OPTIONS = (
    common.DATABASE,
    flags.Option("project", str, "", "JSON file of what raters are asked; empty keeps it"),
    flags.Option("workdir", str, "", "folders of runs that answer, by comma"),
    flags.Option("prompts", str, "", "file of prompts; empty takes those of the runs' eval split"),
    flags.Option("answers", str, "", "file of prompts with answers, in place of runs"),
    flags.Option("candidates", int, 4, "answers to a prompt, of all runs together"),
    flags.Option("count", int, 0, "so many prompts; 0 is all"),
    flags.Option("language", str, "", "of the items, such as hi; shown by the page"),
    *common.SAMPLING,
    flags.Option("sampling", str, INDEPENDENT, f"{INDEPENDENT} | {NEGATIVE}: sees earlier answers"),
    flags.Option("template", str, "", "file of text with {prompt} and {answers}; empty is our own"),
    flags.Option("rows", int, 64, "answers sampled at once"),
    common.BEST,
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Adds items to a database, which is made if it is not there."""
    options = parsed.options
    if bool(options["workdir"]) == bool(options["answers"]):
        raise ValueError(
            "--workdir or --answers must be given, and not both (collect). Name runs that answer, "
            "or a file of answers."
        )
    if not options["database"]:
        raise ValueError("--database must name a file or server; got '' (collect). Name one.")
    asked = project.read(options["project"])
    with database.opened(options["database"], new=True) as db:
        from alignjax.feedback.store import items, queries

        clock = database.Clock(db.read(queries.latest))
        is_new = db.read(queries.totals)["item"] == 0
        if options["project"] or is_new:
            db.write(items.set_project, asked, clock.now())
        own = db.read(queries.settings)
        # All is read and checked before anything is stored.
        given = list(_chosen(options, own))
        new = sum(
            db.write(items.add_items, batch, own, clock.now())
            for batch in imports.batches(iter(given), items.BATCH)
        )
        total = db.read(queries.totals)["item"]
    print(f"collected: {new} new items of {len(given)}; {total} in {options['database']}")


def _chosen(options: dict[str, Any], own: project.Project) -> Iterator[content.Item]:
    if not options["answers"]:
        yield from _sampled(options)
        return
    for number, item in enumerate(imports.items(options["answers"], own, options["language"])):
        if options["count"] and number == options["count"]:
            return
        yield item


def _sampled(options: dict[str, Any]) -> list[content.Item]:
    folders = [pathlib.Path(name.strip()) for name in options["workdir"].split(",")]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"--workdir must be folders of runs; got {str(folder)!r} (collect).")
    shapes.check_number("--rows", options["rows"], minimum=1)
    shapes.check_number("--count", options["count"], minimum=0)
    shapes.check_number(
        "--candidates", options["candidates"], minimum=len(folders), maximum=content.ANSWERS
    )
    template = _template(options)
    config = transforms.SamplingConfig(**{n: options[n] for n in answers.SAMPLING})
    config.validate()
    prompts = imports.prompts(options["prompts"]) if options["prompts"] else []
    found = list[answers.Answers]()
    for number, folder in enumerate(folders):
        count, more = divmod(options["candidates"], len(folders))
        own = answers.answers(
            folder, prompts[: options["count"] or None], count + (number < more), config=config,
            seed=options["seed"] + number, limit=options["count"], rows=options["rows"],
            best=options["best"], definitions=options["definitions"], template=template,
        )  # fmt: skip
        if len(own.texts[0]) > 1:
            common.log(f"{folder}: {own.diversity}")
        if found and own.prompts != found[0].prompts:
            raise ValueError(
                f"runs must answer the same prompts; got others of {folder} than of {folders[0]}. "
                "Give --prompts."
            )
        found.append(own)
    return _items(found, options["language"])


def _template(options: dict[str, Any]) -> str:
    """The template of prompts with earlier answers; "" where answers are independent."""
    values.check_choice("--sampling", options["sampling"], (INDEPENDENT, NEGATIVE))
    file = options["template"]
    if options["sampling"] == INDEPENDENT:
        if file:
            raise ValueError(
                f"--template must come with --sampling={NEGATIVE}; got {file!r} (collect)."
            )
        return ""
    if not file:
        return diverse.SEQUENTIAL
    try:
        template = untrusted.read_text(file, untrusted.OPTION)
    except OSError as error:
        raise ValueError(
            f"--template must be a file of text; got {error.strerror} ({file})."
        ) from None
    return diverse.check_template(template, (diverse.PROMPT, diverse.ANSWERS))


def _items(found: list[answers.Answers], language: str) -> list[content.Item]:
    """Items of the answers of all runs."""
    kept, left_out, lost = list[content.Item](), 0, 0
    source = {"runs": [dict(own.source) for own in found]}
    for i, turns in enumerate(found[0].prompts):
        candidates = [
            content.Candidate(text, f"{own.source['run']}@{own.source['checkpoint'][:12]}", logprob)
            for own in found
            for text, logprob in zip(own.texts[i], own.logprobs[i], strict=True)
        ]
        item, count = imports.sampled(turns, candidates, language, source)
        left_out += count
        lost += item is None
        kept += [] if item is None else [item]
    if left_out:
        common.log(f"left out: {left_out} answers that are empty or equal to another")
    if lost:
        common.log(f"left out: {lost} prompts without two different answers")
    return kept

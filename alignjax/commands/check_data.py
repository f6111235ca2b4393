"""alignjax check-data: rows of any layout and container, read and checked without a model."""

import os
import pathlib
import sys

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.data import check, rendering

# Fields of data that are options here under their own names.
FIELDS = {
    "tfds": "NAME[/CONFIG][:VERSION] of TFDS_DATA_DIR, in place of a path",
    "names": "glob that selects files of the folder",
    "layout": "what the fields mean; empty tells it from the first rows",
    "fields": "the layout's fields under your names: prompt=query,chosen=best",
    "score": "the score that ranks answers",
    "pairs": "best-worst | best-random | all, of ranked answers",
    "categories": "names of labels by comma, of rows for a guard",
    "tokenizer": "a tokenizer's file or a model's folder; empty estimates tokens from bytes",
    "template": "layout of conversations; empty is the tokenizer's own",
    "length": "tokens of a row",
    "prompt_length": "most tokens of a prompt",
    "on_bad_row": "error | skip",
    "max_bad_share": "share of broken rows that skip may skip",
    "max_unusable_share": "share of rows that may be unusable: equal or empty answers",
    "max_leaked_share": "share of eval rows that may stand among training rows",
}
OPTIONS = (
    flags.Option("path", str, "", "folder or file of rows, local or in a bucket", leads=True),
    *(
        flags.Option(name, type(check.DEFAULTS[name]), check.DEFAULTS[name], about)
        for name, about in FIELDS.items()
    ),
    flags.Option("examples", int, 3, "so many rows are shown with their loss mask"),
    flags.Option("html", str, "", "file that a page with the report is written to"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Prints layout, counts, lengths, duplicates, scripts, what would be cut, and examples."""
    options = {name: value for name, value in parsed.options.items() if name != "debug"}
    page, show = options.pop("html"), options.pop("examples")
    if not (options["path"] or options["tfds"]):
        raise ValueError("--path must name a folder or file of rows; got none.")
    report = check.check_data(**options, show=show)
    shown = rendering.terminal(report.examples, colour=sys.stdout.isatty())
    try:
        print(*report.lines, *shown, sep="\n", flush=True)
    except BrokenPipeError:  # `| head` has read enough; nothing is left to be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if page:
        title = f"check-data {options['path'] or options['tfds']}"
        text = rendering.page(title, report.lines, report.examples)
        pathlib.Path(page).write_text(text, encoding="utf-8")

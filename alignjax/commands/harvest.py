"""alignjax harvest: judgements as files of training rows, and as they are."""

import pathlib

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.feedback import database

OPTIONS = (
    common.DATABASE,
    flags.Option("to", str, "", "folder that the files are written to"),
    flags.Option("kind", str, "", "kinds of rows, such as pairs,unpaired; empty is all"),
    flags.Option("aggregate", str, "weighted", "of votes: weighted | majority | dawid_skene"),
    flags.Option("raters", str, "all", "whose judgements become rows: all | people | judges"),
    flags.Option("holdout", float, 0.05, "share of prompts whose pairs are for evaluation"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Writes every judgement and the rows made of them, reads these back, and prints counts."""
    options = parsed.options
    database.check_extra()
    from alignjax.feedback import harvest

    if not options["to"] or pathlib.Path(options["to"]).is_file():
        raise ValueError(f"--to must be a folder; got {options['to']!r} (harvest). Name one.")
    kinds = [kind.strip() for kind in options["kind"].split(",") if kind.strip()]
    with database.read_only(options["database"]) as read:
        made = harvest.harvest(
            read,
            pathlib.Path(options["to"]),
            kinds or tuple(harvest.FILES),
            join=options["aggregate"],
            voices=options["raters"],
            holdout=options["holdout"],
        )
    for line in made.lines():
        print(line)

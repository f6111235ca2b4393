"""alignjax methods [NAME]: which methods there are, and how papers and other code compute one."""

import json

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.compat import listing

OPTIONS = (
    flags.Option(
        "name", str, "", "a method, e.g. ipo (also the first word); none: all", leads=True
    ),
    flags.Option("table", str, "", "only on such rows: pairs, unpaired, rollouts, ..."),
    flags.Option("preset", str, "", "only as it computes them: paper, trl-1.16, ..."),
    flags.Option("json", bool, False, "print one JSON object instead of text"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Prints the methods by kind of rows, or a method's formulas and how presets differ."""
    options = parsed.options
    where = options["table"] or None, options["preset"] or None
    if options["json"]:
        name = options["name"]
        print(json.dumps(listing.detail(name, *where) if name else listing.overview(*where)))
    elif options["name"]:
        print(listing.detail_text(options["name"], *where))
    else:
        print(listing.overview_text(*where))

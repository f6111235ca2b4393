"""alignjax review: what a guard let through and blocked, judged by people; rates, rows, purges."""

import json
import math
import pathlib
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import shapes
from alignjax.feedback import database

DAY = 86_400.0
OPTIONS = (
    common.DATABASE,
    flags.Option("port", int, 8081, "that the pages are served on; 0 takes a free one"),
    *common.RATERS,
    flags.Option("categories", str, "", "that are judged, by comma; empty: those of the guard"),
    flags.Option("baseline", float, math.nan, "share of unsafe exchanges that drift is told from"),
    flags.Option("days", float, math.inf, "of the past, that rates and rows are of"),
    flags.Option("rates", bool, False, "print the guard's rates on all traffic, and end"),
    flags.Option("rows", str, "", "write judged exchanges as weighted rows of a guard, and end"),
    flags.Option("purge_days", float, math.nan, "delete text older than so many days, and end"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Serves the pages, or does one of what ends at once."""
    options = parsed.options
    if not options["database"]:
        raise ValueError("--database must name a file or server; got '' (review). Name one.")
    purges = not math.isnan(options["purge_days"])
    ends = [n for n, own in (("rates", options["rates"]), ("rows", options["rows"]),
                             ("purge_days", purges)) if own]  # fmt: skip
    if len(ends) > 1:
        raise ValueError(
            f"one of --rates, --rows and --purge_days must be given; got {ends} (review)."
        )
    shapes.check_number("--port", options["port"], minimum=0, maximum=65535)
    if not options["days"] > 0:  # inf is all of the past
        raise ValueError(f"--days must be above 0; got {options['days']} (review).")
    database.check_extra()
    if purges:
        _purge(options)
    elif ends:
        _read(options)
    else:
        _serve(options)


def _serve(options: dict[str, Any]) -> None:
    from alignjax.web import review, serve

    serve.serve(
        options["database"],
        host=options["host"],
        port=options["port"],
        rater=serve.check_name(options["rater"]),
        token_file=options["token_file"],
        settings="",
        log=common.log,
        served=review.served(options["categories"], options["baseline"]),
    )


def _read(options: dict[str, Any]) -> None:
    """Rates, or rows."""
    from alignjax.feedback.store import exchanges, queries
    from alignjax.serving import review

    with database.read_only(options["database"]) as read:
        now = database.Clock(read(queries.latest)).now()
        # Counts are of whole hours.
        since = max(now - options["days"] * DAY, 0.0) // exchanges.HOUR * exchanges.HOUR
        given = read(lambda c: list(exchanges.reviewed(c, since)))
        size = sum(one.size for one in read(exchanges.counts, since) if not one.category)
    if options["rates"]:
        print("\n".join(review.lines(review.summarise(given, size, options["baseline"]))))
        return
    rows = review.guard_rows(given)
    if not rows:
        raise ValueError(
            f"judged exchanges with text must be there; got none ({options['database']})."
        )
    path = pathlib.Path(options["rows"])
    if path.exists():
        raise ValueError(f"--rows must be a new file; got {path}. Name another.")
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"written: {len(rows)} rows to {path}")


def _purge(options: dict[str, Any]) -> None:
    from alignjax.feedback.store import exchanges, queries

    shapes.check_number("--purge_days", options["purge_days"], minimum=0)
    with database.opened(options["database"]) as db:
        now = database.Clock(db.read(queries.latest)).now()
        count = db.write(exchanges.purge, now - options["purge_days"] * DAY)
    print(f"purged: the text of {count} exchanges; their hashes, scores and verdicts stay")

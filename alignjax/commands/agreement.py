"""alignjax agreement: what raters agree on, how often each errs, which model wins."""

import functools
import json
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.feedback import database

OPTIONS = (
    common.DATABASE,
    flags.Option("json", bool, False, "print one JSON object instead of lines"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Prints agreement, raters, win rates and judges beside people, with intervals."""
    database.check_extra()
    from alignjax.evals import verdicts
    from alignjax.feedback import report
    from alignjax.feedback.store import queries

    with database.read_only(parsed.options["database"]) as read:

        @functools.cache
        def item_of(name: str) -> Any:
            return read(queries.item, name)

        judged = read(lambda c: list(queries.judgements(c)))
        raters = read(queries.raters)
        found = report.report(judged, item_of, raters)
        found["judges"] = verdicts.report(judged, item_of, raters)
    if not judged:
        raise ValueError("--database must hold judgements; got none. Run alignjax annotate first.")
    told = [*report.lines(found), *verdicts.lines(found["judges"])]
    print(json.dumps(found) if parsed.options["json"] else "\n".join(told))

"""alignjax judge: a model, an address, a rubric or a rule judges the items of a database."""

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import errors, shapes
from alignjax.feedback import database
from alignjax.rewards import described

OPTIONS = (
    common.DATABASE,
    flags.Option("judge", str, "", "JSON file that describes the judge: docs/feedback.md"),
    flags.Option("count", int, 0, "so many items; 0 is all that it has not judged"),
    flags.Option("items", int, 8, "judged and stored at once"),
    flags.Option(
        "max_unparsed", float, 0.02, "share of verdicts that may be unread; more is exit code 1"
    ),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Judges what the judge has not judged yet, each pair in both orders.

    Raises:
      Failure: too many of all its verdicts could not be read; they are stored as unread.
    """
    options = parsed.options
    shapes.check_number("--count", options["count"], minimum=0)
    shapes.check_number("--items", options["items"], minimum=1)
    shapes.check_number("--max_unparsed", options["max_unparsed"], minimum=0, maximum=1)
    if not options["database"]:
        raise ValueError("--database must name a file or server; got '' (judge). Name one.")
    settings = described.read(options["judge"])
    with database.opened(options["database"]) as db:
        from alignjax.feedback import verdicts
        from alignjax.feedback.store import queries
        from alignjax.feedback.store import verdicts as stored
        from alignjax.runs import described_judge

        with described_judge.opened(settings) as (judge, digest):
            name = f"{settings.name}@{digest[:12]}"
            clock = database.Clock(db.read(queries.latest))
            told = {"judge": settings.as_dict(), "fingerprint": digest}
            rater = db.write(stored.rater, name, told, clock.now())
            new = verdicts.judge_all(
                db, judge, rater, limit=options["count"], size=options["items"], log=common.log
            )
        count = db.read(stored.count, rater)
        left, alone = len(db.read(stored.unjudged, rater)), db.read(stored.alone)
    print(f"judge: {name}, rater-{rater}")
    print(f"judged: {new} items; {left} left, {alone} with one answer")
    print(f"unread: {count.unread} of {count.verdicts} verdicts")
    if count.unread > options["max_unparsed"] * count.verdicts:
        raise errors.Failure(
            f"unread verdicts must be at most {options['max_unparsed']:.1%}; got {count.unread} of "
            f"{count.verdicts} (judge {name}). They are stored as unread: read some answers of the "
            "judge, and change its template or options."
        )

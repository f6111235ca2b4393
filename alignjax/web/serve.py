"""A server of the page on one address, until it is stopped."""

from collections.abc import Callable
from typing import Any, NamedTuple

import uvicorn

from alignjax.core import untrusted
from alignjax.feedback import content, database
from alignjax.feedback import project as projects
from alignjax.feedback.store import items, queries
from alignjax.serving.http import tokens
from alignjax.serving.http.listening import LOOPBACK, ended_by_signals, listening, shown
from alignjax.web import api, app

SCHEME = "http"


class Rater(NamedTuple):
    """A line of a token file."""

    name: str
    token: str
    attributes: dict[str, object]
    consent: bool


def read_tokens(path: str) -> list[Rater]:
    """The raters of a token file: a name, a token and, if wanted, a JSON object a line.

    The object's "consent" says whether its other fields may leave the database; # begins a comment.

    Raises:
      ValueError: no such file, or a line of it is none.
    """
    found: list[Rater] = []
    for where, line in tokens.lines(path):
        words = line.split(maxsplit=2)
        if len(words) < 2 or len(words[1]) < tokens.SHORTEST:
            raise ValueError(
                f"a line must be NAME TOKEN, the token of at least {tokens.SHORTEST} characters; "
                f"got another ({where}). Make one by `openssl rand -hex 16`."
            )
        try:
            attributes = untrusted.parse_json(words[2], where) if len(words) > 2 else {}
        except untrusted.Refused:
            attributes = None
        if not isinstance(attributes, dict):
            raise ValueError(f"what follows a token must be a JSON object; got another ({where}).")
        consent = attributes.pop("consent", False) is True
        if any(own.name == words[0] or own.token == words[1] for own in found):
            raise ValueError(f"names and tokens must differ; got one seen before ({where}).")
        found.append(Rater(words[0], words[1], attributes, consent))
    if not found:
        raise ValueError(f"--token_file must name a rater; got none ({path}).")
    return found


class Served(NamedTuple):
    """What is served of a database. command: its name, in messages. parts: as of `app.make_app`.
    check: refuses a database that it cannot be served from."""

    command: str
    parts: Callable[[api.Service], tuple[list[app.Page], list[Any]]]
    check: Callable[[database.Database, str], None]


def _check_items(db: database.Database, place: str) -> None:
    if db.read(queries.totals)["item"] == 0:
        raise ValueError(f"--database must hold items; got none ({place}). Run collect first.")


ANNOTATE = Served("annotate", app.annotation, _check_items)


def serve(
    place: str,
    *,
    host: str,
    port: int,
    rater: str,
    token_file: str,
    settings: str,
    log: Callable[[str], None],
    served: Served = ANNOTATE,
) -> None:
    """Serves the pages of a database until SIGINT or SIGTERM; `log` takes the address.

    Args:
      rater: the name of who judges without a token, where there is no token file.
      settings: file of a project; "" keeps the database's own.

    Raises:
      ValueError: the database is missing, another's, newer, written to by another process or
        without what is to be judged, the port is in use, or another host has no token file.
    """
    if host not in LOOPBACK and not token_file:
        raise ValueError(
            f"--token_file must be given for a host that others reach; got none for {host!r}."
        )
    named = read_tokens(token_file) if token_file else []
    asked = projects.read(settings)
    with database.opened(place) as db, listening(host, port) as own:
        clock = database.Clock(db.read(queries.latest))
        now = clock.now()
        if settings:
            db.write(items.set_project, asked, now)
        served.check(db, place)
        if clock.moved_back:
            db.write(items.incident, "clock moved back", f"{clock.moved_back:.0f} s", now)
            log(
                f"{served.command}: the clock is {clock.moved_back:.0f} s behind the last judgement"
            )
        alone = _raters(db, named, rater, now)
        service = api.Service(db, db.read(queries.settings), clock, alone)
        log(f"{served.command}: {SCHEME}://{shown(own)}/ ({place}); stop it by Ctrl-C")
        hosts = ("*",) if host not in LOOPBACK else LOOPBACK
        application = app.make_app(service, hosts, served.parts)
        config = uvicorn.Config(application, log_level="warning", access_log=False, lifespan="off")
        running = uvicorn.Server(config)
        with ended_by_signals(running):
            running.run(sockets=[own])
    log(f"{served.command}: stopped; every judgement that was acknowledged is stored")


def _raters(db: database.Database, named: list[Rater], rater: str, now: float) -> int | None:
    """Stores the raters of a token file; without one, the id of who judges alone."""
    for one in named:
        db.write(
            items.add_rater, one.name, now, token=one.token, attributes=one.attributes,
            consent=one.consent,
        )  # fmt: skip
    if not named:
        return db.write(items.rater_named, rater, now)
    db.write(items.revoke, [one.name for one in named])
    return None


def check_name(name: str) -> str:
    """The name of a rater after a check.

    Raises:
      ValueError: it is blank, or no valid text.
    """
    return content.check_text("--rater", name, limit=200)

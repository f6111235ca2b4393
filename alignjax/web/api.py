"""The HTTP interface of annotation: JSON in and out, the same for people and simulated raters.

Every answer to a refused request is {"error": one line}. Models' names never leave.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from alignjax.core import untrusted
from alignjax.feedback import database, project
from alignjax.feedback.content import Refusal
from alignjax.feedback.store import assignments, items, judgements, queries

BODY_BYTES = 1_000_000
COOKIE = "alignjax_token"
UNAVAILABLE = 507  # the database cannot store: a full disk


class Service(NamedTuple):
    """What requests are answered from. alone: the rater of requests without a token, or None."""

    db: database.Database
    project: project.Project
    clock: database.Clock
    alone: int | None = None


def rater_of(service: Service, request: Request) -> int:
    """The rater whose token a request carries.

    Raises:
      Refusal: there is none with it.
    """
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    token = given if kind.lower() == "bearer" else request.cookies.get(COOKIE, "")
    if not token and service.alone is not None:
        return service.alone
    rater = service.db.read(queries.rater_of, token) if token else None
    if rater is None:
        got = "an unknown one" if token else "none"
        raise Refusal(f"a token must be a rater's; got {got}. Ask whoever runs the server.", 401)
    return rater


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
      Refusal: it is none, or too large. A form of another site is none: it cannot say that it is
        JSON without the browser asking first.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refusal("a request must be application/json; got another type.", 415)
    whole = bytearray()
    async for chunk in request.stream():
        whole += chunk
        if len(whole) > BODY_BYTES:
            raise Refusal(f"a request must have at most {BODY_BYTES} bytes; got more.", 413)
    try:
        fields = untrusted.parse_json(bytes(whole), "a request", strict=True)
    except untrusted.Refused:
        raise Refusal("a request must be JSON in UTF-8; got something else.") from None
    if not isinstance(fields, dict):
        raise Refusal("a request must be a JSON object; got something else.")
    return fields


@contextlib.contextmanager
def stored(service: Service) -> Iterator[None]:
    """Faults of the database become refusals: nothing was stored, the request may be sent again."""
    try:
        yield
    except Refusal:
        raise
    except ValueError as error:
        raise Refusal(str(error)) from None
    except Exception as error:  # of a driver: its classes are not known here
        cause = str(getattr(error, "orig", ""))  # what the database itself said
        if not cause:
            raise
        raise Refusal(
            f"the database must store what is sent; got {cause.splitlines()[0]}. Nothing was "
            "stored: send it again.", UNAVAILABLE,
        ) from error  # fmt: skip


Answer = Callable[[Service, int, dict[str, Any]], dict[str, Any]]


def _shown(service: Service, held: assignments.Assignment | None, rater: int) -> dict[str, Any]:
    """An item as its rater may see it: answers in the order of the assignment, without names."""
    now = service.clock.now()
    progress = service.db.read(queries.progress, rater, now)._asdict()
    if held is None:
        return {"assignment": None, "progress": progress}
    item, own = service.db.read(queries.item, held.item), service.project
    asked = own.asked(len(held.shown))
    return {
        "assignment": held.id,
        "item": held.item,
        "language": item.language,
        "turns": [{"role": role, "text": text} for role, text in item.turns],
        "answers": [item.candidates[number].text for number in held.shown],
        "ask": list(asked),
        "also": [kind for kind in own.also if kind not in asked],
        "draft": held.draft,
        "seconds_left": max(held.lease - now, 0.0),
        "progress": progress,
    }


def _next(service: Service, rater: int, sent: dict[str, Any]) -> dict[str, Any]:
    held = service.db.write(assignments.next_for, rater, service.project, service.clock.now())
    return _shown(service, held, rater)


def _progress(service: Service, rater: int, sent: dict[str, Any]) -> dict[str, Any]:
    return service.db.read(queries.progress, rater, service.clock.now())._asdict()


def _heartbeat(service: Service, rater: int, sent: dict[str, Any]) -> dict[str, Any]:
    now = service.clock.now()
    until = service.db.write(
        assignments.heartbeat, sent.get("assignment"), rater, service.project, now,
        sent.get("draft"),
    )  # fmt: skip
    return {"seconds_left": until - now}


def _submit(service: Service, rater: int, sent: dict[str, Any]) -> dict[str, Any]:
    one = judgements.Sent(
        sent.get("key", ""), sent.get("judgements"), sent.get("seconds"), sent.get("draft")
    )
    rows = service.db.write(
        judgements.submit, sent.get("assignment"), rater, one, service.project, service.clock.now()
    )
    return {"stored": rows, "progress": _progress(service, rater, sent)}


def _skip(service: Service, rater: int, sent: dict[str, Any]) -> dict[str, Any]:
    service.db.write(
        assignments.skip, sent.get("assignment"), rater, sent.get("reason", ""),
        service.clock.now(),
    )  # fmt: skip
    return {"progress": _progress(service, rater, sent)}


def _undo(service: Service, rater: int, sent: dict[str, Any]) -> dict[str, Any]:
    held = service.db.write(judgements.undo, rater, service.project, service.clock.now())
    if held is None:
        raise Refusal("there must be an item to go back to; got none.", 404)
    return _shown(service, held, rater)


# A GET must change nothing, or a link on another page could do it: `next` takes a lease.
READS: dict[str, Answer] = {"progress": _progress}
WRITES: dict[str, Answer] = {
    "next": _next, "heartbeat": _heartbeat, "submit": _submit, "skip": _skip, "undo": _undo,
}  # fmt: skip


def _endpoint(service: Service, act: Answer, reads: bool) -> Callable[..., Awaitable[Response]]:
    def answer(request: Request, sent: dict[str, Any]) -> dict[str, Any]:
        with stored(service):
            return act(service, rater_of(service, request), sent)

    async def endpoint(request: Request) -> Response:
        try:
            sent = {} if reads else await body_of(request)
            return JSONResponse(await run_in_threadpool(answer, request, sent))
        except Refusal as refusal:
            if refusal.status >= 500:
                await run_in_threadpool(_note, service, str(refusal))
            return JSONResponse({"error": " ".join(str(refusal).split())}, refusal.status)

    return endpoint


def _note(service: Service, text: str) -> None:
    """An incident, where it can be stored at all."""
    with contextlib.suppress(Exception):
        service.db.write(items.incident, "not stored", text, service.clock.now())


def routes(
    service: Service, reads: Mapping[str, Answer], writes: Mapping[str, Answer]
) -> list[Route]:
    """The routes under /api/."""
    return [
        Route(f"/api/{name}", _endpoint(service, act, own is reads), methods=[method])
        for own, method in ((reads, "GET"), (writes, "POST"))
        for name, act in own.items()
    ]

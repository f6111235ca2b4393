"""The application: the page, its files, the interface behind it, and headers on all of it."""

import pathlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from alignjax.feedback.content import Refusal
from alignjax.feedback.project import KEYS
from alignjax.web import api

FOLDER = pathlib.Path(__file__).parent
# What models wrote is hostile: nothing but this server's own files is loaded or run.
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
DAY = 86_400
Scope = dict[str, Any]
Call = Callable[..., Awaitable[None]]


class Headers:
    """Puts HEADERS on every response."""

    def __init__(self, app: Call) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Call, send: Call) -> None:
        async def send_with_headers(message: Scope) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


class Page(NamedTuple):
    """A page: its path, its template, and what the template is filled with."""

    path: str
    template: str
    context: Callable[[], Mapping[str, Any]]


def annotation(service: api.Service) -> tuple[list[Page], list[Route]]:
    """The page of judgements, and the interface behind it."""

    def context() -> Mapping[str, Any]:
        own = service.project
        return {"project": own, "keys": {name: own.key(name) for name in KEYS}}

    return [Page("/", "annotate.html", context)], api.routes(service, api.READS, api.WRITES)


def make_app(
    service: api.Service,
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
    parts: Callable[[api.Service], tuple[list[Page], list[Route]]] = annotation,
) -> Starlette:
    """The application of a database; it answers to these names alone.

    parts: its pages and routes.
    """
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )

    own_pages, own_routes = parts(service)
    by_path = {page.path: page for page in own_pages}

    async def page(request: Request) -> Response:
        token = request.query_params.get("token", "")
        try:
            given = {**request.scope, "headers": [(b"authorization", f"Bearer {token}".encode())]}
            await run_in_threadpool(api.rater_of, service, Request(given) if token else request)
        except Refusal as refusal:
            asked = "" if not token and refusal.status == 401 else str(refusal)
            login = pages.get_template("login.html").render(error=asked)
            return HTMLResponse(login, refusal.status)
        if token:
            return _with_cookie(request, token)
        asked_for = by_path[request.url.path]
        context = await run_in_threadpool(asked_for.context)
        return HTMLResponse(pages.get_template(asked_for.template).render(**context))

    return Starlette(
        routes=[
            *(Route(path, page) for path in by_path),
            Route("/favicon.ico", lambda request: Response(status_code=204)),
            *own_routes,
            Mount("/static", StaticFiles(directory=FOLDER / "static")),
        ],
        middleware=[
            Middleware(Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)),
        ],
    )


def _with_cookie(request: Request, token: str) -> Response:
    """Back to the page, the token out of its address."""
    response = RedirectResponse(request.url.path, 303)
    response.set_cookie(
        api.COOKIE, token, max_age=30 * DAY, httponly=True, samesite="lax",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return response

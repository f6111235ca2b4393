"""The application: OpenAI's routes, health and metrics, with limits and tokens on all of it."""

import asyncio
import contextlib
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from alignjax.core import untrusted
from alignjax.serving import engine as engines
from alignjax.serving import moderation, requests
from alignjax.serving.http import errors, fields, metrics, tokenizing
from alignjax.serving.http.answers import Answer
from alignjax.serving.http.replies import Replies

BODY_BYTES = 8_000_000
SCHEME = "http"
OPEN_PATHS = ("/health",)  # answered without a token
CODE_OF_PATHS = "unknown_url"  # of an error about the path or the method, as OpenAI words it
CLOSED = 499  # a client that left: nobody reads the answer
Scope = MutableMapping[str, Any]
Call = Callable[..., Awaitable[None]]


class Service:
    """What requests are answered from."""

    def __init__(
        self, engine: engines.Engine, moderator: moderation.Moderation | None = None
    ) -> None:
        self.engine, self.metrics = engine, metrics.Metrics(engine)
        self.moderation = moderator or moderation.Moderation()
        self.moderation.validate()
        self.created = int(time.time())
        self._laying_out = threading.Lock()  # a template's process answers one at a time

    def understood(self, read: Callable[..., fields.Asked], sent: dict[str, Any]) -> fields.Asked:
        """A request for an answer of the model.

        Raises:
          Refusal: it is not allowed, or names no model.
        """
        if isinstance(sent.get("model"), str):
            self.engine.number_of(sent["model"])
        with self._laying_out:
            return read(sent, self.engine.served.speaker, self.engine.limits)


class Guarded:
    """Lets in who has a token, where there are any; counts every answer."""

    def __init__(self, app: Call, service: Service, tokens: frozenset[str]) -> None:
        self.app, self._service, self._tokens = app, service, tokens

    async def __call__(self, scope: Scope, receive: Call, send: Call) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Scope) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in PATHS else "other"
                self._service.metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        if self._tokens and scope["path"] not in OPEN_PATHS and not self._is_known(scope):
            text = "a token must be one of the server's (Authorization: Bearer TOKEN); got none."
            refused: Call = JSONResponse(errors.body(text, 401), 401)
            await refused(scope, receive, counted)
            return
        await self.app(scope, receive, counted)

    def _is_known(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        known = [hmac.compare_digest(given, own.encode()) for own in self._tokens]
        return kind.lower() == b"bearer" and any(known)


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
      Refused: it is none, or too large. A form of another site is none: it cannot say that it is
        JSON without the browser asking first.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise errors.Refused("a request must be application/json; got another type.", 415)
    whole = bytearray()
    async for chunk in request.stream():
        whole += chunk
        if len(whole) > BODY_BYTES:
            raise errors.Refused(f"a request must have at most {BODY_BYTES} bytes; got more.", 413)
    try:
        sent = untrusted.parse_json(bytes(whole), "a request", strict=True)
    except untrusted.Refused as error:
        raise errors.Refused(str(error)) from None
    if not isinstance(sent, dict):
        raise errors.Refused("a request must be a JSON object; got something else.")
    return sent


def _answering(service: Service, read: Callable[..., fields.Asked]) -> Callable[..., Any]:
    """The endpoint of requests that `read` understands."""

    async def endpoint(request: Request) -> Response:
        sent = await body_of(request)
        asked = await run_in_threadpool(service.understood, read, sent)
        answer = Answer(service.engine, asked, service.moderation, service.metrics)
        await answer.begin()
        service.metrics.prompt_tokens.inc(sum(len(own.prompt) for own in asked.requests))
        replies = Replies(answer, service.engine.served.speaker)
        if asked.stream:
            return StreamingResponse(
                _events(service, answer, replies), media_type="text/event-stream",
                headers={"cache-control": "no-store"},
            )  # fmt: skip
        return await _whole(service, request, answer, replies)

    return endpoint


async def _whole(service: Service, request: Request, answer: Answer, replies: Replies) -> Response:
    """The answer in full; a client that leaves ends it."""
    work = asyncio.ensure_future(answer.whole())
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            service.metrics.gone.inc()
            return Response(status_code=CLOSED)
        return JSONResponse(replies.whole(work.result()))
    finally:
        service.metrics.answer_tokens.inc(answer.drawn)
        for task in (work, leaving):
            task.cancel()
        answer.close()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(service: Service, answer: Answer, replies: Replies) -> AsyncIterator[bytes]:
    """A stream of server-sent events."""
    done = False
    try:
        for own in replies.first():
            yield _event(own)
        begun: set[int] = set()
        try:
            async with contextlib.aclosing(answer.parts()) as parts:
                async for part in parts:
                    chunk = replies.part(part, begins=part.choice not in begun)
                    begun.add(part.choice)
                    if chunk is not None:
                        yield _event(chunk)
        except requests.Refusal as refusal:
            done = True
            yield _event(errors.body(str(refusal), errors.status_of(refusal)))
            return
        for own in replies.last():
            yield _event(own)
        done = True
        yield b"data: [DONE]\n\n"
    finally:
        answer.close()
        service.metrics.answer_tokens.inc(answer.drawn)
        if not done:
            service.metrics.gone.inc()


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def _models(service: Service) -> Callable[..., Any]:
    def one(name: str) -> dict[str, Any]:
        own = {"id": name, "object": "model", "created": service.created, "owned_by": "alignjax"}
        base = service.engine.served.name
        return own if name == base else {**own, "parent": base}

    async def models(request: Request) -> Response:
        name = request.path_params.get("name")
        if name is not None:
            service.engine.number_of(name)
            return JSONResponse(one(name))
        return JSONResponse({"object": "list", "data": [one(n) for n in service.engine.names]})

    return models


def _adapters(service: Service) -> Callable[..., Any]:
    async def adapters(request: Request) -> Response:
        sent = await body_of(request)
        if sent.keys() != {"name", "path"} or not all(isinstance(v, str) for v in sent.values()):
            raise errors.Refused("a request must have name and path, both texts; got another.")
        await run_in_threadpool(service.engine.add_adapter, sent["name"], sent["path"])
        own = {"id": sent["name"], "object": "model", "parent": service.engine.served.name}
        return JSONResponse(own, 201)

    return adapters


def _health(service: Service) -> Callable[..., Any]:
    async def health(request: Request) -> Response:
        is_well = service.engine.is_alive
        load = service.engine.load()._asdict()
        status = "ok" if is_well else "stopped"
        return JSONResponse({"status": status, **load}, 200 if is_well else 503)

    return health


PATHS = (
    "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/adapters", "/health", "/metrics",
    *tokenizing.PATHS,
)  # fmt: skip


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, requests.Refusal)
    status = errors.status_of(refusal)
    headers = {"retry-after": str(errors.RETRY_SECONDS)} if status == 429 else None
    body = errors.body(str(refusal), status, getattr(refusal, "param", None))
    return JSONResponse(body, status, headers)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail}. There are {', '.join(PATHS)}."
    body = errors.body(text, error.status_code, code=CODE_OF_PATHS)
    return JSONResponse(body, error.status_code)


def make_app(
    service: Service,
    *,
    tokens: frozenset[str] = frozenset(),
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
) -> Starlette:
    """The application of an engine; it answers to these names of hosts alone.

    tokens: what requests must carry one of; none lets all in.
    """

    async def numbers(request: Request) -> Response:
        return Response(service.metrics.text(), media_type=metrics.TYPE)

    chat, completions = fields.of_chat, fields.of_completions
    return Starlette(
        routes=[
            Route("/v1/models", _models(service)),
            Route("/v1/models/{name:path}", _models(service)),
            Route("/v1/chat/completions", _answering(service, chat), methods=["POST"]),
            Route("/v1/completions", _answering(service, completions), methods=["POST"]),
            Route("/v1/adapters", _adapters(service), methods=["POST"]),
            Route("/health", _health(service)),
            Route("/metrics", numbers),
            *tokenizing.routes(service.engine, body_of),
        ],
        middleware=[
            Middleware(Guarded, service=service, tokens=tokens),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)),
        ],
        exception_handlers={requests.Refusal: _refused, HTTPException: _http},
    )

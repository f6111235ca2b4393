"""A server of an engine on one address, until it is stopped."""

from collections.abc import Callable

import uvicorn

from alignjax.serving import engine as engines
from alignjax.serving import moderation
from alignjax.serving.http import app
from alignjax.serving.http import tokens as token_files
from alignjax.serving.http.listening import LOOPBACK, ended_by_signals, listening, shown

CONNECTIONS = 512  # at once; others are answered 503


def read_tokens(path: str) -> frozenset[str]:
    """The tokens of a file: a name and a token a line; # begins a comment.

    Raises:
      ValueError: no such file, or a line of it is none.
    """
    rows = [(where, line.split()) for where, line in token_files.lines(path)]
    for where, words in rows:
        if len(words) != 2 or len(words[1]) < token_files.SHORTEST or not words[1].isascii():
            raise ValueError(
                f"a line must be NAME TOKEN, the token of at least {token_files.SHORTEST} ASCII "
                f"characters; got another ({where}). Make one by `openssl rand -hex 16`."
            )
    if not rows:
        raise ValueError(f"--token_file must have a token; got none ({path}).")
    return frozenset(words[1] for _, words in rows)


def check_address(host: str, port: int, token_file: str) -> frozenset[str]:
    """The tokens that requests must have one of; none on this machine's own address.

    Raises:
      ValueError: the port is none, or others reach the host and there is no token file.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"--port must be from 0 to 65535; got {port} (serve).")
    if host not in LOOPBACK and not token_file:
        raise ValueError(
            f"--token_file must be given for a host that others reach; got none for {host!r}."
        )
    return read_tokens(token_file) if token_file else frozenset()


def serve(
    open_engine: Callable[[], engines.Engine],
    *,
    host: str,
    port: int,
    tokens: frozenset[str],
    moderator: moderation.Moderation,
    log: Callable[[str], None],
) -> None:
    """Serves an engine until SIGINT or SIGTERM; `log` takes the address once it answers.

    Raises:
      ValueError: the port is in use, or the address is not this machine's.
    """
    with listening(host, port) as own:
        engine = open_engine()
        try:
            hosts = ("*",) if host not in LOOPBACK else LOOPBACK
            service = app.Service(engine, moderator)
            config = uvicorn.Config(
                app.make_app(service, tokens=tokens, hosts=hosts), log_level="warning",
                access_log=False, lifespan="off", limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=5,
            )  # fmt: skip
            running = uvicorn.Server(config)
            log(f"serve: {', '.join(engine.names)} on {app.SCHEME}://{shown(own)}/v1; Ctrl-C ends")
            with ended_by_signals(running):
                running.run(sockets=[own])
        finally:
            engine.close()
    log("serve: stopped")

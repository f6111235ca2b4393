"""A socket that a server listens on, and how signals end the server."""

import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn

LOOPBACK = ("127.0.0.1", "localhost")


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; port 0 takes a free one.

    Raises:
      ValueError: the port is in use, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        own = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, OverflowError) as error:
        raise ValueError(f"--host must be an address; got {host!r} ({error}).") from None
    try:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind((host, port))
        own.listen(128)
    except OSError as error:
        own.close()
        raise ValueError(
            f"--port must be free; got {port} on {host} ({error.strerror}). Name another."
        ) from None
    try:
        yield own
    finally:
        own.close()


@contextlib.contextmanager
def ended_by_signals(running: uvicorn.Server) -> Iterator[None]:
    """SIGINT and SIGTERM end the server after the requests that it is at: its ordinary end.

    uvicorn has handlers of its own while it serves, and calls these again after them.
    """

    def stop(number: int, frame: object) -> None:
        running.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shown(own: socket.socket) -> str:
    """HOST:PORT of a socket that listens, as it stands in an address."""
    host, port = own.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

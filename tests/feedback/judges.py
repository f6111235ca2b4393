"""Judges for tests: files that describe them, and a server that answers as a function says."""

import contextlib
import http.server
import json
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tests.commands.test_run import call

RULE = '''\
import math


def longest(texts, tasks):
    return [len(text) / 4 for text in texts]


def letters(texts, tasks):
    """Answer a beats b beats c, ... on even questions; the other way on odd ones."""
    assert all(task["prompt"].startswith("question ") for task in tasks)
    signs = [1 if int(task["prompt"].split()[1]) % 2 else -1 for task in tasks]
    return [sign * ord(text.split()[1]) for sign, text in zip(signs, texts)]


def unsure(texts, tasks):
    return [math.nan if int(task["prompt"].split()[1]) < 3 else 1.0 for task in tasks]
'''


def described(folder: pathlib.Path, **fields: Any) -> str:
    """The path of a file with these settings."""
    path = folder / f"{fields.get('name', 'judge')}.json"
    path.write_text(json.dumps(fields))
    return str(path)


def rule(folder: pathlib.Path, function: str = "letters", **fields: Any) -> str:
    """A judge by a function of RULE."""
    (folder / "own.py").write_text(RULE)
    return described(folder, kind="rule", path=f"{folder}/own.py:{function}", **fields)


def completion(text: str, **chances: float) -> dict[str, Any]:
    """A chat completion: a text, and log-probabilities of first tokens."""
    choice: dict[str, Any] = {"message": {"content": text}}
    if chances:
        listed = [{"token": token, "logprob": value} for token, value in chances.items()]
        choice["logprobs"] = {"content": [{"top_logprobs": listed}]}
    return {"choices": [choice]}


@contextlib.contextmanager
def server(answer: Callable[[str], Any]) -> Iterator[tuple[str, list[tuple[dict, dict]]]]:
    """(address, the (headers, body) that came). answer: text asked -> a body, or a status."""
    seen: list[tuple[dict, dict]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((dict(self.headers), body))
            said = answer(body["messages"][0]["content"])
            self.send_response(said if isinstance(said, int) else 200)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as own:
        own.daemon_threads = True
        thread = threading.Thread(target=own.serve_forever)
        thread.start()
        yield "http:" + f"//127.0.0.1:{own.server_port}/v1", seen
        own.shutdown()
        thread.join()


def run(capsys, place, path, *options):
    return call(capsys, "judge", f"--database={place}", f"--judge={path}", *options)

"""The process that runs a Jinja template, seen from here: started, asked, ended on time."""

import datetime
import json
import os
import pathlib
import selectors
import subprocess
import sys
import time
import typing
import weakref

from alignjax.core import untrusted


class Renderer:
    """The process that renders one template; started when needed, ended when it oversteps."""

    def __init__(
        self,
        source: str,
        *,
        date: datetime.date | None,
        marks: tuple[str, str],
        limit: int,
        seconds: float,
    ):
        self.start: dict[str, typing.Any] = {
            "source": source,
            "date": date.isoformat() if date else None,
            "limit": limit,
            "marks": marks,
            "seconds": seconds,
        }
        self.seconds = seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0
        self._started = False

    def render(self, variables: dict[str, typing.Any]) -> str:
        """Returns the output; ValueError when the template fails or exceeds a limit."""
        deadline = time.monotonic() + self.seconds
        line = self._ask(self._running(), {"variables": variables}, deadline)
        if line is None:
            self._end()
            raise failure(f"no answer within {self.seconds:g} seconds, or a broken one")
        try:
            answer = untrusted.parse_json(line, "a rendering")
        except untrusted.Refused:
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("text", ""), str):
            self._end()
            raise failure("an answer of another form")
        if "text" not in answer:
            raise failure(str(answer.get("error", "no reason"))[:200])
        return answer["text"]

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None or self.owner != os.getpid():
            worker = pathlib.Path(__file__).with_name("jinja_worker.py")
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={},
            )
            self.owner = os.getpid()
            weakref.finalize(self, _end, self.process, self.owner)
            if self.process.stdin is not None:
                os.set_blocking(self.process.stdin.fileno(), False)
            self._started = False
        return self.process

    def _ask(self, process, request, deadline: float) -> bytes | None:
        """Returns the answering line; None where the process ended, hung or wrote too much.

        The deadline covers the question too: a process that is still at its template's source
        reads nothing, and its pipe is soon full.
        """
        questions = [request] if self._started else [self.start, request]
        self._started = True
        text = b"".join(json.dumps(question).encode() + b"\n" for question in questions)
        if not self._write(process, text, deadline):
            return None
        line = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                line += chunk
                if not chunk or len(line) > 12 * self.start["limit"] + 1000:
                    return None
        return bytes(line)

    def _write(self, process, text: bytes, deadline: float) -> bool:
        """Whether all of it was taken in time."""
        rest = memoryview(text)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdin, selectors.EVENT_WRITE)
            while rest:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return False
                try:
                    rest = rest[os.write(process.stdin.fileno(), rest[: 1 << 16]) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    return False
        return True

    def _end(self) -> None:
        if self.process is not None:
            _end(self.process, self.owner)
            self.process = None


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if owner == os.getpid():
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def failure(what: str) -> ValueError:
    """The error of a template that did not render."""
    return ValueError(
        f"a Jinja template must render the conversation; got {what} (jinja_template). Check the "
        "roles of the turns, or use a template of template_families."
    )

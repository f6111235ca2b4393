"""A server as a process of its own, and a real browser."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import uvicorn

from alignjax.feedback import content, database, project
from alignjax.feedback.store import items, queries
from alignjax.web import api, app
from alignjax.web import serve as serving
from tests.commands import cli
from tests.feedback.conftest import item

CHROMIUM = "/usr/bin/chromium"
REQUIRED = os.environ.get("ALIGNJAX_REQUIRE_BROWSER") == "1"


class Server(NamedTuple):
    """A running server: `alignjax annotate`, or the same application in a thread."""

    process: subprocess.Popen | None
    address: str
    place: str
    lines: list[str]

    def call(self, name: str, sent: Any = None, token: str = "", **headers: str) -> tuple[int, Any]:
        """(status, JSON) of a request; without `sent` a GET."""
        body = None if sent is None else json.dumps(sent).encode()
        own = {"content-type": "application/json", **headers}
        own |= {"authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"{self.address}api/{name}", body, own)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=30)


def start(place: str, *options: str) -> Server:
    """The server of a database on a free port, once it says its address."""
    process = cli.start("annotate", f"--database={place}", "--port=0", *options)
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        found = re.search(r"http://\S+/", line)
        if found:
            threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True).start()
            return Server(process, found[0], place, lines)
    raise AssertionError(f"no address: exit {process.wait()}, {''.join(lines)}")


@contextlib.contextmanager
def inside(place: str, tokens: str = "") -> Iterator[Server]:
    """The application of a database in a thread, which costs a test no process."""
    with database.opened(place) as db, serving.listening("127.0.0.1", 0) as own:
        named = serving.read_tokens(tokens) if tokens else []
        for one in named:
            db.write(items.add_rater, one.name, 1.0, token=one.token)
        alone = None if named else db.write(items.rater_named, "me", 1.0)
        clock = database.Clock(db.read(queries.latest))
        service = api.Service(db, db.read(queries.settings), clock, alone)
        running = uvicorn.Server(
            uvicorn.Config(app.make_app(service), log_level="warning", lifespan="off")
        )
        thread = threading.Thread(target=running.run, kwargs={"sockets": [own]})
        thread.start()
        yield Server(None, f"http://127.0.0.1:{own.getsockname()[1]}/", place, [])
        running.should_exit = running.force_exit = True
        thread.join()


def fill(place: str, given: list[content.Item], own: project.Project) -> None:
    """A new database with items."""
    with database.opened(place, new=True) as db:
        db.write(items.set_project, own, 1.0)
        db.write(items.add_items, given, own, 1.0)


@pytest.fixture
def place(tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "feedback.db")


@pytest.fixture
def serve(tmp_path: pathlib.Path) -> Iterator[Any]:
    """(items, project, *options, process=False) -> Server; all of them end with the test.

    As a process of its own it takes the options of the command, else --token_file alone.
    """
    with contextlib.ExitStack() as running:

        def run(
            given: list[content.Item] | int,
            own: project.Project,
            *options: str,
            process: bool = False,
        ) -> Server:
            place = str(tmp_path / "feedback.db")
            fill(place, [item(i) for i in range(given)] if isinstance(given, int) else given, own)
            if not process:
                tokens = options[0].removeprefix("--token_file=") if options else ""
                return running.enter_context(inside(place, tokens))
            server = start(place, *options)
            running.callback(server.process.wait)
            running.callback(server.process.kill)
            return server

        yield run


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium; the tests are skipped where there is none, unless it is required."""
    try:
        from playwright import sync_api

        if not pathlib.Path(CHROMIUM).exists():
            raise ImportError(f"no {CHROMIUM}")
    except ImportError as error:
        if REQUIRED:
            raise
        pytest.skip(f"no browser: {error}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Any]:
    """(address, **context options) -> a page in a context of its own that complains of errors."""
    contexts, faults = [], []

    def run(address: str, **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#item:not([hidden]), #finished:not([hidden])")
        return page

    yield run
    for context in contexts:
        context.close()
    assert not faults

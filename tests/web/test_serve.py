"""`alignjax annotate` as a process: addresses, tokens, kill -9, and refusals in one line."""

import os
import random
import signal
import socket
import stat
import threading
import time

import pytest

from alignjax.feedback import database, harvest, project
from alignjax.feedback.store import items
from alignjax.web import serve as server
from tests.commands import cli
from tests.feedback.conftest import ALONE, item, rows
from tests.web import conftest

TOKENS = [f"rater-{i} token-of-rater-number-{i}" for i in range(8)]


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("# raters\n" + "\n".join(TOKENS) + "\n")
    return str(file)


def token(number):
    return TOKENS[number].split()[1]


def refused(*options):
    """The one line of a command that ends with exit code 2."""
    process = cli.start("annotate", *options)
    try:
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 2, error
    assert error.count("\n") == 1, error
    return error


def test_it_serves_until_it_is_stopped(serve):
    own = serve(3, ALONE, process=True)
    assert own.address.startswith("http://127.0.0.1:")
    status, held = own.call("next", {})
    assert status == 200
    choice = [{"kind": "choice", "payload": {"choice": "first"}}]
    sent = {"assignment": held["assignment"], "key": "k", "judgements": choice}
    status, answer = own.call("submit", sent)
    assert status == 200
    assert rows(own.place, "select id from judgement") == [(answer["stored"][0]["id"],)]
    second = refused(f"--database={own.place}", "--port=0")
    assert "--database must have one writer; got another alignjax process" in second
    port = own.address.split(":")[2].strip("/")
    conftest.fill(f"{own.place}.other", [item(1)], ALONE)
    taken = refused(f"--database={own.place}.other", f"--port={port}")
    assert f"--port must be free; got {port} on 127.0.0.1" in taken
    with database.read_only(own.place) as read:  # while the server is running
        assert harvest.harvest(read, harvest.pathlib.Path(f"{own.place}.out")).raw == 1
    assert own.stop() == 0
    with database.opened(own.place):
        pass


def _rater(own, number, acknowledged, stop):
    """Judges until the server is gone; what was acknowledged is noted before the next request."""
    while not stop.is_set():
        try:
            _, held = own.call("next", {}, token(number))
            if not held.get("assignment"):
                return
            sent = {"assignment": held["assignment"], "key": f"{number}-{held['assignment']}",
                    "judgements": [{"kind": "choice", "payload": {"choice": "tie"}}]}  # fmt: skip
            status, answer = own.call("submit", sent, token(number))
            if status == 200:
                acknowledged.append((answer["stored"][0]["id"], held["assignment"]))
        except OSError:
            return


def _killed(place, token_file, seconds):
    """(id, assignment) of what a server acknowledged to 8 raters before it was killed."""
    own = conftest.start(place, f"--token_file={token_file}")
    acknowledged, stop = [], threading.Event()
    threads = [threading.Thread(target=_rater, args=(own, n, acknowledged, stop)) for n in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    os.kill(own.process.pid, signal.SIGKILL)
    stop.set()
    for thread in threads:
        thread.join()
    own.process.wait()
    return acknowledged


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_what_was_acknowledged_survives_kill_9(tmp_path, token_file, times):
    place = str(tmp_path / "f.db")
    conftest.fill(place, [item(i) for i in range(6000)], ALONE)
    moments, acknowledged = random.Random(5), []
    for _ in range(times):
        acknowledged += _killed(place, token_file, moments.uniform(0.1, 1.0))
    assert acknowledged  # how many depends on how busy the machine is
    there = set(rows(place, "select id, assignment from judgement"))
    assert set(acknowledged) <= there
    assert len({one for one, _ in acknowledged}) == len(acknowledged)
    assert rows(place, "pragma integrity_check") == [("ok",)]
    assert rows(place, "select count(*) from assignment group by item having count(*) > 1") == []
    done = "select count(*) from assignment where state = 'done'"
    assert rows(place, done) == rows(place, "select count(distinct assignment) from judgement")


def test_tokens_of_a_file_and_of_nobody_else(serve, tmp_path, token_file):
    own = serve(3, ALONE, f"--token_file={token_file}", process=True)
    assert own.call("progress", None, token(3))[0] == 200
    status, answer = own.call("progress", None, "no-such-token-here")
    assert (status, "unknown" in answer["error"]) == (401, True)
    assert own.call("progress", None)[0] == 401
    assert own.stop() == 0
    fewer = tmp_path / "fewer"
    fewer.write_text(TOKENS[0])
    again = conftest.start(own.place, f"--token_file={fewer}")
    try:
        assert again.call("progress", None, token(0))[0] == 200
        assert again.call("progress", None, token(3))[0] == 401
    finally:
        again.process.kill()


def test_wrong_commands_are_refused_before_anything_is_served(tmp_path):
    place, empty = str(tmp_path / "f.db"), str(tmp_path / "empty.db")
    conftest.fill(place, [item(1)], ALONE)
    conftest.fill(empty, [], ALONE)
    text = tmp_path / "text.db"
    text.write_text("no database\n" * 100)
    here = {"host": "127.0.0.1", "port": 0, "rater": "me", "token_file": "", "settings": ""}
    for database_, options, says in (
        (place, {"host": "0.0.0.0"}, "--token_file must be given for a host that"),
        (place, {"token_file": "nowhere"}, "--token_file must be a file of tokens"),
        (place, {"settings": "nowhere"}, "--project must be a file of JSON"),
        (empty, {}, "--database must hold items; got none"),
        (f"{tmp_path}/none.db", {}, "--database must be there"),
        (str(text), {}, "file is not a database"),
        ("", {}, "--database must be there; got ''"),
    ):
        with pytest.raises(ValueError, match=says) as caught:
            server.serve(database_, **{**here, **options}, log=lambda line: None)
        assert "\n" not in str(caught.value)
    assert rows(place, "select count(*) from rater") == [(0,)]
    assert "--port must be from 0 to 65535" in refused(f"--database={place}", "--port=70000")


@pytest.mark.parametrize(("text", "says"), [
    ("", "must name a rater"), ("asha short", "at least 16 characters"), ("asha", "NAME TOKEN"),
    ("asha token-of-rater-one\nasha token-of-rater-two", "must differ"),
    ("asha token-of-rater-one\nbo token-of-rater-one", "must differ"),
    ("asha token-of-rater-one [1]", "must be a JSON object"),
])  # fmt: skip
def test_token_files_that_cannot_be_used(tmp_path, text, says):
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        server.read_tokens(str(file))
    assert "token-of" not in str(caught.value)


def test_attributes_stand_behind_a_token(tmp_path):
    file = tmp_path / "tokens"
    file.write_text('asha token-of-rater-one {"group": "north", "consent": true}\n\n'
                    'bo token-of-rater-two {"group": "south", "consent": "yes"}')  # fmt: skip
    one, two = server.read_tokens(str(file))
    assert (one.attributes, one.consent) == ({"group": "north"}, True)
    assert two.consent is False


def test_a_clock_that_was_set_back_is_noted(tmp_path):
    place = str(tmp_path / "f.db")
    with database.opened(place, new=True) as db:
        db.write(items.set_project, ALONE, 1.0)
        db.write(items.add_items, [item(1)], ALONE, time.time() + 7200)
    own = conftest.start(place)
    try:
        assert "clock is 7" in own.lines[0]
        status, held = own.call("next", {})
        assert status == 200
        assert 1795 < held["seconds_left"] <= 1800
    finally:
        own.process.kill()
    ((kind, created),) = rows(place, "select kind, created from incident")
    assert kind == "clock moved back"
    assert created >= time.time() + 7000


def test_a_free_port_is_told_and_an_address_that_is_not_here_is_refused():
    with server.listening("127.0.0.1", 0) as own:
        assert own.getsockname()[1] > 0
        port = own.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port must be free; got {port}"), \
                server.listening("127.0.0.1", port):  # fmt: skip
            pass
    with pytest.raises(ValueError, match="--host must be an address"), \
            server.listening("no.such.host.invalid", 0):  # fmt: skip
        pass
    assert stat.S_ISSOCK(stat.S_IFSOCK)
    assert isinstance(own, socket.socket)
    assert project.Project().lease_minutes == 30

"""The command: bad input in one line, and a server that is killed, asked and stopped for real."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import openai
import pytest

from alignjax.commands import serve
from alignjax.feedback import database
from alignjax.feedback.store import exchanges
from alignjax.serving import described_guards, thresholds
from alignjax.serving.http import run
from tests.commands import cli
from tests.serving import conftest as tools

DEFAULTS = {option.name: option.default for option in serve.OPTIONS} | {"port": 0}


def refused(**options):
    with pytest.raises(ValueError) as caught:
        serve.main(serve.flags.Parsed({**DEFAULTS, **options}, None, "", "", {}, None))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--model must be a model folder"),
        ({"model": "nowhere"}, "nowhere"),
        ({"slots": 0}, "--slots must be"),
        ({"context": 8}, "--context must be"),
        ({"queue": 0}, "--queue must be"),
        ({"request_seconds": -1.0}, "--request_seconds must be"),
        ({"port": 70000}, "--port must be from 0 to 65535; got 70000"),
        ({"host": "0.0.0.0"}, "--token_file must be given for a host that others reach"),
        ({"token_file": "nowhere"}, "--token_file must be a file of tokens"),
        ({"adapters": "a"}, "--adapters must be entries NAME=FOLDER"),
        ({"adapters": "a=nowhere"}, "an adapter's folder must hold adapter_config.json"),
        ({"adapters": "model={place}/wide"}, "name must be new; got 'model'"),
        ({"adapters": "a={place}/dora"}, "LoRA without DoRA"),
        ({"adapters": "a={place}/wide", "adapter_rank": 2}, "rank must be at most 2; got 5"),
        ({"adapter_slots": 1, "adapter_targets": "nose"}, "nose"),
        ({"guard": "nowhere.json", "thresholds": "x.json"}, "thresholds"),
        ({"guard": "a,b", "thresholds": "x.json"}, "got 2 guards and 1 files"),
        ({"database": "seen.db"}, "--guard must name a guard for --database"),
        ({"guard_window": 0}, "--guard_window must be"),
        ({"on_guard_error": "ignore"}, "--on_guard_error must be one of block, allow"),
    ],
)
def test_bad_options_are_one_line(place, options, message):
    filled = {
        name: value.format(place=place) if isinstance(value, str) else value
        for name, value in options.items()
    }
    if options and "model" not in options:
        filled = {"model": str(place / "model"), "template": "chatml", **filled}
    assert message in refused(**filled)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--token_file must have a token; got none"),
        ("ann", "a line must be NAME TOKEN"),
        ("ann short", "of at least 16 ASCII characters; got another .*line 1"),
        ("# note\nann 0123456789abcdef x", "a line must be NAME TOKEN.*line 2"),
    ],
)
def test_token_files_that_are_none(tmp_path, text, message):
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        run.read_tokens(str(file))
    file.write_text("# who\nann 0123456789abcdef\n\nbob fedcba9876543210\n")
    assert run.read_tokens(str(file)) == {"0123456789abcdef", "fedcba9876543210"}


def test_what_the_guard_says_of_traffic_is_kept_for_review(running, tmp_path, monkeypatch):
    """Of requests over HTTP: a prompt each, and the end of each answer that went out."""
    lines = []
    monkeypatch.setattr(serve.common, "log", lines.append)
    described = tmp_path / "guard.json"
    described.write_text(
        json.dumps({"kind": "rule", "categories": {"secrets": {"words": ["hidden"]}}})
    )
    with described_guards.opened(described_guards.read(str(described))) as detector:
        one = thresholds.Threshold(0.5, 100, 96, 0.05)
        limits = thresholds.Thresholds(detector.fingerprint, {"*": {"secrets": one}})
    thresholds.write(tmp_path / "limits.json", limits)
    options = {
        **DEFAULTS, "guard": str(described), "thresholds": str(tmp_path / "limits.json"),
        "database": str(tmp_path / "seen.db"),
    }  # fmt: skip
    with serve.guarded(options) as moderator, tools.serving(running, moderator) as own:
        client = openai.OpenAI(base_url=f"{own.address}/v1", api_key="x", max_retries=0)
        for text in ("what is the answer", "show the hidden one"):
            asked = [{"role": "user", "content": text}]
            for stream in (False, True):
                found = client.chat.completions.create(
                    model="model", messages=asked, max_tokens=8, temperature=0, stream=stream
                )
                if stream:
                    list(found)
        client.close()
    blocked = [line for line in lines if line.startswith("guard: blocked")]
    assert blocked == ["guard: blocked before of model: secrets 1.000"] * 2
    assert "hidden" not in " ".join(lines)
    with database.read_only(str(tmp_path / "seen.db")) as read:
        kept = read(exchanges.counts)
    assert sum(own.size for own in kept if not own.category) == 6  # 4 prompts, 2 answers
    assert sum(own.size for own in kept if own.category == "secrets") == 2


def test_a_port_in_use_is_refused_before_the_model_is_read(server, place):
    port = int(server.address.rsplit(":", 1)[1])
    assert f"--port must be free; got {port}" in refused(model=str(place / "model"), port=port)


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped(place):
    """A client that is killed while it streams frees its slot; SIGTERM ends the server cleanly."""
    process = cli.start(
        "serve", str(place / "model"), "--template=chatml", "--port=0", "--context=1024"
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"(http://\S+)/v1", line):
            break
    address = found[1]

    def health():
        with urllib.request.urlopen(f"{address}/health") as answer:
            return json.loads(answer.read())

    code = (
        "import json, sys, urllib.request\n"
        "body = json.dumps({'model': 'model', 'prompt': 'a', 'max_tokens': 1000, 'stream': True,"
        " 'temperature': 0, 'n': 4}).encode()\n"
        f"request = urllib.request.Request('{address}/v1/completions', body, "
        "{'content-type': 'application/json'})\n"
        "for line in urllib.request.urlopen(request): print(line, flush=True)\n"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert client.stdout.readline()
    assert health()["busy"] == 4
    client.kill()
    client.wait()
    assert tools.wait_for(lambda: health()["busy"] == 0, 5)
    assert health()["tokens"] < 3000  # of 4000: it did not run to its end
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert "serve: stopped" in process.stderr.read()

"""Adapters by name on one base: each as it is alone, and more of them while others answer."""

import threading

import numpy as np
import pytest

from alignjax.serving import adapters, served
from alignjax.serving.requests import ERROR, Options, Refusal, Request
from tests.serving import conftest as tools
from tests.serving.test_engine import PROMPTS, reference, told


def test_an_adapter_is_loaded_while_others_answer(server, running, place):
    """Requests that run meanwhile draw what they draw alone, and nothing is compiled for it."""
    options = Options(max_tokens=40, temperature=0.0)
    busy = [Request(prompt=PROMPTS[n], model=m, options=options) for n, m in ((0, "wide"), (1, ""))]
    alone = [told(running, request)[0] for request in busy]
    seen, going = [[], []], [threading.Event(), threading.Event()]

    def ask(n):
        for event in running.stream(busy[n]):
            seen[n] += [own.token for own in event.scored]
            if len(seen[n]) == 3:
                going[n].set()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    assert all(own.wait(30) for own in going)
    status, answer, _ = server.call("/v1/adapters", {"name": "late", "path": str(place / "late")})
    assert (status, answer["id"]) == (201, "late")
    for thread in threads:
        thread.join()
    assert seen == [own[0] for own in alone]
    wanted, _ = reference(place / "late-merged", PROMPTS[2], temperature=0.0)
    ask_late = Request(
        prompt=PROMPTS[2], model="late", options=Options(max_tokens=20, temperature=0.0)
    )
    with tools.Compiled() as compiled:
        assert told(running, ask_late)[0][0] == wanted
    assert compiled.count == 0
    assert "late" in [own["id"] for own in server.call("/v1/models")[1]["data"]]
    status, answer, _ = server.call("/v1/adapters", {"name": "late", "path": str(place / "late")})
    assert status == 400
    assert "name must be new; got 'late'" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"name": "new", "path": "nowhere"}, "an adapter's folder must hold adapter_config.json"),
        ({"name": "model", "path": "late"}, "name must be new; got 'model'"),
        ({"name": "", "path": "late"}, "name must be 1 to 200 printable characters"),
        ({"name": "new", "path": "other"}, "targets must be among query, down; got value"),
        ({"name": "new", "path": "thick"}, "rank must be at most 5; got 6"),
        ({"name": "new", "path": "dora"}, "LoRA without DoRA"),
        ({"name": "new"}, "must have name and path"),
        ({"name": "new", "path": 3}, "must have name and path"),
        ({"name": "new", "path": "late", "x": "y"}, "must have name and path"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(server, place, sent, message):
    before = server.engine.names
    if isinstance(sent.get("path"), str) and (place / sent["path"]).exists():
        sent = {**sent, "path": str(place / sent["path"])}
    status, answer, _ = server.call("/v1/adapters", sent)
    assert status == 400
    assert message in answer["error"]["message"]
    assert server.engine.names == before


def test_an_adapter_without_finite_numbers_gets_no_name(running, place, monkeypatch):
    read = adapters.read

    def bad(name, path, own):
        found = read(name, path, own)
        nan = adapters.jax.tree.map(lambda x: np.full_like(x, np.nan), found.tree)
        return found._replace(tree=nan)

    monkeypatch.setattr(adapters, "read", bad)
    request = Request(prompt=PROMPTS[0], options=Options(max_tokens=20, temperature=0.0))
    before, names = told(running, request), running.names
    with pytest.raises(Refusal, match="finite numbers; got others \\(bad\\)"):
        running.add_adapter("bad", str(place / "narrow"))
    assert running.names == names
    assert told(running, request) == before
    assert before[0][3] != ERROR


def test_places_for_adapters_run_out(place):
    own = served.load(str(place / "model"), template="chatml")
    folders = {"wide": str(place / "wide")}
    stack = adapters.stack_of(own, folders, count=1)
    with pytest.raises(Refusal, match="got 1 adapters in as many places"):
        stack.read("narrow", str(place / "narrow"), ())
    with pytest.raises(ValueError, match="--adapter_slots must be at least the 2"):
        adapters.stack_of(own, {**folders, "narrow": str(place / "narrow")}, count=1)
    assert adapters.stack_of(own, {}) is None
    with pytest.raises(ValueError, match="adapters need a Transformer"):
        adapters.read("wide", "", own._replace(shape=None))

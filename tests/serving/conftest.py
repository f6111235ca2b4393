"""A tiny model folder with adapters, one engine over it, and a real server on loopback."""

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from typing import Any, NamedTuple

import jax
import pytest

from alignjax.models import transformer
from alignjax.models.adapters import adapt, lora, merge, peft_format
from alignjax.models.checkpoints import folder
from alignjax.serving import adapters, engine, served, slots
from tests.commands import open_model
from tests.models.adapters import kinds

LIMITS = slots.Limits(slots=4, context=64, waiting=6, seconds=60)
ADAPTERS = {
    "wide": lora.LoraConfig(rank=5, alpha=9.0, targets=("query", "down")),
    "narrow": lora.LoraConfig(rank=2, stabilised=True, targets=("down",)),
    "late": lora.LoraConfig(rank=3, targets=("query",)),
    "other": lora.LoraConfig(rank=2, targets=("value",)),
    "thick": lora.LoraConfig(rank=6, targets=("query",)),
    "dora": lora.LoraConfig(rank=2, dora=True, targets=("query", "down")),
}


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """The folder of a model, peft folders, and two of them merged into models of their own."""
    pytest.importorskip("tokenizers", reason="open weights need alignjax[hf]")
    path = tmp_path_factory.mktemp("served")
    open_model.write(path / "model")
    stored = folder.open_model(path / "model")
    base, model = stored.load(), transformer.transformer(stored.config)
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        own_model = adapt.adapt(model, config)
        own = kinds.roughen(jax.jit(own_model.init)(jax.random.key(seed)), seed=seed)
        peft_format.save(path / name, config, own, stored.config, base=base)
        if name in ("wide", "narrow", "late"):
            join = jax.jit(lambda own, base: merge.whole(adapt.bind(own, {"base": base})))
            whole = join(own, base)
            folder.save_model(path / f"{name}-merged", stored.config, whole, stored.fields)
            open_model.write_tokenizer(path / f"{name}-merged")
    return path


@pytest.fixture(scope="session")
def running(place):
    """An engine with two adapters and places for two more."""
    own = served.load(str(place / "model"), template="chatml")
    named = {name: str(place / name) for name in ("wide", "narrow")}
    running = engine.Engine(own, LIMITS, adapters.stack_of(own, named, count=4))
    yield running
    running.close()


@pytest.fixture
def idle(running):
    """The engine, which must be idle again behind the test."""
    yield running
    assert wait_for(lambda: running.load().busy == running.load().waiting == 0)
    assert running.is_alive
    assert running.load().failures == 0


def wait_for(holds, seconds: float = 20.0) -> bool:
    """Whether something comes to hold."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return False


class Compiled:
    """How many programs JAX compiles inside the block."""

    def __enter__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        return self

    def _heard(self, event: str, *_: Any, **__: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._heard)


class Server(NamedTuple):
    """A server of the same process."""

    engine: Any
    service: Any
    address: str

    def call(self, path: str, sent: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """(status, JSON, headers) of a request; without `sent` a GET. Bytes go as they are."""
        body = sent if isinstance(sent, bytes | None) else json.dumps(sent).encode()
        own = {"content-type": "application/json", **headers}
        request = urllib.request.Request(f"{self.address}{path}", body, own)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read()), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read()), error.headers

    def complete(self, **fields: Any) -> dict[str, Any]:
        """The answer to a request for a completion."""
        status, answer, _ = self.call("/v1/completions", {"model": "model", **fields})
        assert status == 200, answer
        return answer


@contextlib.contextmanager
def serving(running, moderator=None, **options):
    """The application of an engine under uvicorn, in a thread."""
    import uvicorn

    from alignjax.serving.http import app, listening

    service = app.Service(running, moderator)
    with listening.listening("127.0.0.1", 0) as own:
        config = uvicorn.Config(
            app.make_app(service, **options), log_level="warning", lifespan="off",
            timeout_graceful_shutdown=2,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]}, daemon=True)
        thread.start()
        assert wait_for(lambda: server.started)
        yield Server(running, service, f"http://{listening.shown(own)}")
        server.should_exit = True
        thread.join(timeout=30)


@pytest.fixture(scope="session")
def server(running):
    with serving(running) as own:
        yield own

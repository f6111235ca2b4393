"""Numbers of a server in Prometheus's form."""

from collections.abc import Iterable

import prometheus_client
from prometheus_client import core
from prometheus_client.registry import Collector

from alignjax.serving import engine as engines

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TYPE = prometheus_client.CONTENT_TYPE_LATEST


class _Load(Collector):
    """What the engine is at whenever somebody looks."""

    def __init__(self, engine: engines.Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[core.Metric]:
        load = self._engine.load()
        for name, text, value in (
            ("slots", "rows that can be decoded at once", load.slots),
            ("slots_busy", "rows that are decoded now", load.busy),
            ("queue_length", "requests that wait for a slot", load.waiting),
            ("adapters", "adapters that requests may name", len(self._engine.names) - 1),
        ):
            yield core.GaugeMetricFamily(f"alignjax_{name}", text, value)
        for name, text, value in (
            ("steps", "steps decoded", load.steps),
            ("drawn_tokens", "tokens drawn", load.tokens),
            ("failures", "programs that failed", load.failures),
        ):
            yield core.CounterMetricFamily(f"alignjax_{name}", text, value)


class Metrics:
    """The numbers of one server."""

    def __init__(self, engine: engines.Engine) -> None:
        own = self.registry = prometheus_client.CollectorRegistry()
        own.register(_Load(engine))
        counter, histogram = prometheus_client.Counter, prometheus_client.Histogram
        self.requests = counter(
            "alignjax_requests", "requests answered", ["path", "status"], registry=own
        )
        self.prompt_tokens = counter("alignjax_prompt_tokens", "tokens of prompts", registry=own)
        self.answer_tokens = counter("alignjax_answer_tokens", "tokens of answers", registry=own)
        self.blocked = counter("alignjax_blocked", "texts that the guard blocked", registry=own)
        self.gone = counter("alignjax_clients_gone", "clients that left early", registry=own)
        self.first_token = histogram(
            "alignjax_first_token_seconds", "from a request to its first token", buckets=SECONDS,
            registry=own,
        )  # fmt: skip
        self.guard_seconds = histogram(
            "alignjax_guard_seconds", "of a question to the guard", buckets=SECONDS, registry=own
        )

    def text(self) -> bytes:
        """All of them."""
        return prometheus_client.generate_latest(self.registry)

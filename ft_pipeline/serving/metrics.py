"""Metrics of `ft serve` in Prometheus' text format. Labels hold no texts and no users, and have few values."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from ft_pipeline.serving.engine_pool import EnginePool

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
CHAT, FEEDBACK, HEALTH, METRICS = "/v1/chat/completions", "/v1/feedback", "/health", "/metrics"
PATHS = frozenset({CHAT, FEEDBACK, HEALTH, METRICS, "/v1/models", "/v1/completions", "/v1/responses"})
"""Paths that are counted on their own. All others are counted as `other`."""
CLIENT_WENT_AWAY = 499
"""The status of a request whose client did not wait for the answer, as nginx counts it."""
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class ServingMetrics:
    """Counts what a server does."""

    def __init__(self, pool: EnginePool) -> None:
        disable_created_metrics()  # a second line for each counter, which the text format has no place for
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests, by path and HTTP status.", ["path", "status"])
        self._seconds = self._histogram("request_seconds", "Seconds until a request was answered.", ["path"])
        self._first_token = self._histogram("first_token_seconds", "Seconds until the first token of a stream.")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts, as the engine counts them.")
        self._completion_tokens = self._counter("completion_tokens", "Tokens of answers, as the engine counts them.")
        self._feedback = self._counter("feedback", "Feedback, by rating.", ["rating"])
        self._log_errors = self._counter("log_errors", "Answers that could not be logged.")
        self._swaps = self._counter("swaps", "New champions that were served without a restart.")
        self._failed_swaps = self._counter("failed_swaps", "New champions that could not be served.")
        self._registry.register(_ModelInfo(pool))
        ready = Gauge("ft_serve_ready", "1 if an engine answers, else 0.", registry=self._registry)
        ready.set_function(lambda: pool.health() is not None)
        in_flight = Gauge("ft_serve_requests_in_flight", "Requests at an engine.", registry=self._registry)
        in_flight.set_function(lambda: pool.in_flight)
        for rating in ("up", "down", "none"):
            self._feedback.labels(rating)
        ProcessCollector(registry=self._registry)  # its start time, memory and CPU seconds

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        label = path if path in PATHS else "other"
        self._requests.labels(label, str(status)).inc()
        self._seconds.labels(label).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Record how long the first token of a stream took."""
        self._first_token.observe(seconds)

    def tokens(self, usage: Any) -> None:
        """Count the tokens in the `usage` of a reply, if it has one."""
        if isinstance(usage, Mapping):
            self._prompt_tokens.inc(_count(usage.get("prompt_tokens", usage.get("input_tokens"))))
            self._completion_tokens.inc(_count(usage.get("completion_tokens", usage.get("output_tokens"))))

    def feedback(self, rating: str | None) -> None:
        """Count a feedback. rating: `up`, `down` or None."""
        self._feedback.labels(rating or "none").inc()

    def log_error(self) -> None:
        """Count an answer that could not be logged."""
        self._log_errors.inc()

    def swap(self, *, failed: bool) -> None:
        """Count a new champion that is served, or could not be."""
        (self._failed_swaps if failed else self._swaps).inc()

    def text(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self._registry)

    def _counter(self, name: str, help_text: str, labels: tuple[str, ...] | list[str] = ()) -> Counter:
        return Counter(f"ft_serve_{name}", help_text, labels, registry=self._registry)

    def _histogram(self, name: str, help_text: str, labels: tuple[str, ...] | list[str] = ()) -> Histogram:
        return Histogram(f"ft_serve_{name}", help_text, labels, buckets=_SECONDS, registry=self._registry)


class _ModelInfo(Collector):
    """What is served, as labels."""

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """Yield nothing before a model is served."""
        if (engine := self._pool.current) is not None:
            yield InfoMetricFamily("ft_serve_model", "The served model.", engine.model.labels)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0

"""The engines of a served model: the one that gets new requests, and those that still answer earlier ones."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ft_pipeline.serving.chat_exchange import ChatRules
from ft_pipeline.serving.engine_process import Address
from ft_pipeline.serving.refused_request import RefusedRequest

FINGERPRINT_DIGITS = 12
"""Digits of a fingerprint that /health and /metrics show."""


@dataclass(frozen=True)
class ServedModel:
    """What is served."""

    name: str
    """The name that clients give."""
    row: str
    fingerprint: str
    engine: str
    record: int | None = None
    """The number of the champion's record; None if it is not served as the champion."""

    @property
    def labels(self) -> dict[str, str]:
        """What /health and /metrics say about it."""
        fingerprint = self.fingerprint[:FINGERPRINT_DIGITS]
        return {"name": self.name, "row": self.row, "fingerprint": fingerprint, "engine": self.engine}


@dataclass(frozen=True, eq=False)
class ReadyEngine:
    """An engine that answers requests."""

    model: ServedModel
    address: Address
    rules: ChatRules


@dataclass
class EnginePool:
    """Gives each request the newest engine, and knows which engines still answer requests.

    The lock is held while a request is counted, never during a request.
    """

    _changed: threading.Condition = field(default_factory=threading.Condition)
    _current: ReadyEngine | None = None
    _since: str = ""
    _requests: dict[Address, int] = field(default_factory=dict)
    _next: dict[str, Any] | None = None

    def serve(self, engine: ReadyEngine) -> None:
        """Send new requests to this engine."""
        with self._changed:
            self._current, self._since, self._next = engine, _now(), None

    def note(self, record: int, failure: str | None) -> None:
        """Remember that another model is being loaded (failure: None), or why it is not served. For /health."""
        with self._changed:
            reason = {} if failure is None else {"reason": failure}
            self._next = {"status": "failed" if reason else "loading", "record": record, "since": _now(), **reason}

    @contextlib.contextmanager
    def engine(self) -> Iterator[ReadyEngine]:
        """The engine for one request, which it keeps until the block ends. RefusedRequest if none is ready."""
        with self._changed:
            engine = self._current
            if engine is None:
                raise RefusedRequest("The model is being loaded. Try again in some seconds.", status=503)
            self._requests[engine.address] = self._requests.get(engine.address, 0) + 1
        try:
            yield engine
        finally:
            with self._changed:
                self._requests[engine.address] -= 1
                if not self._requests[engine.address]:
                    del self._requests[engine.address]
                    self._changed.notify_all()

    def wait_until_idle(self, engine: ReadyEngine, seconds: float) -> bool:
        """Wait until the engine answers no request, at most this long. Return whether it answers none."""
        with self._changed:
            return self._changed.wait_for(lambda: engine.address not in self._requests, seconds)

    @property
    def current(self) -> ReadyEngine | None:
        """The engine that gets new requests; None before one is ready."""
        return self._current

    @property
    def in_flight(self) -> int:
        """The number of requests that are being answered."""
        with self._changed:
            return sum(self._requests.values())

    def health(self) -> dict[str, Any] | None:
        """Return what is served, and the state of the next model; None while no engine is ready."""
        with self._changed:
            if self._current is None:
                return None
            model = self._current.model
            return {**model.labels, "record": model.record, "since": self._since, "next": self._next}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

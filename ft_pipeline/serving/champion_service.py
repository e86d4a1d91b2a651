"""Serves a model until it is stopped. A new champion is served without a restart: no request is dropped.

The new model is loaded beside the old one. It gets new requests once it answers. The old engine ends when its last
request is done.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ft_pipeline.errors import UserError
from ft_pipeline.release.champion import ledger
from ft_pipeline.release.intact import require_intact
from ft_pipeline.release.model_lookup import CHAMPION, ModelReference, find_model
from ft_pipeline.serving.engine_pool import EnginePool
from ft_pipeline.serving.engine_start import (
    POLL_SECONDS,
    EngineFailed,
    EngineStart,
    StartedEngine,
    describe_model,
)
from ft_pipeline.serving.metrics import ServingMetrics


@dataclass(frozen=True)
class SwapLimits:
    """Seconds."""

    poll: float = 2.0
    """Between two looks for a new champion record."""
    start: float = 1800.0
    """Until a new engine must be ready."""
    drain: float = 600.0
    """Until the requests of an old engine must have ended."""
    retry: float = 600.0
    """Until a model that could not be served is tried again."""


@dataclass
class ChampionService:
    """A served model, and the engines that serve it."""

    starter: EngineStart
    pool: EnginePool
    metrics: ServingMetrics
    say: Callable[[str], None]
    """Prints a line for the person who runs it."""
    swaps: bool = True
    """Whether a new champion is served without a restart."""
    limits: SwapLimits = field(default_factory=SwapLimits)
    _current: StartedEngine | None = None
    _tried: int = 0
    """The number of the newest champion record that is served or could not be."""
    _retry_at: float = float("inf")

    def run(self, model: ModelReference, on_ready: Callable[[], None]) -> None:
        """Serve the model until an exception interrupts this, and end the engines.

        on_ready: called once it answers. Raises EngineFailed if the engine ends, and UserError if the model cannot be
        served.
        """
        self._current = self.starter.start(model)
        try:
            self._current.wait_until_ready(None)
            self.pool.serve(self._current.ready)
            on_ready()
            self._watch(model)
        finally:
            self._current.stop()

    def _watch(self, model: ModelReference) -> None:
        """Wait, and serve new champions, if the model is served as the champion."""
        looks = self.swaps and model.name == CHAMPION
        self._tried = model.record.sequence if model.record else 0
        next_look = time.monotonic()
        while True:
            self._require_running()
            if looks and time.monotonic() >= next_look:
                if self._newest_record() > self._tried or time.monotonic() >= self._retry_at:
                    model = self._serve_champion(model)
                next_look = time.monotonic() + self.limits.poll
            time.sleep(min(POLL_SECONDS, self.limits.poll))

    def _newest_record(self) -> int:
        return ledger(self.starter.store.root).next_number() - 1

    def _serve_champion(self, model: ModelReference) -> ModelReference:
        """Serve the champion instead of `model`, and return what is served then: if it fails, the same as before."""
        record = self._newest_record()
        is_new = record > self._tried
        self._tried, self._retry_at = record, float("inf")
        try:
            champion = find_model(self.starter.store, CHAMPION)
            require_intact(self.starter.store, champion)
            record = self._tried = champion.record.sequence if champion.record else record
            if _answers_alike(champion, model):
                self._rename(champion)
            else:
                self._swap(champion, record)
            return champion
        except _EngineEnded:
            raise
        except Exception as error:  # whatever it is, the former champion is served on
            reason = _reason(error)
            self._retry_at = time.monotonic() + self.limits.retry
            self.metrics.swap(failed=True)
            self.pool.note(record, reason)
            if is_new:
                self.say(f"Champion record {record} cannot be served, so {model.row} is served on. {reason}")
            return model

    def _rename(self, champion: ModelReference) -> None:
        """The same model under another record needs no other engine."""
        assert self._current is not None
        ready = replace(self._current.ready, model=describe_model(champion, self.starter.engine))
        self._current = replace(self._current, ready=ready)
        self.pool.serve(ready)

    def _swap(self, champion: ModelReference, record: int) -> None:
        """Start an engine for the champion, send new requests to it, and end the old one when it is idle."""
        new = self.starter.start(champion)
        self.say(f"Loading {champion.row} (champion record {record}) …")
        self.pool.note(record, None)
        try:
            new.wait_until_ready(self.limits.start, self._require_running)
        except BaseException:
            new.stop()
            raise
        old, self._current = self._current, new
        assert old is not None
        self.pool.serve(new.ready)
        try:
            self.metrics.swap(failed=False)
            self.say(f"Serving {champion.row} (champion record {record}).")
            self._drain(old)
        finally:
            old.stop()

    def _drain(self, old: StartedEngine) -> None:
        """Wait until the last request of an old engine is done, or the limit is over."""
        deadline = time.monotonic() + self.limits.drain
        while not self.pool.wait_until_idle(old.ready, POLL_SECONDS):
            self._require_running()
            if time.monotonic() > deadline:
                self.say(f"Requests to the former model were ended after {self.limits.drain:.0f} s.")
                return

    def _require_running(self) -> None:
        assert self._current is not None
        if (code := self._current.process.exit_code) is not None:
            raise _EngineEnded(f"exited while serving (exit code {code})")


class _EngineEnded(EngineFailed):
    """The engine that gets requests ended."""


def _reason(error: Exception) -> str:
    """Return why a champion is not served."""
    if isinstance(error, EngineFailed):
        return f"Its engine {error}."
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _answers_alike(first: ModelReference, second: ModelReference) -> bool:
    """Whether two models are the same weights under the same prompt."""
    return replace(first, row="", experiment=None) == replace(second, row="", experiment=None)

"""Log the requests to a teacher and its replies: one JSON line per event, appended immediately.

Each line is one write, so that a kill at any moment loses no earlier line. `fsync` follows within milliseconds, so that
a power failure loses almost nothing. An answer in the log is never paid for again.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ft_pipeline.models.endpoint.rate_limits import TokenEstimate
from ft_pipeline.models.endpoint.responses import RULES, Failure, Reply, Spending
from ft_pipeline.store.atomic_files import rewriting, sync_folder
from ft_pipeline.store.checked_json import UnreadableJson, parse_checked
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.text_redaction import PLACEHOLDER

LOG_FILE = "log.jsonl"
LOCK_FILE = "lock"
_ERASED = {"answer": "", "message": "", "request_id": None, "erased": True}
"""Fields of an event whose texts were erased."""


class AnswerLog:
    """The log of one teacher. One process writes at a time (see `open`).

    The index in memory contains a key of 16 bytes and an offset for each request, no text.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_FILE
        self.spent = Spending()
        """Totals of every run that wrote this log."""
        self._answered: dict[bytes, int] = {}
        """By the short key of the request: the offset of its answer."""
        self._settled: dict[bytes, int] = {}
        """The same for failures that would happen again."""
        self._failed: dict[bytes, int] = {}
        """The same for the last failures of requests that a later run sends again."""
        self._pending: dict[str, tuple[int, int]] = {}
        """By the key of a request without a result: the estimated tokens of its prompt and of its answer."""
        self._end = 0
        self._file = -1
        self._reader: Any = None
        self._syncing: asyncio.Task[None] | None = None
        self._dirty = False

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, log: Callable[[str], None]) -> Iterator["AnswerLog"]:
        """Yield the log in `folder`, indexed, with this process as its only writer. `log` receives a message if another
        process has the lock."""
        folder.mkdir(parents=True, exist_ok=True)
        # A worker that waits too long without a report would be ended (execution/workers/stall_watch.py).
        with FileLock(folder / LOCK_FILE, "asking the teacher").hold(log, repeat_seconds=60):
            answer_log = cls(folder)
            answer_log._index_file()
            answer_log._file = os.open(answer_log.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            sync_folder(folder)
            answer_log._reader = answer_log.path.open("rb")
            try:
                yield answer_log
            finally:
                os.fsync(answer_log._file)
                os.close(answer_log._file)
                answer_log._reader.close()

    # --- reading ------------------------------------------------------------------------------------------------------

    def has_answer(self, key: str) -> bool:
        """Whether the request has an answer."""
        return _short_key(key) in self._answered

    def has_settled_failure(self, key: str) -> bool:
        """Whether the request was paid for and would fail in the same way again."""
        return _short_key(key) in self._settled

    def entry(self, key: str) -> dict[str, Any] | None:
        """Return the answer of the request, else its last failure; None if it has neither."""
        short_key = _short_key(key)
        offsets = (events[short_key] for events in (self._answered, self._settled, self._failed) if short_key in events)
        offset = next(offsets, None)
        if offset is None:
            return None
        self._reader.seek(offset)
        return orjson.loads(self._reader.readline())

    def _index_file(self) -> None:
        """Index the file. If a kill truncated the last line, remove that line."""
        if not self.path.is_file():
            return
        with self.path.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(self._end)
                    break
                with contextlib.suppress(orjson.JSONDecodeError):  # a torn disk block: that answer is requested again
                    self._index_event(orjson.loads(line), self._end)
                self._end += len(line)
        for prompt_tokens, answer_tokens in self._pending.values():  # killed with the process that asked
            self._charge(prompt_tokens, answer_tokens, perhaps=True)
        self._pending.clear()

    # An event whose texts were erased (`ft erase`) still counts as paid, but its request has no result any more.

    def _index_event(self, event: dict[str, Any], offset: int) -> None:
        """Add an event, whose line begins at `offset`, to the totals and to the index."""
        if event["event"] == "asked":
            self._index_request(event)
        elif event["event"] == "answered":
            self._index_answer(event, offset)
        else:
            self._index_failure(event, offset)

    def _index_request(self, event: dict[str, Any]) -> None:
        if (interrupted := self._pending.pop(event["key"], None)) is not None:
            self._charge(*interrupted, perhaps=True)
        self.spent.requests += 1
        self._pending[event["key"]] = (event["prompt_tokens"], event["answer_tokens"])

    def _index_answer(self, event: dict[str, Any], offset: int) -> None:
        usage = self._take_usage(event)
        self.spent.answers += 1
        self._charge(*usage)
        if not _is_erased(event):
            self._answered[_short_key(event["key"])] = offset

    def _index_failure(self, event: dict[str, Any], offset: int) -> None:
        usage = self._take_usage(event)
        rule = RULES[event["reason"]]
        self.spent.failures[event["reason"]] = self.spent.failures.get(event["reason"], 0) + 1
        if rule.bill != "no":
            self._charge(*usage, perhaps=rule.bill == "perhaps")
        if _is_erased(event):
            return
        if rule.settled:
            self._settled[_short_key(event["key"])] = offset
        elif event["final"]:
            self._failed[_short_key(event["key"])] = offset

    def _take_usage(self, event: dict[str, Any]) -> tuple[int, int]:
        """Return the tokens of prompt and answer: as the server counts them, else as estimated. The request is no
        longer pending."""
        estimate = self._pending.pop(event["key"], (0, 0))
        return (
            event["prompt_tokens"] if event["prompt_tokens"] is not None else estimate[0],
            event["answer_tokens"] if event["answer_tokens"] is not None else estimate[1],
        )

    def _charge(self, prompt_tokens: int, answer_tokens: int, *, perhaps: bool = False) -> None:
        """Add a request to the totals of requests that are paid, or perhaps paid."""
        self.spent.prompt_tokens += prompt_tokens
        self.spent.answer_tokens += answer_tokens
        if perhaps:
            self.spent.perhaps_paid += 1
        else:
            self.spent.paid += 1

    # --- writing ------------------------------------------------------------------------------------------------------

    def write_request(self, key: str, estimate: TokenEstimate) -> None:
        """Record a request before it is sent, because a request that a kill interrupts may be charged."""
        self._append(key, "asked", prompt_tokens=estimate.prompt_tokens, answer_tokens=estimate.answer_tokens)

    def write_answer(self, key: str, reply: Reply) -> None:
        """Record the answer to a request."""
        self._append(key, "answered", **_reply_fields(reply))

    def write_failure(self, key: str, failure: Failure, *, final: bool) -> None:
        """Record a failed request. `final`: this run does not retry it."""
        failed = {"reason": failure.reason, "message": failure.message, "final": final}
        self._append(key, "failed", **failed, **_reply_fields(failure.reply))

    def _append(self, key: str, event: str, **fields: Any) -> None:
        """Write an event to the file, and index it."""
        record = {"event": event, "key": key, "time": round(time.time(), 3), **fields}
        line = orjson.dumps(record) + b"\n"
        written_bytes = os.write(self._file, line)
        if written_bytes < len(line):  # a full disk accepts a part; the next write raises the error
            os.ftruncate(self._file, self._end)
            written_bytes = os.write(self._file, line)
        self._index_event(record, self._end)
        self._end += written_bytes
        if event != "asked":
            self._sync_soon()

    def _sync_soon(self) -> None:
        self._dirty = True
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.get_running_loop().create_task(self._sync())

    async def _sync(self) -> None:
        """Call fsync repeatedly while answers arrive. Each call covers the answers that arrived during the last one."""
        while self._dirty:
            self._dirty = False
            await asyncio.to_thread(os.fsync, self._file)

    async def flush(self) -> None:
        """Wait until all events are on the disk."""
        if self._syncing is not None:
            await self._syncing


def _reply_fields(reply: Reply | None) -> dict[str, Any]:
    """Return the fields of an event that describe the reply. They are empty without one."""
    return {
        "answer": reply.text if reply else "",
        "finish_reason": reply.finish_reason if reply else None,
        "prompt_tokens": reply.prompt_tokens if reply else None,
        "answer_tokens": reply.answer_tokens if reply else None,
        "seconds": round(reply.seconds, 3) if reply else None,
        "request_id": reply.request_id if reply else None,
        "model": reply.model if reply else None,
        **({"calls": list(map(dict, reply.calls))} if reply and reply.calls else {}),
    }


@dataclass(frozen=True)
class _Call:
    arguments: str


@dataclass(frozen=True)
class _Event:
    """The types of an event's texts."""

    answer: str | None = None
    message: str | None = None
    calls: list[_Call] = field(default_factory=list)


def erase_answers(path: Path, is_erased: Callable[[dict[str, Any]], bool]) -> int:
    """Remove the texts of events from a log, and return their number. Later runs send these requests again.

    A broken line is removed. No process may write the log meanwhile.
    """
    erased = 0
    with rewriting(path) as target, path.open("rb") as file:
        for line in file:
            with contextlib.suppress(UnreadableJson):
                event = parse_checked(line, _Event)
                if not event.get("erased") and is_erased(event):
                    erased += 1
                    event.pop("calls", None)
                    line = orjson.dumps({**event, **_ERASED}) + b"\n"
                target.write(line)
    return erased


def _is_erased(event: dict[str, Any]) -> bool:
    """Whether the texts of an event were erased, also by a version that put a placeholder into the answer."""
    return bool(event.get("erased")) or PLACEHOLDER in event.get("answer", "")


def _short_key(key: str) -> bytes:
    """Return the first half of a SHA-256: enough to tell requests apart."""
    return bytes.fromhex(key)[:16]

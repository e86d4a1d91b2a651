"""Log of requests to a teacher and of its replies: one JSON line per event, appended immediately.

Each line is one write, so that a kill at any moment loses no earlier line. `fsync` follows within milliseconds, so that
a power failure loses almost nothing. An answer in the log is never paid for again.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from ft_pipeline.models.endpoint.rate_limits import TokenEstimate
from ft_pipeline.models.endpoint.responses import RULES, Failure, Reply, Spending
from ft_pipeline.store.atomic_files import sync_folder
from ft_pipeline.store.locks import FileLock

FILE = "log.jsonl"
LOCK = "lock"


class AnswerLog:
    """The log of one teacher. One process writes at a time (`opened`). Memory use is 16 bytes per answer, no text."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.spent = Spending()
        """Totals of every run that wrote this log."""
        self._answered: dict[bytes, int] = {}
        self._hopeless: dict[bytes, int] = {}
        self._failed: dict[bytes, int] = {}
        self._under_way: dict[str, tuple[int, int]] = {}
        self._end = 0
        self._file = -1
        self._reader: Any = None
        self._syncing: asyncio.Task[None] | None = None
        self._dirty = False

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path, say: Callable[[str], None]) -> Iterator["AnswerLog"]:
        """Yield the log in `folder`, indexed, with this process as its only writer. `say` reports what the lock waits
        for."""
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, "asking the teacher").hold(say):
            log = cls(folder)
            log._read()
            log._file = os.open(log.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            sync_folder(folder)
            log._reader = log.path.open("rb")
            try:
                yield log
            finally:
                os.fsync(log._file)
                os.close(log._file)
                log._reader.close()

    # --- reading ------------------------------------------------------------------------------------------------------

    def answered(self, key: str) -> bool:
        """Whether the request has an answer."""
        return _short(key) in self._answered

    def hopeless(self, key: str) -> bool:
        """Whether the request was paid for and would fail in the same way again."""
        return _short(key) in self._hopeless

    def entry(self, key: str) -> dict[str, Any] | None:
        """Return the answer of the request, else its last failure; None if it has neither."""
        short = _short(key)
        offsets = (events[short] for events in (self._answered, self._hopeless, self._failed) if short in events)
        offset = next(offsets, None)
        if offset is None:
            return None
        self._reader.seek(offset)
        return orjson.loads(self._reader.readline())

    def _read(self) -> None:
        """Index the file. A last line that a kill truncated is removed."""
        if not self.path.is_file():
            return
        with self.path.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(self._end)
                    break
                with contextlib.suppress(orjson.JSONDecodeError):  # a torn disk block: that answer is requested again
                    self._index(orjson.loads(line), self._end)
                self._end += len(line)
        for prompt_tokens, answer_tokens in self._under_way.values():  # killed with the process that asked
            self._charge(prompt_tokens, answer_tokens, perhaps=True)
        self._under_way.clear()

    def _index(self, event: dict[str, Any], offset: int) -> None:
        key = event["key"]
        if event["event"] == "asked":
            if (lost := self._under_way.pop(key, None)) is not None:
                self._charge(*lost, perhaps=True)
            self.spent.requests += 1
            self._under_way[key] = (event["prompt_tokens"], event["answer_tokens"])
            return
        most = self._under_way.pop(key, (0, 0))
        used = (
            event["prompt_tokens"] if event["prompt_tokens"] is not None else most[0],
            event["answer_tokens"] if event["answer_tokens"] is not None else most[1],
        )
        if event["event"] == "answered":
            self.spent.answers += 1
            self._charge(*used)
            self._answered[_short(key)] = offset
            return
        rule = RULES[event["reason"]]
        self.spent.failures[event["reason"]] = self.spent.failures.get(event["reason"], 0) + 1
        if rule.bill != "no":
            self._charge(*used, perhaps=rule.bill == "perhaps")
        if rule.settled:
            self._hopeless[_short(key)] = offset
        elif event["final"]:
            self._failed[_short(key)] = offset

    def _charge(self, prompt_tokens: int, answer_tokens: int, *, perhaps: bool = False) -> None:
        self.spent.prompt_tokens += prompt_tokens
        self.spent.answer_tokens += answer_tokens
        if perhaps:
            self.spent.perhaps_paid += 1
        else:
            self.spent.paid += 1

    # --- writing ------------------------------------------------------------------------------------------------------

    def write_asked(self, key: str, most: TokenEstimate) -> None:
        """Record a request before it is sent, because a request that a kill interrupts may be charged."""
        self._append(key, "asked", prompt_tokens=most.prompt_tokens, answer_tokens=most.answer_tokens)

    def write_answer(self, key: str, reply: Reply) -> None:
        """Record the answer to a request."""
        self._append(key, "answered", **_of_reply(reply))

    def write_failure(self, key: str, failure: Failure, *, final: bool) -> None:
        """Record a failed request. `final`: this run does not retry it."""
        about = {"reason": failure.reason, "message": failure.message, "final": final}
        self._append(key, "failed", **about, **_of_reply(failure.reply))

    def _append(self, key: str, event: str, **about: Any) -> None:
        record = {"event": event, "key": key, "time": round(time.time(), 3), **about}
        line = orjson.dumps(record) + b"\n"
        written = os.write(self._file, line)
        if written < len(line):  # a full disk accepts a part; the next write raises the error
            os.ftruncate(self._file, self._end)
            written = os.write(self._file, line)
        self._index(record, self._end)
        self._end += written
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


def _of_reply(reply: Reply | None) -> dict[str, Any]:
    return {
        "answer": reply.text if reply else "",
        "finish_reason": reply.finish_reason if reply else None,
        "prompt_tokens": reply.prompt_tokens if reply else None,
        "answer_tokens": reply.answer_tokens if reply else None,
        "seconds": round(reply.seconds, 3) if reply else None,
        "request_id": reply.request_id if reply else None,
        "model": reply.model if reply else None,
    }


def _short(key: str) -> bytes:
    return bytes.fromhex(key)[:16]

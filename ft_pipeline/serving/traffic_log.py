"""The log of a served model: a line of JSON for each request that it answers, and for each feedback to an answer.

Headers and keys are not written. Several processes may append to the same file.
"""

import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.models.tool_call_values import parse_json
from ft_pipeline.models.tool_calls import calls_of_reply
from ft_pipeline.serving.refused_request import RefusedRequest

MAX_FEEDBACK_BYTES = 1_000_000
MAX_COMMENT = 10_000
"""Characters."""
_FEEDBACK_KEYS = ("id", "rating", "correction", "comment", "user")
_ID = re.compile(rb'\{"id":"([^"\\]*)"')
_FILE = re.compile(r"traces-\d{4}-\d{2}-\d{2}\.jsonl")
CLIENT = "ft-serve"
"""The client of requests that name none."""


class TrafficLog:
    """Appends to a file, or to a file for each day (UTC) in a folder."""

    def __init__(self, path: Path, workload: str, raw_folder: Path | None = None) -> None:
        """path: a file if it ends in .jsonl, else a folder. workload: the name of what the model is used for.

        raw_folder: the project's data/raw, in which the log must not be: a person accepts what is trained on.
        """
        self._path = path.expanduser().resolve()
        self._workload = workload
        self._lock = threading.Lock()
        self._known: set[str] = set()
        if raw_folder is not None and self._path.is_relative_to(raw_folder.resolve()):
            raise UserError(
                f"--log {path} is inside data/raw, so that the next run would train on all traffic. Choose another "
                "folder."
            )
        try:
            (self._path.parent if self._is_file else self._path).mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(self._open())
        except OSError as error:
            raise UserError(f"--log {path} cannot be written ({error.strerror}). Choose another path.") from error

    @property
    def description(self) -> str:
        """What is logged, and where."""
        where = self._path if self._is_file else self._path / "traces-DATE.jsonl"
        return f"Logging every request and answer, with their texts, to {where}. Feedback: POST /v1/feedback."

    def write_exchange(
        self, identity: str, request: Mapping[str, Any], response: Mapping[str, Any], session: str | None
    ) -> None:
        """Append a request and its response. session: the header x-session-id."""
        metadata = request.get("metadata") if isinstance(request.get("metadata"), dict) else {}
        assert isinstance(metadata, dict)
        names = {
            "workload_id": metadata.get("workload_id") or self._workload,
            "client_id": metadata.get("client_id") or request.get("user") or CLIENT,
            "session_id": metadata.get("session_id") or session,
        }
        named = {key: str(name) for key, name in names.items() if name}
        self._append({"id": identity, "timestamp": int(time.time()), **named, "request": request, "response": response})
        self._known.add(identity)

    def write_feedback(self, body: bytes) -> dict[str, str]:
        """Append the feedback in the body of a request, and return the reply. Raises RefusedRequest."""
        feedback = read_feedback(body)
        if not self._knows(feedback["id"]):
            raise RefusedRequest(
                f"No logged answer has the id {feedback['id'][:80]!r}. Send the `id` of an answer of this server.",
                status=404,
                param="id",
            )
        self._append({"feedback": {"id": feedback["id"], "timestamp": int(time.time()), **feedback}})
        return {"id": feedback["id"], "status": "recorded"}

    @property
    def _is_file(self) -> bool:
        return self._path.suffix == ".jsonl"

    def _open(self) -> int:
        path = self._path if self._is_file else self._path / f"traces-{datetime.now(UTC):%Y-%m-%d}.jsonl"
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _append(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # of other processes; closing the file releases it
                end = os.fstat(file).st_size
                if end and os.pread(file, 1, end - 1) != b"\n":  # a kill cut the last line off
                    line = b"\n" + line
                while line:
                    line = line[os.write(file, line) :]
            finally:
                os.close(file)

    def _knows(self, identity: str) -> bool:
        return identity in self._known or any(identity in ids for ids in map(_ids_in, self._files()))

    def _files(self) -> Iterator[Path]:
        if self._is_file:
            yield self._path
        else:
            yield from sorted((path for path in self._path.iterdir() if _FILE.fullmatch(path.name)), reverse=True)


def _ids_in(path: Path) -> set[str]:
    """Return the ids of the calls in a file of the log."""
    with path.open("rb") as file:
        found = (_ID.match(line) for line in file)
        return {match[1].decode("utf-8", "replace") for match in found if match}


def read_feedback(body: bytes) -> dict[str, Any]:
    """Return the feedback in the body of a request. Raises RefusedRequest if it is none."""
    try:
        feedback = parse_json(body.decode("utf-8"))
    except ValueError:
        raise RefusedRequest('The body is not JSON. Send {"id": "chatcmpl-…", "rating": "up"}.') from None
    if not isinstance(feedback, dict):
        raise RefusedRequest('The body is not an object. Send {"id": "chatcmpl-…", "rating": "up"}.')
    feedback = {name: value for name, value in feedback.items() if value is not None}
    if unknown := sorted(feedback.keys() - set(_FEEDBACK_KEYS)):
        raise RefusedRequest(f"The key {unknown[0][:80]!r} is unknown. Use {', '.join(_FEEDBACK_KEYS)}.")
    for name in ("id", "comment", "user"):
        if name in feedback and (not isinstance(feedback[name], str) or len(feedback[name]) > MAX_COMMENT):
            raise RefusedRequest(f"`{name}` is not a text of at most {MAX_COMMENT} characters. Shorten it.", param=name)
    if not feedback.get("id"):
        raise RefusedRequest("The feedback has no `id`. Send the `id` of the answer that it is about.", param="id")
    if not {"rating", "correction", "comment"} & feedback.keys():
        raise RefusedRequest("The feedback says nothing. Add `rating`, `correction` or `comment`.")
    if feedback.get("rating", "up") not in ("up", "down"):
        raise RefusedRequest('`rating` is not "up" or "down". Send one of them.', param="rating")
    if "correction" in feedback and not _is_answer(feedback["correction"]):
        raise RefusedRequest(
            "`correction` is not an answer. Send a text, or a message of the assistant with `content` or `tool_calls`.",
            param="correction",
        )
    return feedback


def _is_answer(correction: Any) -> bool:
    """Return whether a correction is a text, or a message of the assistant in OpenAI's shape."""
    if isinstance(correction, str):
        return bool(correction.strip())
    if not isinstance(correction, dict) or correction.get("role", "assistant") != "assistant":
        return False
    content = correction.get("content")
    try:
        calls = calls_of_reply(correction.get("tool_calls"))
        objects = all(isinstance(parse_json(call["arguments"]), dict) for call in calls)
    except (ValueError, TypeError):
        return False
    has_text = isinstance(content, str) and bool(content.strip())
    return objects and (has_text or (content in (None, "") and bool(calls)))

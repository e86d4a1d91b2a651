"""Reads the log of `ft serve --log`: the calls that people gave feedback on, joined over all files of the log."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.inbox.settings import InboxKeys
from ft_pipeline.project import Project
from ft_pipeline.tables.reading.json_parser import parse_line
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.traces import openai_log, otel
from ft_pipeline.tables.traces.calls import Feedback

PERSONS_FIELDS = ("rating", "correction", "comment", "user")
"""What feedback may contain. Of several lines, the newest value of each stays."""
_CALL = re.compile(rb'\{"id":"([^"\\]+)"')
"""The start of a call as `ft serve` writes it, by which calls without feedback are passed over unread."""
_LAST_TIME = 1 << 33
"""Seconds: in the year 2242."""
_FEEDBACK = b'"feedback"'


@dataclass(frozen=True)
class LoggedFeedback:
    """All feedback on one answer so far."""

    document: dict[str, Any]
    """All of it as one line: the newest value of each field."""
    version: tuple[int, int]
    """Time of the newest line, and how many lines have that time. It grows with each line, and reveals no text."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of the feedback."""
        return dict(self.document["feedback"])

    @property
    def feedback(self) -> Feedback:
        """The rating and the correction, as the tables read them."""
        line = openai_log.read_feedback_line(self.document)
        assert not isinstance(line, Fault)
        return line[1]


@dataclass(frozen=True)
class LoggedCall:
    """A line of the log with a call."""

    identity: str
    document: dict[str, Any]
    line: bytes
    """As it is in the file, without the end of the line."""


@dataclass(frozen=True)
class BrokenLine:
    """A line of the log that cannot be read."""

    file: str
    line: int
    message: str

    def describe(self) -> str:
        """Return where the line is, and what is wrong with it."""
        return f"{self.file}, line {self.line}: {self.message}"


@dataclass
class Traffic:
    """The calls of a log that have feedback."""

    feedback: dict[str, LoggedFeedback] = field(default_factory=dict)
    """By the id of the call, in the order of the log."""
    calls: dict[str, LoggedCall] = field(default_factory=dict)
    """The calls of this feedback that are in the log."""
    broken: list[BrokenLine] = field(default_factory=list)
    lines: int = 0
    """Number of lines that are not blank."""


def log_path(project: Project, given: Path | None) -> Path:
    """Return the log: the given one, else the one that project.yaml names.

    Raises UserError if there is none, or if project.yaml names one outside the project or among its data.
    """
    named = InboxKeys.of(project.settings).inbox.log
    if given is None and named is None:
        raise UserError("No log of served answers is named. Use --log PATH, or set `inbox.log` in project.yaml.")
    path = given.expanduser().resolve() if given is not None else (project.root / str(named)).resolve()
    if given is None and not path.is_relative_to(project.root):
        raise UserError(f"`inbox.log` is {named!r}, which is outside the project folder. Name a folder inside it.")
    if any(path.is_relative_to(project.root / "data" / folder) for folder in ("raw", "store")):
        raise UserError(f"The log {given or named} is inside data/raw or data/store. Use another folder for the log.")
    return path


def read_traffic(log: Path) -> Traffic:
    """Read a log: one file, or all .jsonl files of a folder. Only calls with feedback are kept.

    A line that cannot be read is counted and named. A log that does not exist yet is empty.
    """
    traffic = Traffic()
    by_call: dict[str, list[dict[str, Any]]] = {}
    for where, line in _lines(log):
        traffic.lines += 1
        if _FEEDBACK in line and openai_log.is_feedback(document := parse_line(line)):
            read = openai_log.read_feedback_line(document)
            if isinstance(read, Fault):
                traffic.broken.append(BrokenLine(*where, read.message))
            else:
                by_call.setdefault(read[0], []).append(document["feedback"])
    traffic.feedback = {identity: _joined(identity, lines) for identity, lines in by_call.items()}
    for where, line in _lines(log):
        found = _read_call(line, traffic.feedback)
        if isinstance(found, LoggedCall):
            traffic.calls[found.identity] = found
        elif found is not None:
            traffic.broken.append(BrokenLine(*where, found))
    traffic.broken.sort(key=lambda broken: (broken.file, broken.line))
    return traffic


def _lines(log: Path) -> Iterator[tuple[tuple[str, int], bytes]]:
    """Yield ((file name, line number), line) of each line that is not blank."""
    files = [log] if log.is_file() else sorted(log.glob("*.jsonl"))
    for path in files:
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.isspace():
                        yield (path.name, number), line.rstrip(b"\r\n")
        except OSError as error:
            raise UserError(f"The log {path} cannot be read ({error.strerror}). Let this user read it.") from error


def _read_call(line: bytes, wanted: Mapping[str, Any]) -> LoggedCall | str | None:
    """Return the call of a line if it is wanted; what is wrong with the line; or None for other lines."""
    start = _CALL.match(line)
    if start is not None and line.endswith(b"}") and start[1].decode("utf-8", "replace") not in wanted:
        return None
    document = parse_line(line)
    if isinstance(document, Fault):
        return document.message
    if not isinstance(document, dict):
        return "it is not an object"
    if openai_log.is_feedback(document):
        return None
    if not openai_log.is_log(document) or otel.is_otlp(document) or openai_log.is_litellm(document):
        return "it is neither a call nor feedback"
    identity = str(document.get("id") or "")
    if not identity:
        return "the call has no `id`"
    return LoggedCall(identity, document, line) if identity in wanted else None


def _joined(identity: str, lines: list[dict[str, Any]]) -> LoggedFeedback:
    """Return the feedback in several lines as one: the newest value of each field, and the newest time."""
    in_order = sorted(lines, key=_time)  # stable: lines of one second stay in the order of the log
    newest = _time(in_order[-1])
    values = {name: line[name] for line in in_order for name in PERSONS_FIELDS if line.get(name) is not None}
    document = {"feedback": {"id": identity, "timestamp": newest, **values}}
    return LoggedFeedback(document, (newest, sum(_time(line) == newest for line in lines)))


def _time(feedback: Mapping[str, Any]) -> int:
    """Return the time of a line of feedback; 0 if it has none that a clock can show."""
    time = feedback.get("timestamp")
    return int(time) if isinstance(time, int | float) and 0 <= time < _LAST_TIME else 0

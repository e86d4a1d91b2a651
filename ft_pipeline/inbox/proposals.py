"""Proposals: served answers that people corrected or rated, each with what the tables would do with it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import orjson

from ft_pipeline.inbox.accepted_files import accepted_calls
from ft_pipeline.inbox.decisions import Decision, read_decisions
from ft_pipeline.inbox.traffic import LoggedCall, LoggedFeedback, Traffic, read_traffic
from ft_pipeline.project import Project
from ft_pipeline.tables.checks import pii
from ft_pipeline.tables.excluded_rows import read_excluded
from ft_pipeline.tables.formats.read_turns import read_turns
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading.batches import Batch
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.traces.calls import ModelCall
from ft_pipeline.tables.traces.openai_log import read_log
from ft_pipeline.tables.traces.threads import answers_with_prefix


@dataclass(frozen=True)
class Answers:
    """Answers that people accepted, each with the turns before it.

    A request of a conversation holds all earlier answers of the model. Accepting the last one accepts none of them:
    they are shown and not trained.
    """

    keys: frozenset[str]

    @classmethod
    def of_accepted(cls, calls: Iterable[tuple[LoggedCall, LoggedFeedback]]) -> "Answers":
        """Return the answers of accepted calls: the correction if there is one, else that of the model if it is not
        accepted as a bad one."""
        keys = set()
        for call, logged in calls:
            read = read_log(call.document)
            is_bad = logged.feedback.rating == "down" and logged.feedback.correction is None
            if not isinstance(read, Fault) and not is_bad:
                found = _keys([*read.messages, logged.feedback.correction or read.answer])
                keys |= set(found[-1:])
        return cls(frozenset(keys))


def without_training_of_others(document: dict[str, Any], answers: Answers) -> dict[str, Any]:
    """Return a logged call in which the earlier answers that are not among `answers` have the weight 0.

    The document itself is returned if it has none.
    """
    request, read = document.get("request"), read_log(document)
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list) or isinstance(read, Fault):
        return document
    messages = request["messages"]
    places = [
        place for place, turn in enumerate(messages) if isinstance(turn, dict) and turn.get("role") == "assistant"
    ]
    keys = _keys(read.messages)
    is_known = len(keys) == len(places)
    shown = {place for number, place in enumerate(places) if not is_known or keys[number] not in answers.keys}
    if not shown:
        return document
    turns = [{**turn, "weight": 0} if place in shown else turn for place, turn in enumerate(messages)]
    return {**document, "request": {**request, "messages": turns}}


def _keys(turns: list[Any]) -> list[str]:
    """Return the key of each answer among unread turns; an empty list if they cannot be read."""
    messages = read_turns(turns, Sidecar())
    return [] if isinstance(messages, Fault) else [key for _, key in answers_with_prefix(messages)]


RAW_FORMAT = "traces"
"""The raw folder that accepted calls go to."""
TABLES = (RAW_FORMAT, *(name for name, row_format in FORMATS.items() if RAW_FORMAT in row_format.also_reads))
"""The tables that get a row of an accepted call."""
Kind = Literal["correction", "rated up", "rated down"]


@dataclass(frozen=True)
class Proposal:
    """A served answer that may become training data."""

    id: str
    """The id of the call."""
    kind: Kind
    time: int
    """When the newest feedback was given (Unix seconds)."""
    session: str | None
    workload: str | None
    question: str
    """The last turn before the answer."""
    answer: str
    """What the model answered."""
    correction: str | None
    """What it should have answered."""
    user: str | None
    """Who gave the feedback."""
    comment: str | None
    reason: str | None
    """Why the tables would not use it, so that it cannot be accepted; None if they would."""
    hints: tuple[str, ...]
    """Warnings of the tables: kinds of personal data, placeholders."""

    @property
    def is_acceptable(self) -> bool:
        """Whether the tables would use it."""
        return self.reason is None

    @property
    def when(self) -> str:
        """The time in UTC, for people."""
        return f"{datetime.fromtimestamp(self.time, UTC):%Y-%m-%d %H:%M}"

    @property
    def checks(self) -> str:
        """What the checks say, in a line."""
        personal = [f"contains {pii.NAMES[hint]}" for hint in self.hints if hint in pii.NAMES]
        others = [hint for hint in self.hints if hint not in pii.NAMES]
        return "; ".join([self.reason or "ok", *personal, *others])

    def to_json(self) -> dict[str, Any]:
        """Return an entry of `ft inbox --json`."""
        return {**asdict(self), "hints": list(self.hints), "acceptable": self.is_acceptable}


@dataclass(frozen=True)
class Inbox:
    """The open proposals of a log, and what else is in it."""

    proposals: list[Proposal]
    """Corrections and answers that were rated, in the order of the log."""
    rated_down: int
    """Number of answers that were rated down, and not corrected."""
    rated_down_later: list[str]
    """Ids of calls that were rated down without a correction after they were accepted."""
    without_call: int
    """Number of calls that feedback names and the log does not have."""
    traffic: Traffic
    decisions: Mapping[str, Decision]
    lines: Mapping[str, tuple[bytes, bytes]]
    """By id, the lines that accepting a proposal appends: the call and its feedback."""

    def listed(self, *, rated_up: bool, rated_down: bool = False) -> list[Proposal]:
        """Return the corrections, newest first; rated_up, rated_down: answers that were rated so too."""
        kinds = {"correction": True, "rated up": rated_up, "rated down": rated_down}
        kept = [proposal for proposal in self.proposals if kinds[proposal.kind]]
        return sorted(kept, key=lambda proposal: proposal.time, reverse=True)

    def to_json(self, *, rated_up: bool, rated_down: bool = False) -> dict[str, Any]:
        """Return the document of `ft inbox --json`."""
        listed = self.listed(rated_up=rated_up, rated_down=rated_down)
        return {
            "proposals": [proposal.to_json() for proposal in listed],
            "rated_up": sum(proposal.kind == "rated up" for proposal in self.proposals),
            "rated_down": self.rated_down,
            "rated_down_later": self.rated_down_later,
            "feedback_without_call": self.without_call,
            "broken_lines": [line.describe() for line in self.traffic.broken],
            "lines": self.traffic.lines,
        }


def read_inbox(project: Project, log: Path) -> Inbox:
    """Return the open proposals of a log: those without a decision since their newest feedback."""
    traffic, decisions = read_traffic(log), read_decisions(project.store)
    kinds = {identity: kind for identity, logged in traffic.feedback.items() if (kind := _kind(logged)) is not None}
    candidates = [
        identity for identity in kinds if identity in traffic.calls and _is_open(identity, traffic, decisions)
    ]
    answers = Answers.of_accepted(
        (traffic.calls[identity], traffic.feedback[identity])
        for identity, decision in decisions.items()
        if decision.outcome == "accepted" and identity in traffic.calls
    )
    lines = {identity: _lines_of(traffic, identity, answers) for identity in candidates}
    reasons, hints = _check(project, lines)
    in_files = accepted_calls(project.raw_folder(RAW_FORMAT))
    for identity in candidates:
        if identity in decisions and decisions[identity].was_accepted and identity not in in_files:
            reasons[identity] = (
                "removed: the call was accepted before, and erased or removed from data/raw/traces since then"
            )
    proposals = [
        _proposal(traffic, identity, kinds[identity], reasons.get(identity), hints.get(identity, ()))
        for identity in candidates
    ]
    down = [identity for identity in traffic.calls if _is_only_rated_down(traffic.feedback[identity])]
    later = [
        name
        for name in down
        if name in decisions and decisions[name].outcome == "accepted" and _is_open(name, traffic, decisions)
    ]
    without_call = len(traffic.feedback.keys() - traffic.calls.keys())
    return Inbox(proposals, len(down), later, without_call, traffic, decisions, lines)


def _kind(logged: LoggedFeedback) -> Kind | None:
    if logged.feedback.correction is not None:
        return "correction"
    ratings: dict[str | None, Kind] = {"up": "rated up", "down": "rated down"}
    return ratings.get(logged.feedback.rating)


def _is_only_rated_down(logged: LoggedFeedback) -> bool:
    return logged.feedback.rating == "down" and logged.feedback.correction is None


def _is_open(identity: str, traffic: Traffic, decisions: Mapping[str, Decision]) -> bool:
    return identity not in decisions or traffic.feedback[identity].version > decisions[identity].version


def lines_together(inbox: Inbox, identities: Iterable[str]) -> dict[str, tuple[bytes, bytes]]:
    """Return the lines of calls that are accepted together: an answer of one may be an earlier turn of another."""
    identities = list(identities)
    accepted = [identity for identity, decision in inbox.decisions.items() if decision.outcome == "accepted"]
    traffic = inbox.traffic
    together = [identity for identity in (*accepted, *identities) if identity in traffic.calls]
    answers = Answers.of_accepted((traffic.calls[identity], traffic.feedback[identity]) for identity in together)
    return {identity: _lines_of(traffic, identity, answers) for identity in identities}


def _lines_of(traffic: Traffic, identity: str, answers: Answers) -> tuple[bytes, bytes]:
    call = traffic.calls[identity]
    document = without_training_of_others(call.document, answers)
    line = call.line if document is call.document else _as_line(document)
    return line, _as_line(traffic.feedback[identity].document)


def _as_line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def _check(
    project: Project, lines: Mapping[str, tuple[bytes, bytes]]
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return why the tables would set calls aside, and warnings, both by id. The code is that of the tables."""
    if not lines:
        return {}, {}
    from ft_pipeline.tables.process_batch import SIDECAR_HINT, process_batch  # its libraries take a second to load

    identities, sidecar = list(lines), Sidecar()
    calls, feedback = [call for call, _ in lines.values()], [logged for _, logged in lines.values()]
    source = FORMATS[RAW_FORMAT]
    assert source.prepare is not None
    prepared = source.prepare(lambda: [Batch([*range(2 * len(calls))], lines=[*calls, *feedback])], sidecar)
    reasons: dict[str, str] = {}
    hints: dict[str, set[str]] = {}
    for table in TABLES:
        excluded = read_excluded(project.root / "data", table)
        expand = partial(source.expand[table], feedback=prepared)
        result = process_batch(Batch([*range(len(calls))], lines=calls), table, sidecar, excluded, expand)
        for entry in result.aside.to_pylist():
            if entry["code"] == "rated_down":  # no conversation, but feedback
                continue
            message = entry["message"].removesuffix(SIDECAR_HINT.format(code=entry["code"]))
            reasons.setdefault(identities[entry["row"]], f"{entry['code']}: {message}")
        for hint, rows in result.hints.items():
            for row in rows:
                hints.setdefault(identities[row], set()).add(hint)
    return reasons, {identity: tuple(sorted(found)) for identity, found in hints.items()}


def _proposal(traffic: Traffic, identity: str, kind: Kind, reason: str | None, hints: tuple[str, ...]) -> Proposal:
    call, logged = traffic.calls[identity], traffic.feedback[identity]
    read = read_log(call.document)
    correction = logged.feedback.correction
    known = read if isinstance(read, ModelCall) else None
    return Proposal(
        id=identity,
        kind=kind,
        time=logged.version[0],
        session=known.session if known else None,
        workload=known.workload if known else None,
        question=shown_text(known.messages[-1]) if known else "",
        answer=shown_text(known.answer) if known else "",
        correction=shown_text(correction) if correction is not None else None,
        user=_as_text(logged.fields.get("user")),
        comment=_as_text(logged.fields.get("comment")),
        reason=reason,
        hints=hints,
    )


def turns_of(call: LoggedCall) -> list[tuple[str, str]]:
    """Return (role, text) of each turn of a call, the answer of the model last."""
    read = read_log(call.document)
    if isinstance(read, Fault):
        return []
    turns = [*read.messages, *([read.answer] if read.answer else [])]
    return [(str(turn.get("role")) if isinstance(turn, dict) else "?", shown_text(turn)) for turn in turns]


def shown_text(turn: Any) -> str:
    """Return the text of a turn, with its calls of tools as JSON."""
    if not isinstance(turn, dict):
        return "" if turn is None else str(turn)
    content = turn.get("content")
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        content = "\n".join(part["text"] for part in content)
    texts = [content if isinstance(content, str) else _json(content)] if content else []
    texts += [
        _json(call.get("function", call) if isinstance(call, dict) else call) for call in turn.get("tool_calls") or ()
    ]
    return "\n".join(texts)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _as_text(value: Any) -> str | None:
    return None if value is None else str(value)

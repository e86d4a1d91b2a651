"""The lines of a journal (journal.py): what they contain, and whether they are signed and follow each other."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ft_pipeline.store.checked_json import Number, parse_checked
from ft_pipeline.store.signing import BadSignature, key_id_of, verify

FILE_NAME = "journal.jsonl"
PREDICATE_TYPE = "urn:ft-pipeline:store-change:v1"
CREATED, ADOPTED, NEW_KEY, KEY_IN_USE = "created", "adopted", "new key", "key in use"
ARTIFACT, POINTER, REMOVAL, REDACTION = "artifact", "pointer", "removal", "redaction"
ABANDONED, CONTINUED = "abandoned", "continued"
"""Changes. Those of ledgers have the name of their folder."""
KEY_CHANGES = frozenset({CREATED, ADOPTED, NEW_KEY})
"""Changes whose details have the public key that the following ones are signed with."""
STATE = (
    "artifacts/*/*/*/manifest.json",
    "current/*.json",
    "champion/*.json",
    "requests/*.json",
    "redactions/*.json",
    "exposures/*.json",
    "inbox/*.json",
    "ratings/*.json",
    "validation_looks/*.json",
    "blobs/*/*.redacted.json",
)
"""Patterns of the files of a store that the journal covers. Manifests have the hashes of all other files."""


@dataclass(frozen=True)
class Entry:
    """One line of a journal."""

    number: int
    time: str
    """UTC, ISO 8601."""
    by: str
    """The operating system's user whose process made the change."""
    change: str
    files: Mapping[str, str]
    """Path in the store → SHA-256 after the change; for a removal, before it."""
    details: Mapping[str, Any]
    previous: str | None
    """SHA-256 of the line before."""
    sha256: str
    """SHA-256 of this line."""


@dataclass(frozen=True)
class _Replaced:
    number: int
    key_id: str


@dataclass(frozen=True)
class _Details:
    """The types of what is read of a change's details."""

    public_key: str = ""
    replaces: _Replaced | None = None
    kind: str = ""
    fingerprint: str = ""
    removed: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Predicate:
    sequence: Number
    details: _Details


@dataclass(frozen=True)
class _Statement:
    predicate: _Predicate


@dataclass(frozen=True)
class JournalFault:
    """A line that is not as it was written."""

    number: int
    message: str


@dataclass(frozen=True)
class JournalKey:
    """A key that signs a part of a journal."""

    first: int
    """Number of the first line that it signs."""
    public_pem: bytes
    endorsed: bool
    """Whether the key before it signed its introduction. The first key of a journal needs no endorsement."""

    @property
    def key_id(self) -> str:
        return key_id_of(self.public_pem)


@dataclass(frozen=True)
class JournalContent:
    """A journal, read and verified. `entries` ends before the first fault."""

    entries: list[Entry] = field(default_factory=list)
    keys: list[JournalKey] = field(default_factory=list)
    faults: list[JournalFault] = field(default_factory=list)


def read_journal(root: Path) -> JournalContent:
    """Read and verify the journal of the store `root`: signatures, numbers, and each line's hash of the one before."""
    path = root / FILE_NAME
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return read_lines(lines)


def read_lines(lines: list[bytes]) -> JournalContent:
    """Read and verify the lines of a journal, from its first one."""
    content = JournalContent()
    previous: str | None = None
    for number, line in enumerate(lines, start=1):
        try:
            entry = _verified(number, line, content.keys)
        except BadSignature as fault:
            content.faults.append(JournalFault(number, str(fault)))
            return content
        if entry.number != number or entry.previous != previous:
            content.faults.append(JournalFault(number, "does not follow the line before it"))
            return content
        content.entries.append(entry)
        previous = entry.sha256
    return content


def _verified(number: int, line: bytes, keys: list[JournalKey]) -> Entry:
    """Return the entry in a line, and add the key that it introduces. BadSignature if no known key signed it."""
    claimed = parse_line(line, unverified_statement(line))
    introduced = str(claimed.details.get("public_key")).encode() if claimed.change in KEY_CHANGES else None
    if introduced is None:
        if not keys:
            raise BadSignature("does not introduce a key")
        return parse_line(line, verify(line, keys[-1].public_pem))
    try:
        entry = parse_line(line, verify(line, keys[-1].public_pem if keys else introduced))
        endorsed = True
    except BadSignature:
        entry, endorsed = parse_line(line, verify(line, introduced)), False
    keys.append(JournalKey(number if not endorsed or number == 1 else number + 1, introduced, endorsed))
    return entry


def unverified_statement(line: bytes) -> dict[str, Any]:
    """Return the statement in a line, without checking its signature. BadSignature if it is none."""
    try:
        payload = parse_checked(line, dict[str, Any])["payload"]
        statement: dict[str, Any] = parse_checked(base64.b64decode(payload), _Statement)
        return statement
    except (ValueError, KeyError, TypeError) as error:
        raise BadSignature("is no signed envelope") from error


def parse_line(line: bytes, statement: dict[str, Any]) -> Entry:
    """Return the entry of a line and its statement. BadSignature if it is not one of a store."""
    try:
        predicate = statement["predicate"]
        files = {str(subject["name"]): str(subject["digest"]["sha256"]) for subject in statement["subject"]}
        time, previous = str(predicate["time"]), predicate["previous"]
        if datetime.fromisoformat(time).tzinfo is None or not isinstance(previous, str | None):
            raise ValueError("no time zone, or no hash")
        return Entry(
            int(predicate["sequence"]),
            time,
            str(predicate["by"]),
            str(predicate["change"]),
            files,
            dict(predicate["details"]),
            previous,
            sha256_of_line(line),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSignature("is no change of a store") from error


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a path in a store matches a pattern, part by part: `*` never matches a `/`, or `..`."""
    parts = name.split("/")
    return not {"", ".", ".."} & set(parts) and any(
        len(parts) == pattern.count("/") + 1 and all(map(fnmatchcase, parts, pattern.split("/")))
        for pattern in patterns
    )


def sha256_of_line(line: bytes) -> str:
    """Return the hash by which the next line refers to this one."""
    return hashlib.sha256(line).hexdigest()

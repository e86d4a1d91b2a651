"""The types of what an audit reads of the manifests of some kinds of artifacts, beyond those of any manifest."""

from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.store.checked_json import Digest, Number


@dataclass(frozen=True)
class _RawFile:
    name: str
    sha256: Digest | None = None
    bytes: Number = 0
    sidecar: Digest | None = None


@dataclass(frozen=True)
class _Listing:
    files: list[_RawFile] = field(default_factory=list)


@dataclass(frozen=True)
class _SnapshotSpec:
    config: _Listing = _Listing()


@dataclass(frozen=True)
class _Snapshot:
    spec: _SnapshotSpec = _SnapshotSpec()


@dataclass(frozen=True)
class _Record:
    sequence: Number


@dataclass(frozen=True)
class _Released:
    champion: _Record | None = None


@dataclass(frozen=True)
class _Champion:
    summary: _Released = _Released()


@dataclass(frozen=True)
class _Entry:
    entry: Number = 0


@dataclass(frozen=True)
class _Decided:
    exposure: _Entry = _Entry()


@dataclass(frozen=True)
class _Decision:
    summary: _Decided = _Decided()


@dataclass(frozen=True)
class _RatingsConfig:
    records: Number = 0


@dataclass(frozen=True)
class _RatingsSpec:
    config: _RatingsConfig = _RatingsConfig()


@dataclass(frozen=True)
class _Ratings:
    spec: _RatingsSpec = _RatingsSpec()


@dataclass(frozen=True)
class _Teacher:
    teacher: dict[str, Any] | None = None


@dataclass(frozen=True)
class _DistilledSpec:
    config: _Teacher = _Teacher()


@dataclass(frozen=True)
class _Distilled:
    spec: _DistilledSpec = _DistilledSpec()


_SHAPES = {"champion": _Champion, "decision": _Decision, "ratings": _Ratings, "distilled": _Distilled}


def shape_of(kind: str) -> Any:
    """Return the type of the manifests of a kind (checked_json.py)."""
    return _Snapshot if kind.startswith("raw_") else _SHAPES.get(kind, dict[str, Any])

"""The types of what an audit reads of the manifests of some kinds of artifacts, beyond those of any manifest."""

from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.store.checked_json import Digest, Number
from ft_pipeline.store.manifest import ManifestShape, SpecShape


@dataclass(frozen=True)
class _RawFile:
    name: str
    sha256: Digest | None = None
    bytes: Number = 0
    sidecar: Digest | None = None


@dataclass(frozen=True)
class _Config:
    files: list[_RawFile] = field(default_factory=list)
    records: Number = 0
    teacher: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Spec(SpecShape):
    config: _Config = _Config()  # type: ignore[assignment]


@dataclass(frozen=True)
class _OfConfig(ManifestShape):
    """A snapshot, the verdicts of people or distilled rows. Each has one of the keys."""

    spec: _Spec = _Spec()


@dataclass(frozen=True)
class _Record:
    sequence: Number


@dataclass(frozen=True)
class _Entry:
    entry: Number = 0


@dataclass(frozen=True)
class _Summary:
    champion: _Record | None = None
    exposure: _Entry = _Entry()


@dataclass(frozen=True)
class _OfSummary(ManifestShape):
    """A champion or a decision. Each has one of the keys."""

    summary: _Summary = _Summary()  # type: ignore[assignment]


_SHAPES = {"ratings": _OfConfig, "distilled": _OfConfig, "champion": _OfSummary, "decision": _OfSummary}


def shape_of(kind: str) -> type[ManifestShape]:
    """Return the types of the manifests of a kind."""
    return _OfConfig if kind.startswith("raw_") else _SHAPES.get(kind, ManifestShape)

"""manifest.json: an artifact's content, inputs, user and tools. Hashes link it to the manifests of its inputs."""

from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ft_pipeline.store.checked_json import Digest, KindName, Number, read_checked
from ft_pipeline.store.hashing import canonical_json, sha256_of_file, sha256_of_json
from ft_pipeline.store.pickles import begins_like_a_pickle, named_like_a_pickle

MANIFEST_NAME = "manifest.json"
WEIGHT_KINDS = frozenset({"base_model", "adapter", "merged_model", "gguf"})
"""Kinds whose files are weights. They contain no row as text, so that no redaction may change them."""
VOLATILE_FILES = ("metrics.jsonl", "scores.json", "*.log")
"""Patterns of files that contain times or speeds. Their hashes are in the manifest, but not part of the identity."""


class BrokenArtifact(Exception):
    """A folder of the store does not match its manifest. The message says where."""


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact."""

    path: str
    """Relative to the artifact's folder, with `/`."""
    sha256: str
    bytes: Number
    volatile: bool = False
    """Whether its name matches VOLATILE_FILES."""
    rows_sha256: str | None = None
    """For Parquet: the hash of its canonical rows, which replaces `sha256` in the identity."""

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"path": self.path, "sha256": self.sha256, "bytes": self.bytes}
        entry["volatile"] = self.volatile
        return entry | ({"rows_sha256": self.rows_sha256} if self.rows_sha256 else {})


@dataclass(frozen=True)
class _Reference:
    kind: KindName
    fingerprint: Digest


@dataclass(frozen=True)
class SpecShape:
    """The types of what is read of any spec."""

    inputs: dict[str, _Reference] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    experiment: str | None = None


@dataclass(frozen=True)
class _Code:
    commit: str | None = None


@dataclass(frozen=True)
class _RedactedFile:
    sha256: str
    bytes: Number
    before: str | None = None


@dataclass(frozen=True)
class _Redaction:
    number: Number
    when: str
    by: str
    manifest_sha256: str
    files: dict[str, _RedactedFile]


@dataclass(frozen=True)
class ManifestShape:
    """The types of what is read of any manifest."""

    fingerprint: Digest
    kind: KindName
    spec: SpecShape = SpecShape()
    files: list[FileEntry] = field(default_factory=list)
    redactions: list[_Redaction] = field(default_factory=list)
    input_manifests: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    run: _Run = _Run()
    code: _Code | None = None
    created: str = ""
    sequence: Number = 0


def describe_files(folder: Path) -> list[FileEntry]:
    """Return every file below `folder`, hashed, sorted by path. BrokenArtifact for links, special files and pickles."""
    entries = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise BrokenArtifact(f"{relative} is a link or a special file; an artifact contains only regular files")
        if path.is_file() and (named_like_a_pickle(path.name) or begins_like_a_pickle(path)):
            raise BrokenArtifact(f"{relative} is a pickle, which could run code when it is loaded")
        if path.is_file() and relative != MANIFEST_NAME:
            entries.append(_describe_file(path, relative))
    return entries


def _describe_file(path: Path, relative: str) -> FileEntry:
    volatile = any(fnmatch(path.name, pattern) for pattern in VOLATILE_FILES)
    from ft_pipeline.store.row_hash import sha256_of_rows  # pyarrow is slow to import, and `ft status` reads manifests

    rows_sha256 = sha256_of_rows(path) if path.suffix == ".parquet" and not volatile else None
    return FileEntry(relative, sha256_of_file(path), path.stat().st_size, volatile, rows_sha256)


def fingerprint_of(kind: str, files: list[FileEntry]) -> str:
    """Return the identity of an artifact: the hash of its kind and content, without logs and times."""
    content = {entry.path: entry.rows_sha256 or entry.sha256 for entry in files if not entry.volatile}
    return sha256_of_json({"kind": kind, "content": content})


def expected_files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of an artifact's files as they should be now: redacted files have their new hash and size."""
    redacted: dict[str, dict[str, Any]] = {}
    for redaction in manifest.get("redactions", ()):
        for path, change in redaction["files"].items():
            redacted[path] = {"sha256": change["sha256"], "bytes": change["bytes"]}
    return [entry | redacted.get(entry["path"], {}) for entry in manifest["files"]]


def manifest_hashes(manifest: dict[str, Any], current: str | None) -> set[str]:
    """Return the hashes by which later manifests may refer to this one: `current`, and those before each redaction."""
    earlier = {redaction["manifest_sha256"] for redaction in manifest.get("redactions", ())}
    return earlier | ({current} if current else set())


def sealed_manifest(manifest: dict[str, Any]) -> bytes:
    """Return the bytes of manifest.json: the manifest and its seal, a hash that no longer matches after an edit."""
    seal = _seal_of(manifest)
    return canonical_json(manifest | {"seal": seal}) + b"\n"


def _seal_of(manifest: dict[str, Any]) -> str:
    return sha256_of_json({key: value for key, value in manifest.items() if key != "seal"})


def read_manifest(folder: Path, shape: type[ManifestShape] = ManifestShape) -> dict[str, Any]:
    """Return the manifest of an artifact's folder. BrokenArtifact if it is inconsistent. Its files are not read.

    shape: the types that it must have (checked_json.py).
    """
    try:
        manifest: dict[str, Any] = read_checked(folder / MANIFEST_NAME, shape)
        files = [FileEntry(**entry) for entry in manifest["files"]]
        if manifest["seal"] != _seal_of(manifest):
            raise BrokenArtifact(f"{MANIFEST_NAME} was edited: its seal does not match")
        if manifest["fingerprint"] != fingerprint_of(manifest["kind"], files):
            raise BrokenArtifact(f"{MANIFEST_NAME}: the fingerprint does not match the listed files")
        if manifest["spec_hash"] != sha256_of_json(manifest["spec"]):
            raise BrokenArtifact(f"{MANIFEST_NAME}: the spec hash does not match the spec")
        if manifest["kind"] in WEIGHT_KINDS and any(entry["files"] for entry in manifest.get("redactions", ())):
            raise BrokenArtifact(f"{MANIFEST_NAME} declares a redaction of weights, which no redaction may change")
    except FileNotFoundError:
        raise BrokenArtifact(f"it has no {MANIFEST_NAME}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenArtifact(f"{MANIFEST_NAME} cannot be read: {type(error).__name__}") from error
    return manifest

"""manifest.json: an artifact's content, inputs, user and tools. Hashes link it to the manifests of its inputs."""

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ft_pipeline.store.hashing import canonical_json, sha256_of_file, sha256_of_json, sha256_of_rows
from ft_pipeline.store.pickles import begins_like_a_pickle, named_like_a_pickle

NAME = "manifest.json"
VOLATILE = ("metrics.jsonl", "scores.json", "*.log")
"""Files that contain times or speeds. They are in the manifest with their hash, but not part of the identity."""


class BrokenArtifact(Exception):
    """A folder of the store does not match its manifest. The message says where."""


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact."""

    path: str
    """Relative to the artifact's folder, with `/`."""
    sha256: str
    bytes: int
    volatile: bool = False
    rows_sha256: str | None = None
    """For Parquet: the hash of its canonical rows, which replaces `sha256` in the identity."""

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"path": self.path, "sha256": self.sha256, "bytes": self.bytes}
        entry["volatile"] = self.volatile
        return entry | ({"rows_sha256": self.rows_sha256} if self.rows_sha256 else {})


def describe_files(folder: Path) -> list[FileEntry]:
    """Return every file below `folder`, hashed, sorted by path. BrokenArtifact for links, special files and pickles."""
    entries = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise BrokenArtifact(f"{relative} is a link or a special file; an artifact contains only regular files")
        if path.is_file() and (named_like_a_pickle(path.name) or begins_like_a_pickle(path)):
            raise BrokenArtifact(f"{relative} is a pickle, which could run code when it is loaded")
        if path.is_file() and relative != NAME:
            entries.append(_describe_file(path, relative))
    return entries


def _describe_file(path: Path, relative: str) -> FileEntry:
    volatile = any(fnmatch(path.name, pattern) for pattern in VOLATILE)
    rows = sha256_of_rows(path) if path.suffix == ".parquet" and not volatile else None
    return FileEntry(relative, sha256_of_file(path), path.stat().st_size, volatile, rows)


def fingerprint_of(kind: str, files: list[FileEntry]) -> str:
    """Return the identity of an artifact: the hash of its kind and content, without logs and times."""
    content = {entry.path: entry.rows_sha256 or entry.sha256 for entry in files if not entry.volatile}
    return sha256_of_json({"kind": kind, "content": content})


def present_files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the files of an artifact as they should be now. Redacted files have their new hash."""
    redacted = {
        path: entry for redaction in manifest.get("redactions", ()) for path, entry in redaction["files"].items()
    }
    return [entry | redacted.get(entry["path"], {}) for entry in manifest["files"]]


def manifest_hashes(manifest: dict[str, Any], own: str | None) -> set[str]:
    """Return the hashes by which later manifests may refer to this one: `own`, and those before each redaction."""
    earlier = {redaction["manifest_sha256"] for redaction in manifest.get("redactions", ())}
    return earlier | ({own} if own else set())


def write_seal(manifest: dict[str, Any]) -> bytes:
    """Return the bytes of manifest.json: the manifest plus a hash of itself, which a careless edit breaks."""
    body = {key: value for key, value in manifest.items() if key != "seal"}
    return canonical_json(body | {"seal": sha256_of_json(body)}) + b"\n"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an artifact's folder. BrokenArtifact if it is inconsistent. Its files are not read."""
    try:
        manifest = json.loads((folder / NAME).read_bytes())
        files = [FileEntry(**entry) for entry in manifest["files"]]
        body = {key: value for key, value in manifest.items() if key != "seal"}
        if manifest["seal"] != sha256_of_json(body):
            raise BrokenArtifact(f"{NAME} was edited: its seal does not match")
        if manifest["fingerprint"] != fingerprint_of(manifest["kind"], files):
            raise BrokenArtifact(f"{NAME}: the fingerprint does not match the listed files")
        if manifest["spec_hash"] != sha256_of_json(manifest["spec"]):
            raise BrokenArtifact(f"{NAME}: the spec hash does not match the spec")
    except FileNotFoundError:
        raise BrokenArtifact(f"it has no {NAME}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenArtifact(f"{NAME} cannot be read: {type(error).__name__}") from error
    return manifest

"""What nothing in the store leads to any more: found, and removed, with a line in removed.jsonl for each artifact."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.store.blobs import INCOMING
from ft_pipeline.store.locks import FileLock

LOG = "removed.jsonl"
"""Append-only: what was removed, so that an audit can tell that from tampering."""

Reference = tuple[str, str]
"""(kind, fingerprint)."""


@dataclass(frozen=True)
class Garbage:
    """What can go."""

    artifacts: list[Artifact] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    """Drafts that a killed process left, and checkpoints of trainings that nobody went on with."""
    blobs: list[Path] = field(default_factory=list)
    """Copies of raw files that no snapshot holds any more, or that were never finished."""
    bytes: int = 0
    """All of it, on the disk."""

    def to_json(self) -> dict[str, object]:
        return {
            "artifacts": [{"kind": each.kind, "fingerprint": each.fingerprint} for each in self.artifacts],
            "folders": [str(path) for path in self.folders],
            "blobs": len(self.blobs),
            "bytes": self.bytes,
        }


def find_garbage(store: ArtifactStore, roots: Iterable[Reference], before: datetime) -> Garbage:
    """All older than `before` (UTC) that neither a root nor anything younger was made from.

    Damaged artifacts are left where they are: they are evidence.
    """
    everything = store.all()
    young = [each.reference for each in everything if datetime.fromisoformat(each.manifest["created"]) >= before]
    needed = _closure(everything, {*roots, *young})
    artifacts = [each for each in everything if each.reference not in needed]
    folders = [*_drafts(store, before), *_work(store, before)]
    blobs = _blobs(store, [each for each in everything if each.reference in needed], before)
    size = sum(map(_size, [each.path for each in artifacts] + folders + blobs))
    return Garbage(artifacts, folders, blobs, size)


def remove(store: ArtifactStore, garbage: Garbage) -> None:
    """Remove it, artifacts last made first, so that a cut leaves no artifact whose inputs are gone. UserError if the
    store cannot be written."""
    with translate_write_errors():
        for artifact in sorted(garbage.artifacts, key=lambda each: each.manifest["created"], reverse=True):
            entry = {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "kind": artifact.kind,
                "fingerprint": artifact.fingerprint,
                "manifest_sha256": artifact.manifest_sha256,
                "created": artifact.manifest["created"],
            }
            with (store.root / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
            _remove_folder(artifact.path)
        for folder in garbage.folders:
            _remove_folder(folder)
        for blob in garbage.blobs:
            blob.unlink(missing_ok=True)


def removed(root: Path) -> set[Reference]:
    """What `remove` ever removed from the store at `root`."""
    try:
        lines = (root / LOG).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    return {(entry["kind"], entry["fingerprint"]) for entry in map(json.loads, lines)}


def _closure(everything: list[Artifact], roots: set[Reference]) -> set[Reference]:
    """The roots and all that they were made from, at whatever distance."""
    inputs: dict[Reference, set[Reference]] = {}
    for artifact in everything:
        inputs.setdefault(artifact.reference, set()).update(artifact.inputs.values())
    found: set[Reference] = set()
    waiting = list(roots)
    while waiting:
        reference = waiting.pop()
        if reference not in found:
            found.add(reference)
            waiting += inputs.get(reference, ())
    return found


def _drafts(store: ArtifactStore, before: datetime) -> list[Path]:
    """One that is being filled is younger, or its spec's lock is held."""
    return [path for path in _older(store.root / "drafts", "*", before) if not _locked(store, path.name[:-9])]


def _work(store: ArtifactStore, before: datetime) -> list[Path]:
    old = _older(store.root / "work", "*/*", before)
    return [path for path in old if not _locked(store, f"{path.parent.name}-{path.name}")]


def _locked(store: ArtifactStore, name: str) -> bool:
    lock = FileLock(store.root / "locks" / name, "looking for garbage")
    if not lock.path.exists():
        return False
    if not lock.try_acquire():
        return True
    lock.release()
    return False


def _older(folder: Path, pattern: str, before: datetime) -> list[Path]:
    """Folders in which nothing was written since."""
    return [
        path
        for path in sorted(folder.glob(pattern))
        if path.is_dir() and max(map(_written, [path, *path.rglob("*")])) < before.timestamp()
    ]


def _written(path: Path) -> float:
    """When, in seconds since 1970. What goes while it is looked at (a dry run looks beside a run) was written now."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()


def _blobs(store: ArtifactStore, kept: list[Artifact], before: datetime) -> list[Path]:
    used: set[str] = set()
    for artifact in kept:
        for entry in artifact.spec["config"].get("files", []) if artifact.kind.startswith("raw_") else []:
            used |= {value for value in (entry.get("sha256"), entry.get("sidecar")) if value}
    unfinished = (store.root / "blobs").glob(f"{INCOMING}*")  # of a process that was killed
    kept_bytes = (store.root / "blobs").glob("*/*")
    return [
        path
        for path in sorted([*unfinished, *kept_bytes])
        if path.name.split(".")[0] not in used and _written(path) < before.timestamp()
    ]


def _size(path: Path) -> int:
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    size = 0
    for each in files:
        with contextlib.suppress(FileNotFoundError):
            size += each.lstat().st_size
    return size


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    parent = folder.parent
    if not any(parent.iterdir()):
        parent.rmdir()

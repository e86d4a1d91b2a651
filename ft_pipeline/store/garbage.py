"""Find and remove what is unreachable in the store, with a line in removed.jsonl for each artifact."""

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
"""Append-only list of removed artifacts, so that an audit can distinguish removal from tampering."""

Reference = tuple[str, str]
"""(kind, fingerprint)."""


@dataclass(frozen=True)
class Garbage:
    """What can be removed."""

    artifacts: list[Artifact] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    """Drafts of killed processes, and checkpoints of trainings that were never resumed."""
    blobs: list[Path] = field(default_factory=list)
    """Copies of raw files that are no longer in a snapshot, or that were never finished."""
    bytes: int = 0
    """Total size on disk."""

    def to_json(self) -> dict[str, object]:
        return {
            "artifacts": [{"kind": artifact.kind, "fingerprint": artifact.fingerprint} for artifact in self.artifacts],
            "folders": [str(path) for path in self.folders],
            "blobs": len(self.blobs),
            "bytes": self.bytes,
        }


def find_garbage(store: ArtifactStore, roots: Iterable[Reference], before: datetime) -> Garbage:
    """Return everything older than `before` (UTC) that neither a root nor anything younger was built from.

    Damaged artifacts stay where they are, because they are evidence.
    """
    everything = store.all()
    young = [
        artifact.reference for artifact in everything if datetime.fromisoformat(artifact.manifest["created"]) >= before
    ]
    needed = _closure(everything, {*roots, *young})
    artifacts = [artifact for artifact in everything if artifact.reference not in needed]
    folders = [*_drafts(store, before), *_work(store, before)]
    blobs = _blobs(store, [artifact for artifact in everything if artifact.reference in needed], before)
    size = sum(map(_size, [artifact.path for artifact in artifacts] + folders + blobs))
    return Garbage(artifacts, folders, blobs, size)


def remove(store: ArtifactStore, garbage: Garbage) -> None:
    """Remove the garbage. UserError if the store cannot be written.

    The newest artifacts are removed first, so that an interruption leaves no artifact without its inputs.
    """
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
    """Return all artifacts that `remove` has removed from the store at `root`."""
    try:
        lines = (root / LOG).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    return {(entry["kind"], entry["fingerprint"]) for entry in map(json.loads, lines)}


def _closure(everything: list[Artifact], roots: set[Reference]) -> set[Reference]:
    """Return the roots and everything that they were built from, directly or indirectly."""
    inputs: dict[Reference, set[Reference]] = {}
    for artifact in everything:
        inputs.setdefault(artifact.reference, set()).update(artifact.inputs.values())
    reached: set[Reference] = set()
    waiting = list(roots)
    while waiting:
        reference = waiting.pop()
        if reference not in reached:
            reached.add(reference)
            waiting += inputs.get(reference, ())
    return reached


def _drafts(store: ArtifactStore, before: datetime) -> list[Path]:
    """Return abandoned drafts. A draft in use is younger, or its spec's lock is held."""
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
    """Return the folders in which nothing was written since `before`."""
    return [
        path
        for path in sorted(folder.glob(pattern))
        if path.is_dir() and max(map(_written, [path, *path.rglob("*")])) < before.timestamp()
    ]


def _written(path: Path) -> float:
    """Return the time of the last write, in seconds since 1970.

    It is the present time for a file that disappears meanwhile, because a dry run may overlap with a run.
    """
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
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    size = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            size += file.lstat().st_size
    return size


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    parent = folder.parent
    if not any(parent.iterdir()):
        parent.rmdir()

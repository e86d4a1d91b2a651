"""Find and remove what is unreachable in the store, with a line in removed.jsonl for each artifact."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_pipeline.store import journal, journal_lines
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.store.blobs import INCOMING_PREFIX
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.manifest import MANIFEST_NAME
from ft_pipeline.store.removals import LOG_NAME
from ft_pipeline.store.spec import ArtifactReference


@dataclass(frozen=True)
class Garbage:
    """What can be removed."""

    artifacts: list[Artifact] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    """Drafts of killed processes, and checkpoints of steps that were never resumed."""
    blobs: list[Path] = field(default_factory=list)
    """Files of blobs that are no longer in a snapshot, or that were never finished."""
    bytes: int = 0
    """Total size on disk."""

    def to_json(self) -> dict[str, object]:
        return {
            "artifacts": [{"kind": artifact.kind, "fingerprint": artifact.fingerprint} for artifact in self.artifacts],
            "folders": [str(path) for path in self.folders],
            "blobs": len(self.blobs),
            "bytes": self.bytes,
        }


def find_garbage(store: ArtifactStore, roots: Iterable[ArtifactReference], before: datetime) -> Garbage:
    """Return what is older than `before` (UTC) and not needed by anything that is kept.

    Kept artifacts are the roots, the artifacts that are not older, and everything that these were built from. An
    artifact whose manifest is damaged is kept too, as evidence, but nothing is kept for it.
    """
    artifacts = store.all()
    recent = {artifact.reference for artifact in artifacts if _created(artifact) >= before}
    kept = _with_inputs({*roots, *recent}, artifacts)
    unreachable = [artifact for artifact in artifacts if artifact.reference not in kept]
    folders = [*_abandoned_drafts(store, before), *_abandoned_work(store, before)]
    blobs = _unused_blob_files(store, [artifact for artifact in artifacts if artifact.reference in kept], before)
    size = sum(map(_size_on_disk, [artifact.path for artifact in unreachable] + folders + blobs))
    return Garbage(unreachable, folders, blobs, size)


def remove_garbage(store: ArtifactStore, garbage: Garbage) -> None:
    """Remove the garbage. UserError if the store cannot be written.

    The newest artifacts are removed first, so that an interruption leaves no artifact without its inputs. Each removal
    is logged before it begins, so that no artifact disappears without a line in the log.
    """
    with translate_write_errors():
        for artifact in sorted(garbage.artifacts, key=lambda artifact: artifact.manifest["created"], reverse=True):
            with journal.changing(store.root) as sign:
                manifest = (artifact.path / MANIFEST_NAME).relative_to(store.root).as_posix()
                details = {"kind": artifact.kind, "fingerprint": artifact.fingerprint}
                sign(journal_lines.REMOVAL, {manifest: artifact.manifest_sha256}, details)
                _log_removal(store.root / LOG_NAME, artifact)
                _remove_folder(artifact.path)
        for folder in garbage.folders:
            _remove_folder(folder)
        for blob in garbage.blobs:
            _remove_blob(store.root, blob)


def _log_removal(path: Path, artifact: Artifact) -> None:
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": artifact.kind,
        "fingerprint": artifact.fingerprint,
        "manifest_sha256": artifact.manifest_sha256,
        "created": artifact.manifest["created"],
    }
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")


def _created(artifact: Artifact) -> datetime:
    return datetime.fromisoformat(artifact.manifest["created"])


def _with_inputs(roots: set[ArtifactReference], artifacts: list[Artifact]) -> set[ArtifactReference]:
    """Return the roots and everything that they were built from, directly or indirectly."""
    inputs: dict[ArtifactReference, set[ArtifactReference]] = {}
    for artifact in artifacts:
        inputs.setdefault(artifact.reference, set()).update(artifact.inputs.values())
    reached: set[ArtifactReference] = set()
    waiting = list(roots)
    while waiting:
        reference = waiting.pop()
        if reference not in reached:
            reached.add(reference)
            waiting += inputs.get(reference, ())
    return reached


def _abandoned_drafts(store: ArtifactStore, before: datetime) -> list[Path]:
    """Return old drafts that no process is building.

    The name of a draft is the name of its spec's lock and a random suffix: `adapter-1f0c…-k3x_81ab`.
    """
    drafts = _folders_written_before(before, store.root / "drafts", "*")
    return [draft for draft in drafts if not _is_locked(store, draft.name.rsplit("-", 1)[0])]


def _abandoned_work(store: ArtifactStore, before: datetime) -> list[Path]:
    """Return old folders work/<kind>/<spec hash> that no process is using."""
    folders = _folders_written_before(before, store.root / "work", "*/*")
    return [folder for folder in folders if not _is_locked(store, f"{folder.parent.name}-{folder.name}")]


def _is_locked(store: ArtifactStore, name: str) -> bool:
    lock = FileLock(store.root / "locks" / name, "looking for garbage")
    if not lock.path.exists():
        return False
    if not lock.try_acquire():
        return True
    lock.release()
    return False


def _folders_written_before(before: datetime, parent: Path, pattern: str) -> list[Path]:
    """Return the folders in which nothing was written since `before`."""
    return [
        folder
        for folder in sorted(parent.glob(pattern))
        if folder.is_dir() and max(map(_last_write, [folder, *folder.rglob("*")])) < before.timestamp()
    ]


def _last_write(path: Path) -> float:
    """Return the time of the last write, in seconds since 1970.

    For a file that has just disappeared, it is the present time: a dry run may overlap with a run.
    """
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()


def _unused_blob_files(store: ArtifactStore, kept: list[Artifact], before: datetime) -> list[Path]:
    """Return old files of blobs that no kept snapshot contains, and old copies that a killed process left."""
    used = {sha256 for artifact in kept for sha256 in snapshot_blobs(artifact.manifest)}
    folder = store.root / "blobs"
    files = sorted([*folder.glob(f"{INCOMING_PREFIX}*"), *folder.glob("*/*")])
    # The names begin with the SHA-256: ab12….zst, ab12….reference.json, ab12….redacted.json, ab12….zst.damaged.
    return [file for file in files if file.name.split(".")[0] not in used and _last_write(file) < before.timestamp()]


def snapshot_blobs(manifest: dict[str, Any]) -> set[str]:
    """Return the SHA-256 of every raw file and sidecar in a snapshot; none for any other artifact."""
    if not manifest["kind"].startswith("raw_"):
        return set()
    files = manifest["spec"]["config"].get("files", [])
    return {sha256 for entry in files for sha256 in (entry.get("sha256"), entry.get("sidecar")) if sha256}


def _size_on_disk(path: Path) -> int:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    size = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            size += file.lstat().st_size
    return size


def _remove_blob(root: Path, path: Path) -> None:
    """Remove a file of a blob. The journal covers the notes of redactions only."""
    if path.name.endswith(".redacted.json"):
        journal.remove_signed(root, path)
    else:
        path.unlink(missing_ok=True)


def _remove_folder(folder: Path) -> None:
    """Remove a folder, and its parent if that is then empty."""
    shutil.rmtree(folder)
    parent = folder.parent
    if not any(parent.iterdir()):
        parent.rmdir()

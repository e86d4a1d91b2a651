"""Pointers to the latest artifact of each asset. They outlive Dagster's database."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_pipeline.store import journal, journal_lines
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.store.checked_json import Digest, KindName, read_checked
from ft_pipeline.store.locks import FileLock


@dataclass(frozen=True)
class Pointer:
    """The current artifact of an asset, or of one partition (experiment) of it."""

    asset: str
    partition: str | None
    kind: KindName
    fingerprint: Digest
    manifest_sha256: str
    """Protects the last manifest of each chain, whose hash is not yet in a later manifest."""
    when: str
    """When the asset was materialized: UTC, ISO 8601."""


class AssetPointers:
    """The pointers of a store: current/<asset>[@partition].json, replaced whole at each materialization."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "current"

    def write(self, asset: str, partition: str | None, artifact: Artifact) -> Pointer:
        """Point the asset at `artifact` and return the pointer."""
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        pointer = Pointer(asset, partition, artifact.kind, artifact.fingerprint, artifact.manifest_sha256, when)
        path, content = self._path(asset, partition), json.dumps(asdict(pointer), indent=1).encode()
        with translate_write_errors():
            journal.write_signed(self.root, journal_lines.POINTER, path, content)
        return pointer

    def lock(self, asset: str, partition: str | None) -> FileLock:
        """Return the lock to hold while it is decided whether a pointer is replaced."""
        name = f"current-{self._path(asset, partition).stem}"
        return FileLock(self.root / "locks" / name, f"replacing the current {asset}")

    def remove(self, asset: str, partition: str | None) -> None:
        """Remove the pointer of an asset, if there is one."""
        journal.remove_signed(self.root, self._path(asset, partition))

    def read(self, asset: str, partition: str | None = None) -> Pointer | None:
        """Return the pointer of an asset; None if there is none, or if it cannot be read."""
        return _read(self._path(asset, partition))

    def all(self) -> list[Pointer]:
        """Return every readable pointer, sorted by asset and partition."""
        pointers = [pointer for path in sorted(self.folder.glob("*.json")) if (pointer := _read(path))]
        return sorted(pointers, key=lambda pointer: (pointer.asset, pointer.partition or ""))

    def _path(self, asset: str, partition: str | None) -> Path:
        return self.folder / (f"{asset}@{partition}.json" if partition else f"{asset}.json")


def current_artifact(store: ArtifactStore, asset: str, partition: str | None = None) -> Artifact | None:
    """Return the current artifact of an asset, or of one partition of it; None if there is none, or it is damaged."""
    pointer = AssetPointers(store.root).read(asset, partition)
    return store.open(pointer.kind, pointer.fingerprint) if pointer else None


def current_document(root: Path, asset: str) -> Any:
    """Return the content of ASSET.json in the current artifact of an unpartitioned asset; None if there is none."""
    artifact = current_artifact(ArtifactStore(root), asset)
    return artifact.document(f"{asset}.json") if artifact else None


def _read(path: Path) -> Pointer | None:
    try:
        return Pointer(**read_checked(path, Pointer))
    except (OSError, ValueError, TypeError):
        return None

"""A format folder as it is now, kept by content: what was read stays readable after the user edits or removes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.spec import Spec

LISTING = "files.json"
SIDECAR = ".yaml"

FileError = tuple[str, str]
"""A file code of formats.md, and a sentence that shows nothing from elsewhere."""


@dataclass(frozen=True)
class SnapshotFile:
    """One file of the folder, or why it could not be taken."""

    name: str
    """Relative to the format folder, with `/`."""
    sha256: str | None = None
    bytes: int = 0
    sidecar: str | None = None
    """SHA-256 of the column mapping beside it."""
    error_code: str | None = None
    """A file code of formats.md: path_outside_data_dir, not_found, not_a_file, not_utf8 (its name)."""
    error_message: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class LocalCopy:
    """An entry with plain files to read, made when they are first asked for; UserError if bytes are gone or damaged."""

    entry: SnapshotFile
    blobs: BlobStore
    into: Path

    @cached_property
    def path(self) -> Path | None:
        """The file itself; None where the entry has an error."""
        if self.entry.sha256 is None:
            return None
        # The user's own name stays, since its ending matters; the folder keeps it apart and inside.
        return self.blobs.checkout(self.entry.sha256, self.into / PurePosixPath(self.entry.name).name)

    @cached_property
    def sidecar_path(self) -> Path | None:
        """The column mapping beside it; None where there is none, or the entry has an error."""
        if self.entry.sha256 is None or self.entry.sidecar is None:
            return None
        stem = PurePosixPath(self.entry.name).stem
        return self.blobs.checkout(self.entry.sidecar, self.into / "sidecar" / f"{stem}{SIDECAR}")


@dataclass(frozen=True)
class Snapshot:
    """What a format folder held."""

    entries: list[SnapshotFile]
    unused_sidecars: list[str]
    """YAML files that stand beside no data file: most likely a slip in the name."""

    def to_json(self) -> dict[str, Any]:
        return {
            "files": [entry.to_json() for entry in self.entries],
            "unused_sidecars": self.unused_sidecars,
        }

    @property
    def data_version(self) -> str:
        """Hash of names, contents and sidecars; times and places do not count."""
        return sha256_of_json(self.to_json())

    def spec(self, data_format: str) -> Spec:
        """The spec of the artifact `raw_<format>`: the listing itself, so that the manifest alone names the bytes."""
        return Spec(f"raw_{data_format}", config={"format": data_format, **self.to_json()})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Snapshot":
        return cls([SnapshotFile(**entry) for entry in content["files"]], list(content["unused_sidecars"]))


def write_listing(snapshot: Snapshot, out: Path) -> dict[str, Any]:
    """Write a snapshot as an artifact's content; its summary.

    Give it `Snapshot.from_json(spec.config)`: the folder itself may have changed since the spec was made.
    """
    (out / LISTING).write_bytes(orjson.dumps(snapshot.to_json(), option=orjson.OPT_INDENT_2))
    return {
        "files": len(snapshot.entries),
        "bytes": sum(entry.bytes for entry in snapshot.entries),
        "refused": [entry.name for entry in snapshot.entries if entry.error_code],
        "unused_sidecars": snapshot.unused_sidecars,
    }


def read_listing(artifact: Artifact | Path) -> Snapshot:
    """The snapshot that an artifact (or its folder) holds."""
    folder = artifact if isinstance(artifact, Path) else artifact.path
    return Snapshot.from_json(orjson.loads((folder / LISTING).read_bytes()))


def checkout(snapshot: Snapshot, store: ArtifactStore, into: Path, blobs: BlobStore | None = None) -> list[LocalCopy]:
    """Plain files of a snapshot below `into`, in the folder's order; files kept by reference are named where they lie.

    Nothing is written until a file is asked for.
    """
    source = blobs or BlobStore(store.root)
    return [LocalCopy(entry, source, into / f"{number:06d}") for number, entry in enumerate(snapshot.entries)]


def printable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()

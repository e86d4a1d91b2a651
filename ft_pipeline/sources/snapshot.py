"""A snapshot of a format folder, stored by content: it stays readable after the user edits or removes the files."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from ft_pipeline.sources.file_names import stem_of
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.spec import Spec

LISTING_NAME = "files.json"
SIDECAR_SUFFIX = ".yaml"

FileError = tuple[str, str]
"""(reason code of a refused file, sentence that reveals nothing from outside the folder). The codes are in
docs/formats.md."""


@dataclass(frozen=True)
class SnapshotFile:
    """One file of the folder, or why it is refused."""

    name: str
    """Relative to the format folder, with `/`."""
    sha256: str | None = None
    bytes: int = 0
    sidecar: str | None = None
    """SHA-256 of its sidecar (column mapping)."""
    error_code: str | None = None
    """Reason code if the file is refused: path_outside_data_dir, not_found, not_a_file, not_utf8 (its name) or
    unknown_format (a sidecar's suffix)."""
    error_message: str | None = None
    source: str | None = None
    """Where a remote file comes from."""
    revision: str | None = None
    """The revision of the remote file: a version id, commit, ETag or time of the last change."""

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class LocalCopy:
    """A file of a snapshot and its sidecar as plain files, created on first access.

    Accessing one raises UserError if its bytes are missing or damaged.
    """

    entry: SnapshotFile
    blobs: BlobStore
    folder: Path
    """Where the files are created."""

    @cached_property
    def path(self) -> Path | None:
        """The file itself; None if the entry has an error."""
        return None if self.entry.sha256 is None else self.blobs.checkout(self.entry.sha256, self._target)

    @property
    def _target(self) -> Path:
        """Where the file is created. The user's file name stays, because its suffix matters."""
        return self.folder / PurePosixPath(self.entry.name).name

    def reading(self) -> AbstractContextManager[Path]:
        """Return a context with the file itself, for an entry without an error.

        It ends with UserError if the file is stored by reference, and someone changed it meanwhile.
        """
        assert self.entry.sha256 is not None
        return self.blobs.reading(self.entry.sha256, self._target)

    @cached_property
    def sidecar_path(self) -> Path | None:
        """The sidecar (column mapping); None if there is none, or if the entry has an error."""
        if self.entry.sha256 is None or self.entry.sidecar is None:
            return None
        stem = stem_of(PurePosixPath(self.entry.name).name)
        return self.blobs.checkout(self.entry.sidecar, self.folder / "sidecar" / f"{stem}{SIDECAR_SUFFIX}")


@dataclass(frozen=True)
class Snapshot:
    """The content of a format folder."""

    entries: list[SnapshotFile]
    unused_sidecars: list[str]
    """YAML files that match no data file: most likely a typo in the name."""

    def to_json(self) -> dict[str, Any]:
        return {
            "files": [entry.to_json() for entry in self.entries],
            "unused_sidecars": self.unused_sidecars,
        }

    @property
    def data_version(self) -> str:
        """Hash of names, contents, sidecars and errors, without times and locations."""
        return sha256_of_json(self.to_json())

    def spec(self, data_format: str) -> Spec:
        """Return the spec of `raw_<format>`. It lists the files, so that the manifest alone identifies the bytes."""
        return Spec(f"raw_{data_format}", config={"format": data_format, **self.to_json()})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Snapshot":
        return cls([SnapshotFile(**entry) for entry in content["files"]], list(content["unused_sidecars"]))


def write_listing(snapshot: Snapshot, out: Path) -> dict[str, Any]:
    """Write a snapshot as an artifact's content and return its summary.

    Pass `Snapshot.from_json(spec.config)`, because the folder may have changed since the spec was computed.
    """
    (out / LISTING_NAME).write_bytes(orjson.dumps(snapshot.to_json(), option=orjson.OPT_INDENT_2))
    return {
        "files": len(snapshot.entries),
        "bytes": sum(entry.bytes for entry in snapshot.entries),
        "refused": [entry.name for entry in snapshot.entries if entry.error_code],
        "unused_sidecars": snapshot.unused_sidecars,
    }


def read_listing(artifact: Artifact | Path) -> Snapshot:
    """Return the snapshot in an artifact (or in its folder)."""
    folder = artifact if isinstance(artifact, Path) else artifact.path
    return Snapshot.from_json(orjson.loads((folder / LISTING_NAME).read_bytes()))


def checkout(snapshot: Snapshot, store: ArtifactStore, into: Path, blobs: BlobStore | None = None) -> list[LocalCopy]:
    """Return the plain files of a snapshot below the folder `into`, in the snapshot's order.

    Files stored by reference keep their original path. A file is written only when it is accessed.
    """
    source = blobs or BlobStore(store.root)
    return [LocalCopy(entry, source, into / f"{position:06d}") for position, entry in enumerate(snapshot.entries)]


def printable(name: str) -> str:
    """Return a file's name as text. Bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()

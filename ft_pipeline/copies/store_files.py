"""The files of a store that a copy has: what is finished. Caches, locks, drafts, checkpoints and keys are left out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ft_pipeline.copies.transfer import LocalFile
from ft_pipeline.errors import UserError
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.garbage import snapshot_blobs
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.journal_lines import FILE_NAME, STATE, matches
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.manifest import BrokenArtifact, expected_files, read_manifest
from ft_pipeline.store.removals import LOG_NAME
from ft_pipeline.store.signing import PUBLIC_KEY_NAME
from ft_pipeline.tables.excluded_rows import FILE as EXCLUDED

MANIFESTS = STATE[0]
"""Pattern of the manifests of artifacts."""
ROWS_OF_TESTS = "exposures/rows/*.txt"
"""Pattern of the ids of test rows that the ledger of tests names."""
ROWS_OF_RATINGS = "ratings/rows/*.json"
"""Pattern of what verdicts say about rows."""
REPLACED = (*STATE[1:], ROWS_OF_TESTS, ROWS_OF_RATINGS, FILE_NAME, PUBLIC_KEY_NAME, LOG_NAME)
"""Patterns of small files that may be replaced or extended while they are copied."""
COPY_SUFFIX, RAW_SUFFIX = ".zst", ".raw"
"""Endings of a blob in a copy: the store's compressed file, or the bytes of a file that the store only refers to."""


@dataclass
class Listing:
    """The files of a store or a project at one moment."""

    files: dict[str, LocalFile] = field(default_factory=dict)
    """By the path in the store, or in the project."""
    notes: list[str] = field(default_factory=list)
    """What is not copied, although the store names it."""

    def add(self, name: str, content: bytes) -> None:
        """Add a small file as it is now."""
        self.files[name] = LocalFile(hashlib.sha256(content).hexdigest(), len(content), content)

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files.values())


def list_store(root: Path) -> Listing:
    """Return the finished files of the store `root`, and data/excluded.yaml, at one moment of its journal.

    The files of artifacts are listed with the hashes in their manifests. UserError if a manifest is damaged.
    """
    with journal_lock(root).hold():
        listing = list_records(root)
    blobs: set[str] = set()
    for name in [name for name in listing.files if matches(name, (MANIFESTS,))]:
        manifest = _manifest(root, (root / name).parent)
        for entry in expected_files(manifest):
            path = (root / name).parent / entry["path"]
            listing.files[path.relative_to(root).as_posix()] = LocalFile(entry["sha256"], entry["bytes"], path)
        blobs |= snapshot_blobs(manifest)
    add_blobs(listing, root, sorted(blobs))
    return listing


def list_records(root: Path) -> Listing:
    """Return the files of the store `root` that may change, the manifests, and data/excluded.yaml.

    The caller holds the lock of the journal. Manifests are listed last, so that no pointer leads to a missing one in a
    store that is not signed.
    """
    listing = Listing()
    add_small_files(listing, root, *REPLACED)
    add_small_files(listing, root, MANIFESTS)
    if (excluded := root.parent / EXCLUDED).is_file():
        listing.add(EXCLUDED, excluded.read_bytes())
    return listing


def journal_lock(root: Path) -> FileLock:
    """Return the lock of the journal. While it is held, nothing is recorded in a signed store `root`."""
    return FileLock(root / "locks" / "journal", "copying the store")


def add_small_files(listing: Listing, root: Path, *patterns: str) -> None:
    """Add the small files of the store `root` that match one of the patterns, with their content as it is now."""
    for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
        if path.is_file() and not path.is_symlink():
            listing.add(path.relative_to(root).as_posix(), path.read_bytes())


def add_blobs(listing: Listing, root: Path, sha256s: Sequence[str]) -> None:
    """Add raw files of the store `root`. Of a file that the store only refers to, the bytes are added."""
    blobs = BlobStore(root)
    copies = [blobs.path(sha256).relative_to(root).as_posix() for sha256 in sha256s if blobs.path(sha256).is_file()]
    compressed = ArtifactStore(root).hashes_below(root, copies)
    for sha256 in sha256s:
        path = blobs.path(sha256)
        name = path.relative_to(root).as_posix()
        if name in compressed:
            listing.files[name] = LocalFile(compressed[name], path.stat().st_size, path, partial(_fault, blobs, sha256))
        elif (referenced := blobs.referenced_file(sha256)) is not None:
            raw = name.removesuffix(COPY_SUFFIX) + RAW_SUFFIX
            listing.files[raw] = LocalFile(sha256_of_file(referenced), referenced.stat().st_size, referenced)
        else:
            problem = "the file was too large for the store, and was moved or changed"
            listing.notes.append(f"The bytes of the raw file {sha256[:16]} are not copied: {problem}.")


def blob_of(name: str) -> str:
    """Return the SHA-256 of the blob whose file in a copy has this name."""
    return name.rpartition("/")[2].partition(".")[0]


def redaction_note(sha256: str) -> str:
    """Return the path in the store of the note that a blob was redacted."""
    return f"blobs/{sha256[:2]}/{sha256}.redacted.json"


def _fault(blobs: BlobStore, sha256: str) -> str | None:
    """Return what is wrong with a compressed copy: it must have the bytes of its name, or those of a redaction."""
    expected = "redacted" if blobs.is_redacted(sha256) else "copy"
    return None if blobs.state(sha256) == expected else "was changed. Run `ft audit --verify`"


def _manifest(root: Path, folder: Path) -> dict[str, Any]:
    try:
        return read_manifest(folder)
    except BrokenArtifact as error:
        raise UserError(f"{folder.relative_to(root)}: {error}. Run `ft audit --verify`.") from None

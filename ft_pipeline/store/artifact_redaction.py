"""Remove erased rows from artifacts and the store's other files, and record it: the only exception to immutability.

A redacted artifact keeps its fingerprint and the original hashes of its files. Under `redactions`, its manifest lists
the new hashes and its own earlier hash. So the chain of manifests that refer to it does not break, and an audit reports
`redacted`.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.store import journal, journal_lines
from ft_pipeline.store.atomic_files import rewriting, translate_write_errors
from ft_pipeline.store.checked_json import Number
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.ledger import Ledger
from ft_pipeline.store.locks import FileLock, project_lock
from ft_pipeline.store.manifest import MANIFEST_NAME, WEIGHT_KINDS, BrokenArtifact, read_manifest, sealed_manifest
from ft_pipeline.store.text_redaction import ErasedTexts, UnknownFile

ROWS, KEYS = "rows.parquet", "keys.parquet"
"""The rows of a table, and their keys for the search for duplicates, in the same order."""


@dataclass(frozen=True)
class Redaction:
    """The record of one `ft erase`: redactions/000001.json. Each record contains the hash of the previous one."""

    number: int
    when: str
    """UTC, ISO 8601."""
    by: str
    reason: str
    rows: list[dict[str, Any]]
    """format, file, row and salted hash of each erased row."""
    artifacts: list[dict[str, Any]]
    """kind, fingerprint and files of each artifact that was redacted, and by file the SHA-256 before and after."""
    raw_files: list[str]
    """Original SHA-256 of the stored raw files that were redacted."""
    models: list[dict[str, Any]]
    """Models that had learned from a row, selected their checkpoint with it or were scored on it."""
    previous_sha256: str | None = None


@dataclass(frozen=True)
class _Artifact:
    kind: str
    fingerprint: str
    hashes: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Model:
    fingerprint: str
    how: str


@dataclass(frozen=True)
class _RedactionShape(Redaction):
    number: Number
    artifacts: list[_Artifact]  # type: ignore[assignment]
    models: list[_Model]  # type: ignore[assignment]


def redaction_ledger(root: Path) -> Ledger[Redaction]:
    """Return the ledger of `ft erase` in the store `root`."""
    return Ledger(root / "redactions", "number", _RedactionShape, Redaction)


def read_redactions(root: Path) -> list[Redaction]:
    """Return all records of `ft erase` in the store `root`, oldest first. UserError if a record cannot be read."""
    return redaction_ledger(root).read()


def append_redaction(root: Path, redaction: Redaction) -> None:
    """Append a record. UserError if another process took its number."""
    if redaction_ledger(root).append(asdict(redaction)) is None:
        raise UserError(
            f"Record {redaction.number} exists: another `ft erase` ran at the same time. Run `ft erase` again."
        )


@contextlib.contextmanager
def hold_alone(root: Path) -> Iterator[None]:
    """Hold the project's lock for a `with` block, so that nothing else reads raw files or builds in the store `root`.

    Raises UserError while any step is being built, because its process may have the rows in memory.
    """
    project = project_lock(root)
    _acquire(project)
    try:
        for path in sorted([*(root / "locks").rglob("*"), *(root / "teachers").rglob("lock")]):
            if path.is_file() and path != project.path:
                lock = FileLock(path, project.purpose)
                _acquire(lock)
                lock.release()
        yield
    finally:
        project.release()


def _acquire(lock: FileLock) -> None:
    if not lock.try_acquire():
        raise UserError(f"a run is in progress ({lock.holder()}); wait until it ends, or stop it, and run again")


def drafts_folder(root: Path) -> Path:
    """Return the folder for temporary files of the store `root`."""
    return root / "drafts"


@contextlib.contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """Yield a new folder for a `with` block. It is in the store `root`, so that the next erasure removes what a killed
    process leaves."""
    drafts_folder(root).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="erasure-", dir=drafts_folder(root)) as scratch:
        yield Path(scratch)


@dataclass(frozen=True)
class RedactedFiles:
    """What a redaction changed in an artifact."""

    hashes: dict[str, list[str | None]]
    """By file: SHA-256 before and after. The manifest is always one of them if anything was changed."""
    unreadable: list[str]

    @property
    def names(self) -> list[str]:
        """The changed files. The manifest is listed only if no other file changed."""
        return [name for name in self.hashes if name != MANIFEST_NAME] or list(self.hashes)


def redact_artifact(folder: Path, erased: ErasedTexts, record_fields: dict[str, Any]) -> RedactedFiles:
    """Remove the erased texts from an artifact's files and manifest. Weights are not searched, and never changed.

    The manifest is signed and written first: after an interruption, the same call completes the work.

    record_fields: number, time and user of the erasure, for the manifest.
    """
    try:
        manifest = read_manifest(folder)
    except BrokenArtifact:
        manifest = {"files": [], "summary": {}, "kind": folder.parents[1].name}
    root = folder.parents[3]
    with scratch_folder(root) as scratch, translate_write_errors():
        redacted, unreadable = ([], []) if manifest["kind"] in WEIGHT_KINDS else _redact_files(folder, scratch, erased)
        summary = erased.redact_value(manifest["summary"])
        earlier = _interrupted(folder, manifest, record_fields["number"])
        if not redacted and summary == manifest["summary"]:
            return RedactedFiles(earlier, unreadable)
        hashes: dict[str, list[str | None]] = {
            name: [sha256_of_file(folder / name), sha256_of_file(scratch / name)] for name in redacted
        }
        if manifest["files"]:
            before = sha256_of_file(folder / MANIFEST_NAME)
            files = {
                name: {"before": pair[0], "sha256": pair[1], "bytes": (scratch / name).stat().st_size}
                for name, pair in hashes.items()
            }
            entry = {**record_fields, "manifest_sha256": before, "files": files}
            manifest |= {"summary": summary, "redactions": [*manifest.get("redactions", ()), entry]}
            # The signature names the artifact and all hashes.
            details = {"kind": manifest["kind"], "fingerprint": manifest["fingerprint"], **entry}
            content = sealed_manifest(manifest)
            journal.write_signed(root, journal_lines.REDACTION, folder / MANIFEST_NAME, content, details)
            hashes[MANIFEST_NAME] = [before, sha256_of_file(folder / MANIFEST_NAME)]
        for name in redacted:
            with rewriting(folder / name) as target, (scratch / name).open("rb") as source:
                shutil.copyfileobj(source, target)
    return RedactedFiles(earlier | hashes or {MANIFEST_NAME: [None, None]}, unreadable)


def _interrupted(folder: Path, manifest: dict[str, Any], number: int) -> dict[str, list[str | None]]:
    """Return the hashes of what an interrupted start of the same erasure changed, which has no record yet."""
    hashes: dict[str, list[str | None]] = {}
    for entry in manifest.get("redactions", ()):
        if entry["number"] == number:
            hashes |= {name: [change["before"], change["sha256"]] for name, change in entry["files"].items()}
            hashes[MANIFEST_NAME] = [entry["manifest_sha256"], sha256_of_file(folder / MANIFEST_NAME)]
    return hashes


def _redact_files(folder: Path, scratch: Path, erased: ErasedTexts) -> tuple[list[str], list[str]]:
    """Write each file that contains an erased text into `scratch`, without it. Return the names of these files and of
    the unreadable files."""
    redacted, unreadable = [], []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME):
        name = path.relative_to(folder).as_posix()
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            if erased.redact_file(path, scratch / name):
                redacted.append(name)
        except (OSError, pa.ArrowException, UnknownFile):
            unreadable.append(name)
    if ROWS in redacted and (folder / KEYS).is_file():
        # Keys are written before rows: after an interruption in between, the next call still sees which rows to remove.
        _zero_removed_keys(folder, scratch)
        redacted.insert(0, KEYS)
    return redacted, unreadable


def _zero_removed_keys(folder: Path, scratch: Path) -> None:
    """Write keys.parquet into `scratch`, with zeros for the rows that are removed from rows.parquet there."""
    before, after = (pq.read_table(path / ROWS, columns=["id"])["id"] for path in (folder, scratch))
    removed = pc.not_equal(before, after).to_numpy()
    keys = pq.read_table(folder / KEYS)
    columns = {name: np.where(removed, 0, keys[name].to_numpy()) for name in keys.column_names}
    pq.write_table(pa.table(columns, schema=keys.schema), scratch / KEYS, compression="none", use_dictionary=False)

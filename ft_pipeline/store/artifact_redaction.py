"""Remove rows from artifacts and stored raw files, and record it. This is the only exception to immutability.

A redacted artifact keeps its fingerprint and the original hashes of its files. Under `redactions`, its manifest lists
the new hashes and its own earlier hash. So the chain of manifests that refer to it does not break, and an audit reports
`redacted`.
"""

import io
import shutil
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.ledger import Ledger
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.manifest import NAME, BrokenArtifact, read_manifest, write_seal
from ft_pipeline.store.text_redaction import ErasedTexts

UNTOUCHED_KINDS = frozenset({"base_model", "adapter", "merged_model"})
"""Weights contain no row as text. The record lists the models that learned from an erased row."""
ROWS, KEYS = "rows.parquet", "keys.parquet"


@dataclass(frozen=True)
class Redaction:
    """The record of one `ft erase`: redactions/000001.json. Each record contains the hash of the previous one."""

    number: int
    when: str
    by: str
    reason: str
    rows: list[dict[str, Any]]
    """format, file, row and salted hash of each erased row."""
    artifacts: list[dict[str, Any]]
    """kind, fingerprint and files of each artifact that was redacted."""
    raw_files: list[str]
    """Original SHA-256 of the stored raw files that were redacted."""
    models: list[dict[str, Any]]
    """Models that had learned from a row, selected their checkpoint with it or were scored on it."""
    previous_sha256: str | None = None


def ledger(root: Path) -> Ledger:
    """Return the ledger of `ft erase` in the store `root`."""
    return Ledger(root / "redactions", "number")


def redactions(root: Path) -> list[Redaction]:
    """Return all records of `ft erase` in the store `root`, oldest first. UserError if a record cannot be read."""
    try:
        return [Redaction(**record) for record in ledger(root).read()]
    except TypeError as error:
        raise UserError(
            f"A record in {root / 'redactions'} cannot be read ({error}). Restore it from a backup."
        ) from error


def append_redaction(root: Path, redaction: Redaction) -> None:
    """Append a record. UserError if another process took its number."""
    if ledger(root).append(asdict(redaction)) is None:
        raise UserError(
            f"Record {redaction.number} exists: another `ft erase` ran at the same time. Run `ft erase` again."
        )


def refuse_while_running(root: Path) -> None:
    """Raise UserError while any step is being built, because its process may have the rows in memory."""
    for path in sorted([*(root / "locks").rglob("*"), *(root / "teachers").rglob("lock")]):
        lock = FileLock(path, "ft erase")
        if path.is_file() and not lock.try_acquire():
            raise UserError(f"a run is in progress ({lock.holder()}); wait until it ends, or stop it, and run again")
        lock.release()


def redact_artifact(folder: Path, secrets: ErasedTexts, note: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Remove the erased texts from an artifact's files and manifest. Return (changed files, damaged files).

    The manifest is written first: after an interruption, the same call completes the work. The manifest is listed only
    if nothing else changed. No changed file is listed if the artifact contains none of the texts.
    """
    try:
        manifest = read_manifest(folder)
    except BrokenArtifact:
        manifest = {"files": [], "summary": {}, "kind": ""}
    changed, damaged = _changed_files(folder, secrets) if manifest["kind"] not in UNTOUCHED_KINDS else ({}, [])
    summary = secrets.value(manifest["summary"])
    if not changed and summary == manifest["summary"]:
        return [], damaged
    files = {name: {"sha256": sha256(content).hexdigest(), "bytes": len(content)} for name, content in changed.items()}
    with translate_write_errors():
        if manifest["files"]:
            entry = {**note, "manifest_sha256": sha256_of_file(folder / NAME), "files": files}
            manifest |= {"summary": summary, "redactions": [*manifest.get("redactions", ()), entry]}
            write_atomically(folder / NAME, write_seal(manifest))
        for name, content in changed.items():
            write_atomically(folder / name, content)
    return list(changed) or [NAME], damaged


def _changed_files(folder: Path, secrets: ErasedTexts) -> tuple[dict[str, bytes], list[str]]:
    changed, damaged = {}, []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME):
        name = path.relative_to(folder).as_posix()
        before = path.read_bytes()
        try:
            after = secrets.content(path.name, before)
        except (OSError, pa.ArrowException):
            damaged.append(name)
            continue
        if after != before:
            changed[name] = after
    if ROWS in changed and (folder / KEYS).is_file():
        # Keys are written before rows: after an interruption in between, the next call still sees which rows to remove.
        changed = {KEYS: _without_keys(folder, changed[ROWS]), **changed}
    return changed, damaged


def _without_keys(folder: Path, rows: bytes) -> bytes:
    """Return the content of keys.parquet, with zeros for the rows that are removed from rows.parquet."""
    before = pq.read_table(folder / ROWS, columns=["id"])["id"].to_pylist()
    after = pq.read_table(io.BytesIO(rows), columns=["id"])["id"].to_pylist()
    gone = np.array([old != new for old, new in zip(before, after, strict=True)])
    keys = pq.read_table(folder / KEYS)
    columns = {name: np.where(gone, 0, keys[name].to_numpy()) for name in keys.column_names}
    target = io.BytesIO()
    pq.write_table(pa.table(columns, schema=keys.schema), target, compression="none", use_dictionary=False)
    return target.getvalue()


def redact_loose_files(root: Path, secrets: ErasedTexts) -> None:
    """Remove the erased texts from the files that steps keep outside the artifacts.

    Unfinished steps start again, and caches are rebuilt. The teachers' logs stay, because their answers were paid for;
    only the texts are removed from them.
    """
    for path in [root / "work", root / "drafts", *(path for path in (root / "cache").glob("*") if path.name != "stat")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in sorted((root / "teachers").rglob("*.json*")):
        before = path.read_bytes()
        after = secrets.content(path.name, before)
        if after != before:
            write_atomically(path, after)

"""The one exception to immutability: rows taken out of artifacts and kept raw files, on record.

A redacted artifact keeps its fingerprint and the hashes of its files as they were, and its manifest says under
`redactions` what they are since, and which hash it had itself: the chain of those that hold it does not break, and an
audit says `redacted`.
"""

import io
import json
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
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.manifest import NAME, BrokenArtifact, read_manifest, write_seal
from ft_pipeline.store.scrubbing import ErasedTexts

UNTOUCHED_KINDS = frozenset({"base_model", "adapter", "merged_model"})
"""Weights hold no row as text; models that learned from one are marked by the record."""
ROWS, KEYS = "rows.parquet", "keys.parquet"


@dataclass(frozen=True)
class Redaction:
    """One `ft erase`, as it is recorded: redactions/000001.json, each holding the hash of the one before it."""

    number: int
    when: str
    by: str
    reason: str
    rows: list[dict[str, Any]]
    """format, file, row, hash (salted) of each."""
    artifacts: list[dict[str, Any]]
    """kind, fingerprint and files of each artifact that was redacted."""
    raw_files: list[str]
    """SHA-256 (as they were) of the kept raw files that were redacted."""
    models: list[dict[str, Any]]
    """Models that had learned from a row, chose their checkpoint by it or were scored on it."""
    previous_sha256: str | None = None


def redactions(root: Path) -> list[Redaction]:
    """All that was forgotten in the store `root`, oldest first. UserError where a record cannot be read."""
    found = []
    for path in sorted((root / "redactions").glob("*.json")):
        try:
            found.append(Redaction(**json.loads(path.read_bytes())))
        except (OSError, ValueError, TypeError):
            raise UserError(f"the record redactions/{path.name} cannot be read; restore it from a backup") from None
    return found


def record(root: Path, redaction: Redaction) -> Path:
    """Append a record; its number is that of the last one + 1."""
    folder = root / "redactions"
    before = folder / f"{redaction.number - 1:06d}.json"
    chained = asdict(redaction) | {"previous_sha256": sha256_of_file(before) if before.is_file() else None}
    path = folder / f"{redaction.number:06d}.json"
    with translate_write_errors():
        write_atomically(path, json.dumps(chained, ensure_ascii=False, indent=1).encode())
    return path


def refuse_while_running(root: Path) -> None:
    """UserError while any step is being built: it may hold in memory what is about to be forgotten."""
    for path in sorted([*(root / "locks").rglob("*"), *(root / "teachers").rglob("lock")]):
        lock = FileLock(path, "forgetting")
        if path.is_file() and not lock.try_acquire():
            raise UserError(f"a run is under way ({lock.holder()}); wait for its end, or stop it, and forget then")
        lock.release()


def redact_artifact(folder: Path, secrets: ErasedTexts, note: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Take the secrets out of an artifact's files and of its manifest: (files that changed, files that are damaged).

    The manifest goes first: cut off here, the same call again ends what it began. A manifest that alone changed is
    named; nothing is where the artifact holds none of them.
    """
    try:
        manifest = read_manifest(folder)
    except BrokenArtifact:
        manifest = {"files": [], "summary": {}, "kind": ""}
    changed, damaged = _changed_files(folder, secrets) if manifest["kind"] not in UNTOUCHED_KINDS else ({}, [])
    summary = secrets.value(manifest["summary"])
    if not changed and summary == manifest["summary"]:
        return [], damaged
    files = {name: {"sha256": sha256(it).hexdigest(), "bytes": len(it)} for name, it in changed.items()}
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
        # Before the rows: cut off in between, the next call still sees which rows are to go.
        changed = {KEYS: _without_keys(folder, changed[ROWS]), **changed}
    return changed, damaged


def _without_keys(folder: Path, rows: bytes) -> bytes:
    """The hashes that rows are compared by, zero for those that are gone from the table beside them."""
    before = pq.read_table(folder / ROWS, columns=["id"])["id"].to_pylist()
    after = pq.read_table(io.BytesIO(rows), columns=["id"])["id"].to_pylist()
    gone = np.array([old != new for old, new in zip(before, after, strict=True)])
    keys = pq.read_table(folder / KEYS)
    columns = {name: np.where(gone, 0, keys[name].to_numpy()) for name in keys.column_names}
    target = io.BytesIO()
    pq.write_table(pa.table(columns, schema=keys.schema), target, compression="none", use_dictionary=False)
    return target.getvalue()


def redact_loose_files(root: Path, secrets: ErasedTexts) -> None:
    """What steps keep beside the artifacts: unfinished steps start afresh, caches are made again, and the teachers'
    logs, whose answers were paid for, are rid of the secrets."""
    for path in [root / "work", root / "drafts", *(path for path in (root / "cache").glob("*") if path.name != "stat")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in sorted((root / "teachers").rglob("*.json*")):
        before = path.read_bytes()
        after = secrets.content(path.name, before)
        if after != before:
            write_atomically(path, after)

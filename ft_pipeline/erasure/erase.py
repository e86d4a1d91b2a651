"""`ft erase`: rows are never used again, and their texts are removed from the raw files, the store and Dagster's log.

The order makes an interruption safe: rows are excluded first, and the raw file, which says what to search for, is
changed after everything else, the record included. Until then, the same command, run again, completes the erasure.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline.audit.artifact_index import SHOWN_DIGITS, ArtifactIndex
from ft_pipeline.audit.row_usage import MADE_FROM_IT, derived_ids, usage_of
from ft_pipeline.audit.rows import read_rows
from ft_pipeline.erasure.dagster_log import redact_dagster_home
from ft_pipeline.erasure.raw_files import RawRow, read_raw_rows, replace_with_markers
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.store.artifact_redaction import (
    Redaction,
    append_redaction,
    redact_artifact,
    redact_loose_files,
    redaction_ledger,
    refuse_while_running,
)
from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.provenance import user_name
from ft_pipeline.store.text_redaction import MIN_CHARS, ErasedTexts
from ft_pipeline.tables.excluded_rows import add_excluded, erasure_marker, salt_of, salted
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading.sidecar import PLAIN, Sidecar, parse_sidecar, read_sidecar
from ft_pipeline.tables.reason_codes import Refused

MAX_ALSO = 50
"""Largest number of rows in ErasureResult.also."""
NOT_ERASED = (
    "copies outside this project are not erased: version control history, backups, exported or served models, and the "
    "logs of endpoints"
)


@dataclass(frozen=True)
class ErasureResult:
    """Result of `ft erase`."""

    record: int
    """Number of the record in data/store/redactions."""
    rows: list[dict[str, Any]]
    """format, file, row and hash of each erased row, including its copies in other files of the format."""
    files: list[str]
    """Raw files of the project that were changed."""
    artifacts: list[dict[str, Any]]
    """kind, fingerprint and files of each artifact that was redacted."""
    raw_files: int
    """Number of stored copies of raw files that were redacted."""
    events: int
    """Number of cells in Dagster's databases, and of logs, that were redacted."""
    models: list[dict[str, Any]]
    """Models that were trained on a row, selected their checkpoint with it or were scored on it."""
    retrain: list[str]
    """Experiments that the next run trains again."""
    champion: bool
    """Whether the present champion was trained on a row or selected its checkpoint with it."""
    also: list[str] = field(default_factory=list)
    """Rows that share a text with an erased row and stay. The user should check them."""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _PlacedRow:
    """A row in one of the project's raw files."""

    data_format: str
    file: str
    """Name of the file in the format's folder."""
    row: RawRow

    @property
    def origin(self) -> str:
        return f"{self.data_format}/{self.file}:{self.row.number}"


@dataclass(frozen=True)
class _RedactedStore:
    """What was redacted in the store and in Dagster's files."""

    blobs: list[str]
    """SHA-256 of each stored raw file."""
    artifacts: list[dict[str, Any]]
    """kind, fingerprint and files of each artifact."""
    dagster_places: int
    notes: list[str]


def erase(project: Project, path: Path, numbers: Sequence[int], reason: str) -> ErasureResult:
    """Erase rows of a raw file, by number. UserError if they cannot be found, or if a run is in progress."""
    if not reason.strip():
        raise UserError("The reason is empty. State it for the record: --reason TEXT")
    data_format, file = _locate(project, path)
    refuse_while_running(project.store)
    all_rows = list(_read_all_rows(project))
    chosen = _choose_rows(all_rows, data_format, file, numbers)
    erased_rows = _with_copies(chosen, all_rows)
    salt = salt_of(project.root / "data")
    rows = [_describe_row(placed, salt) for placed in erased_rows]
    when, by = datetime.now(UTC).isoformat(timespec="seconds"), user_name()
    add_excluded(project.root / "data", salt, [{**row, "when": when, "by": by, "reason": reason} for row in rows])
    index = ArtifactIndex(project.store)
    erased, sharing_rows = _find_erased_texts(index, all_rows, erased_rows, salt)
    usage = usage_of(index, file, list(erased.markers))
    models = [asdict(use) for use in usage.uses if use.how != MADE_FROM_IT]
    number = redaction_ledger(project.store).next_number()
    redacted = _redact_store(project, index, data_format, erased, {"number": number, "when": when, "by": by})
    record = Redaction(number, when, by, reason, rows, redacted.artifacts, redacted.blobs, models)
    append_redaction(project.store, record)
    files = _redact_raw_files(project, erased_rows, erased)
    return ErasureResult(
        record=number,
        rows=rows,
        files=files,
        artifacts=redacted.artifacts,
        raw_files=len(redacted.blobs),
        events=redacted.dagster_places,
        models=models,
        retrain=usage.retrain,
        champion=usage.champion,
        also=[placed.origin for placed in sharing_rows[:MAX_ALSO]],
        notes=[*redacted.notes, NOT_ERASED],
    )


def _locate(project: Project, path: Path) -> tuple[str, str]:
    """Return (format, name in the format's folder) of a raw file."""
    files = [file.resolve() for file in (path, project.root / path) if file.is_file()]
    for data_format in FORMATS:
        folder = project.raw_folder(data_format).resolve()
        for file in files:
            if file.is_relative_to(folder):
                return data_format, file.relative_to(folder).as_posix()
    if not files:
        raise UserError(f"there is no file {path}; name a file in data/raw, e.g. data/raw/alpaca/support_01.jsonl")
    raise UserError(f"{path} is not in data/raw/FORMAT of {project.root}: name a file that the project reads")


def _read_all_rows(project: Project) -> Iterator[_PlacedRow]:
    """Yield the rows of every raw file that can be read row by row."""
    for data_format in FORMATS:
        folder = project.raw_folder(data_format)
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".yaml"):
            try:
                sidecar = parse_sidecar(read_sidecar(path, folder))
                file = path.relative_to(folder).as_posix()
                yield from (
                    _PlacedRow(data_format, file, row) for row in read_raw_rows(path, file, data_format, sidecar)
                )
            except Refused:
                continue


def _choose_rows(
    all_rows: Sequence[_PlacedRow], data_format: str, file: str, numbers: Sequence[int]
) -> list[_PlacedRow]:
    """Return the rows of a file that have these numbers. UserError if one is missing or already erased."""
    rows = {
        placed.row.number: placed for placed in all_rows if (placed.data_format, placed.file) == (data_format, file)
    }
    if not rows:
        raise UserError(f"{data_format}/{file} cannot be read row by row (see `ft validate`); edit or remove the file")
    for number in numbers:
        if number not in rows:
            raise UserError(f"{data_format}/{file} has no row {number}; its rows are {min(rows)} to {max(rows)}")
        if rows[number].row.is_marker:
            raise UserError(f"row {number} of {data_format}/{file} was already erased; name other rows")
    return [rows[number] for number in numbers]


def _with_copies(chosen: Sequence[_PlacedRow], all_rows: Sequence[_PlacedRow]) -> list[_PlacedRow]:
    """Return the chosen rows, which have one format, and the rows of that format with the same id."""
    data_formats = {placed.data_format for placed in chosen}
    identities = {placed.row.identity for placed in chosen}
    return [placed for placed in all_rows if placed.data_format in data_formats and placed.row.identity in identities]


def _describe_row(placed: _PlacedRow, salt: str) -> dict[str, Any]:
    hashed = salted(placed.row.identity, salt)
    return {"hash": hashed, "format": placed.data_format, "file": placed.file, "row": placed.row.number}


def _find_erased_texts(
    index: ArtifactIndex, all_rows: Sequence[_PlacedRow], erased_rows: Sequence[_PlacedRow], salt: str
) -> tuple[ErasedTexts, list[_PlacedRow]]:
    """Return (texts to remove, rows that share a text with the erased rows and stay).

    A text that is also in another row (a system prompt, a common question) does not identify a row, and stays.
    """
    identities = {placed.row.identity for placed in erased_rows}
    texts = {text for placed in erased_rows for text in placed.row.texts}
    staying = [placed for placed in all_rows if placed.row.identity not in identities and not placed.row.is_marker]
    shared = {text for placed in staying for text in placed.row.texts & texts}
    sharing = [placed for placed in staying if any(len(text) >= MIN_CHARS for text in placed.row.texts & texts)]
    ids = identities | set(derived_ids(index, identities))
    markers = {identity: erasure_marker(salted(identity, salt)) for identity in sorted(ids)}
    all_texts = texts | _teacher_answers(index, identities)
    return ErasedTexts(markers, frozenset(all_texts - shared), frozenset(all_texts)), sharing


def _teacher_answers(index: ArtifactIndex, identities: set[str]) -> set[str]:
    """Return the answers of teachers to prompts with these ids."""
    return {
        row["answer"]
        for node in index.all("teacher_answers")
        for row in read_rows(node, "answers.parquet", ["id", "answer"])
        if row["id"] in identities and row.get("answer")
    }


def _redact_store(
    project: Project, index: ArtifactIndex, data_format: str, erased: ErasedTexts, record_fields: dict[str, Any]
) -> _RedactedStore:
    unreadable: list[str] = []
    blobs = _redact_blobs(index, data_format, erased, unreadable)
    artifacts = _redact_artifacts(index, erased, record_fields, unreadable)
    redact_loose_files(project.store, erased)
    dagster_places, notes = redact_dagster_home(project.dagster_home, erased)
    notes += [f"not redacted, because it cannot be read: {place}. Remove it." for place in unreadable]
    return _RedactedStore(blobs, artifacts, dagster_places, notes)


def _redact_blobs(index: ArtifactIndex, data_format: str, erased: ErasedTexts, unreadable: list[str]) -> list[str]:
    """Redact every raw file of the format that a snapshot stored, also under earlier names. Return the SHA-256 of each.

    Blobs that are missing or damaged are added to `unreadable`.
    """
    blobs = BlobStore(index.root)
    redacted = []
    with tempfile.TemporaryDirectory(prefix="ft-forget-") as scratch:
        for number, ((sha256, sidecar_sha256), name) in enumerate(_snapshot_files(index, data_format).items()):
            folder = Path(scratch) / str(number)
            try:
                path = blobs.checkout(sha256, folder / Path(name).name, allow_redacted=True)
                sidecar = _read_stored_sidecar(blobs, sidecar_sha256, folder)
            except UserError:
                unreadable.append(f"the kept copy of {name} ({sha256[:SHOWN_DIGITS]})")
                continue
            content = _redacted_content(path, name, data_format, sidecar, erased)
            if content is not None:
                (folder / "redacted").write_bytes(content)
                blobs.redact(sha256, folder / "redacted")
                redacted.append(sha256)
    return redacted


def _snapshot_files(index: ArtifactIndex, data_format: str) -> dict[tuple[str, str | None], str]:
    """Return (SHA-256 of the file, SHA-256 of its sidecar) → its name in the first snapshot that contains it."""
    files: dict[tuple[str, str | None], str] = {}
    for node in index.all(f"raw_{data_format}"):
        for entry in node.config.get("files", []):
            if entry.get("sha256"):
                files.setdefault((entry["sha256"], entry.get("sidecar")), entry["name"])
    return files


def _read_stored_sidecar(blobs: BlobStore, sha256: str | None, folder: Path) -> Sidecar:
    """Return a stored sidecar. Without one, or if it cannot be read, the file is read as if it had none."""
    if sha256 is None:
        return PLAIN
    try:
        path = blobs.checkout(sha256, folder / "sidecar.yaml")
        return parse_sidecar(yaml.safe_load(path.read_text(encoding="utf-8-sig")))
    except (UserError, Refused, yaml.YAMLError, UnicodeDecodeError):
        return PLAIN


def _redacted_content(path: Path, name: str, data_format: str, sidecar: Sidecar, erased: ErasedTexts) -> bytes | None:
    """Return the file's bytes with markers in place of the erased rows; None if it contains none of them."""
    try:
        ids = {row.number: row.identity for row in read_raw_rows(path, name, data_format, sidecar)}
    except Refused:  # it cannot be read as rows: only the texts are removed
        before = path.read_bytes()
        after = erased.redact_file("refused.txt", before)
        return after if after != before else None
    markers = {number: erased.markers[identity] for number, identity in ids.items() if identity in erased.markers}
    return replace_with_markers(path, name, markers) if markers else None


def _redact_artifacts(
    index: ArtifactIndex, erased: ErasedTexts, record_fields: dict[str, Any], unreadable: list[str]
) -> list[dict[str, Any]]:
    """Redact every artifact. Return kind, fingerprint and files of each. Unreadable files are added to `unreadable`."""
    redacted = []
    for node in index.all():
        if node.path is None:
            continue
        files, unreadable_files = redact_artifact(node.path, erased, record_fields)
        unreadable += [f"{node.label}: {name}" for name in unreadable_files]
        if files:
            redacted.append({"kind": node.kind, "fingerprint": node.fingerprint, "files": files})
    return redacted


def _redact_raw_files(project: Project, erased_rows: Sequence[_PlacedRow], erased: ErasedTexts) -> list[str]:
    """Replace the erased rows in the project's own files by markers. Return the paths of these files."""
    markers: dict[tuple[str, str], dict[int, str]] = {}
    for placed in erased_rows:
        markers.setdefault((placed.data_format, placed.file), {})[placed.row.number] = erased.markers[
            placed.row.identity
        ]
    changed = []
    for (data_format, file), markers_of_file in markers.items():
        path = project.raw_folder(data_format) / file
        mode = path.stat().st_mode
        with translate_write_errors():
            write_atomically(path, replace_with_markers(path, file, markers_of_file))
            path.chmod(mode & 0o7777)
        changed.append(path.relative_to(project.root).as_posix())
    return changed

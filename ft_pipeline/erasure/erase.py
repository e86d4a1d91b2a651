"""`ft erase`: rows are never used again, and their texts are removed from the raw files, the store and Dagster's log.

The order makes an interruption safe: rows are excluded first, and the raw file, which says what to search for, is
changed last. The same command, run again, completes the erasure.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline.audit.artifact_index import SHOWN, ArtifactIndex
from ft_pipeline.audit.row_usage import derived_ids, uses_of
from ft_pipeline.audit.rows import read_rows
from ft_pipeline.erasure.dagster_log import redact_dagster_home
from ft_pipeline.erasure.raw_files import RawRow, read_raw_rows, replace_with_markers
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.store.artifact_redaction import (
    Redaction,
    append_redaction,
    read_redactions,
    redact_artifact,
    redact_loose_files,
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

ALSO_SHOWN = 50
BEYOND = (
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
    """Number of kept copies of raw files that were redacted."""
    events: int
    """Number of places in Dagster's databases and logs that were redacted."""
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
class _Place:
    """A row in one of the project's raw files."""

    data_format: str
    name: str
    row: RawRow

    @property
    def origin(self) -> str:
        return f"{self.data_format}/{self.name}:{self.row.number}"


def erase(project: Project, path: Path, numbers: Sequence[int], reason: str) -> ErasureResult:
    """Erase rows of a raw file, by number. UserError if they cannot be found, or if a run is in progress."""
    if not reason.strip():
        raise UserError("The reason is empty. State it for the record: --reason TEXT")
    data_format, name = _place_of(project, path)
    refuse_while_running(project.store)
    everywhere = list(_all_places(project))
    chosen = _chosen(everywhere, data_format, name, numbers)
    same = {place.row.identity for place in chosen}
    gone = [place for place in everywhere if place.data_format == data_format and place.row.identity in same]
    salt = salt_of(project.root / "data")
    rows = [_entry(place, salt) for place in gone]
    when, by = datetime.now(UTC).isoformat(timespec="seconds"), user_name()
    add_excluded(project.root / "data", salt, [{**row, "when": when, "by": by, "reason": reason} for row in rows])
    index = ArtifactIndex(project.store)
    secrets, also = _secrets(index, everywhere, gone, salt)
    seen = uses_of(index, name, list(secrets.marks))
    number = len(read_redactions(project.store)) + 1
    note = {"number": number, "when": when, "by": by}
    unread: list[str] = []
    kept = _redact_kept_files(index, data_format, secrets, unread)
    artifacts = _redact_artifacts(index, secrets, note, unread)
    redact_loose_files(project.store, secrets)
    events, notes = redact_dagster_home(project.dagster_home, secrets)
    models = [asdict(use) for use in seen.uses if use.how != "made from it"]
    files = _redact_own_files(project, gone, secrets)
    append_redaction(project.store, Redaction(number, when, by, reason, rows, artifacts, kept, models))
    return ErasureResult(
        record=number,
        rows=rows,
        files=files,
        artifacts=artifacts,
        raw_files=len(kept),
        events=events,
        models=models,
        retrain=seen.retrain,
        champion=seen.champion,
        also=also,
        notes=[*notes, *(f"not redacted, because it cannot be read: {place}. Remove it." for place in unread), BEYOND],
    )


def _place_of(project: Project, path: Path) -> tuple[str, str]:
    """(format, name in its folder) of a raw file."""
    files = [file.resolve() for file in (path, project.root / path) if file.is_file()]
    for data_format in FORMATS:
        folder = project.raw(data_format).resolve()
        for file in files:
            if file.is_relative_to(folder):
                return data_format, file.relative_to(folder).as_posix()
    if not files:
        raise UserError(f"there is no file {path}; name a file in data/raw, e.g. data/raw/alpaca/support_01.jsonl")
    raise UserError(f"{path} is not in data/raw/FORMAT of {project.root}: name a file that the project reads")


def _all_places(project: Project) -> Iterator[_Place]:
    for data_format in FORMATS:
        folder = project.raw(data_format)
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".yaml"):
            try:
                sidecar = parse_sidecar(read_sidecar(path, folder))
                name = path.relative_to(folder).as_posix()
                yield from (_Place(data_format, name, row) for row in read_raw_rows(path, name, data_format, sidecar))
            except Refused:
                continue


def _chosen(everywhere: Sequence[_Place], data_format: str, name: str, numbers: Sequence[int]) -> list[_Place]:
    own = {place.row.number: place for place in everywhere if (place.data_format, place.name) == (data_format, name)}
    if not own:
        raise UserError(f"{data_format}/{name} cannot be read row by row (see `ft validate`); edit or remove the file")
    for number in numbers:
        if number not in own:
            raise UserError(f"{data_format}/{name} has no row {number}; its rows are {min(own)} to {max(own)}")
        if own[number].row.forgotten:
            raise UserError(f"row {number} of {data_format}/{name} was already erased; name other rows")
    return [own[number] for number in numbers]


def _entry(place: _Place, salt: str) -> dict[str, Any]:
    hashed = salted(place.row.identity, salt)
    return {"hash": hashed, "format": place.data_format, "file": place.name, "row": place.row.number}


def _secrets(
    index: ArtifactIndex, everywhere: Sequence[_Place], gone: Sequence[_Place], salt: str
) -> tuple[ErasedTexts, list[str]]:
    """(texts to remove, origins of rows that share a text with them and stay).

    A text that is also in another row (a system prompt, a common question) does not identify a row, and stays.
    """
    identities = {place.row.identity for place in gone}
    texts = {text for place in gone for text in place.row.texts}
    staying = [place for place in everywhere if place.row.identity not in identities and not place.row.forgotten]
    common = Counter(text for place in staying for text in place.row.texts & texts)
    also = [place.origin for place in staying if any(len(text) >= MIN_CHARS for text in place.row.texts & texts)]
    own = identities | set(derived_ids(index, identities))
    answers = {
        row["answer"]
        for node in index.all("teacher_answers")
        for row in read_rows(node, "answers.parquet", ["id", "answer"])
        if row["id"] in identities and row.get("answer")
    }
    marks = {identity: erasure_marker(salted(identity, salt)) for identity in sorted(own)}
    distinct = frozenset(text for text in texts | answers if not common[text])
    return ErasedTexts(marks, distinct, frozenset(texts | answers)), also[:ALSO_SHOWN]


def _redact_kept_files(index: ArtifactIndex, data_format: str, secrets: ErasedTexts, unread: list[str]) -> list[str]:
    """Redact every copy that a snapshot of the format kept, also under earlier file names. Return the SHA-256 of each.

    Copies that are gone or damaged are added to `unread`.
    """
    blobs = BlobStore(index.root)
    seen: dict[tuple[str, str | None], str] = {}
    for node in index.all(f"raw_{data_format}"):
        for entry in node.config.get("files", []):
            if entry.get("sha256"):
                seen.setdefault((entry["sha256"], entry.get("sidecar")), entry["name"])
    changed = []
    with tempfile.TemporaryDirectory(prefix="ft-forget-") as folder:
        for number, ((sha256, sidecar), name) in enumerate(seen.items()):
            into = Path(folder) / str(number)
            try:
                path = blobs.checkout(sha256, into / Path(name).name, allow_redacted=True)
                mapping = _kept_sidecar(blobs, sidecar, into)
            except UserError:
                unread.append(f"the kept copy of {name} ({sha256[:SHOWN]})")
                continue
            after = _without_rows(path, name, data_format, mapping, secrets)
            if after is not None:
                redacted = into / "redacted"
                redacted.write_bytes(after)
                blobs.redact(sha256, redacted)
                changed.append(sha256)
    return changed


def _kept_sidecar(blobs: BlobStore, sha256: str | None, into: Path) -> Sidecar:
    if sha256 is None:
        return PLAIN
    try:
        path = blobs.checkout(sha256, into / "sidecar.yaml")
        return parse_sidecar(yaml.safe_load(path.read_text(encoding="utf-8-sig")))
    except (UserError, Refused, yaml.YAMLError, UnicodeDecodeError):
        return PLAIN


def _without_rows(path: Path, name: str, data_format: str, sidecar: Sidecar, secrets: ErasedTexts) -> bytes | None:
    """The file's bytes with markers in place of the erased rows; None if it contains none of them."""
    try:
        rows = {row.number: row.identity for row in read_raw_rows(path, name, data_format, sidecar)}
    except Refused:  # it cannot be read as rows: only the texts are removed
        before = path.read_bytes()
        after = secrets.content("refused.txt", before)
        return after if after != before else None
    marks = {number: secrets.marks[identity] for number, identity in rows.items() if identity in secrets.marks}
    return replace_with_markers(path, name, marks) if marks else None


def _redact_artifacts(
    index: ArtifactIndex, secrets: ErasedTexts, note: dict[str, Any], unread: list[str]
) -> list[dict[str, Any]]:
    redacted = []
    for node in index.all():
        if node.path is None:
            continue
        files, damaged = redact_artifact(node.path, secrets, note)
        unread += [f"{node.label}: {name}" for name in damaged]
        if files:
            redacted.append({"kind": node.kind, "fingerprint": node.fingerprint, "files": files})
    return redacted


def _redact_own_files(project: Project, gone: Sequence[_Place], secrets: ErasedTexts) -> list[str]:
    marks: dict[tuple[str, str], dict[int, str]] = {}
    for place in gone:
        marks.setdefault((place.data_format, place.name), {})[place.row.number] = secrets.marks[place.row.identity]
    changed = []
    for (data_format, name), own in marks.items():
        path = project.raw(data_format) / name
        mode = path.stat().st_mode
        with translate_write_errors():
            write_atomically(path, replace_with_markers(path, name, own))
            path.chmod(mode & 0o7777)
        changed.append(path.relative_to(project.root).as_posix())
    return changed

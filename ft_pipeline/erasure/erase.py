"""`ft erase`: rows and their near copies are never used again, and are removed from the whole project.

The order makes an interruption safe: rows are excluded first, then what was made from them is redacted, newest first,
then the stored copies of raw files. The raw file, which says what to search for, is changed after everything else, the
record included. Until then, the same command, run again, completes the erasure.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from ft_pipeline.erasure.dagster_log import redact_database
from ft_pipeline.erasure.file_kinds import files_of
from ft_pipeline.erasure.lineage import Lineage, PlacedRow, origins_by_artifact, trace
from ft_pipeline.erasure.own_files import NotSearched, find_text
from ft_pipeline.erasure.raw_copies import RawFile, raw_files, remote_files
from ft_pipeline.erasure.raw_files import RawRow, read_raw_rows, replace_with_markers
from ft_pipeline.erasure.reasons import describe_kept, read_reasons, repeated_in, telling_words
from ft_pipeline.errors import UserError
from ft_pipeline.lineage.artifact_index import SHOWN_DIGITS, ArtifactIndex
from ft_pipeline.lineage.row_usage import MADE_FROM_IT, usage_of
from ft_pipeline.models.endpoint.answer_log import erase_answers
from ft_pipeline.project import Project, has_separate_database
from ft_pipeline.store.artifact_redaction import (
    Redaction,
    append_redaction,
    drafts_folder,
    hold_alone,
    redact_artifact,
    redaction_ledger,
    scratch_folder,
)
from ft_pipeline.store.atomic_files import rewriting, translate_write_errors, write_atomically
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.provenance import user_name
from ft_pipeline.store.text_redaction import WITHOUT_TEXT, ErasedTexts, Origin
from ft_pipeline.tables.dedup.tokens import words_of
from ft_pipeline.tables.excluded_rows import add_excluded, erasure_marker, salt_of, salted
from ft_pipeline.tables.formats.registry import FORMATS, format_of_file, name_elsewhere
from ft_pipeline.tables.reason_codes import Refused

TABLES_OF_PROMPTS = {"teacher_answers": "unlabelled", "distilled": "unlabelled"}
"""Kind of artifact → the table that the column `file` refers to, where the artifact does not name it."""
MAX_ALSO = 50
"""Largest number of rows in ErasureResult.also, and of each text in ErasureResult.stays."""
NOT_ERASED = (
    "copies outside this project are not erased: version control history, backups, pushed stores, exported or served "
    "models, and the logs of endpoints"
)


@dataclass(frozen=True)
class ErasureResult:
    """Result of `ft erase`."""

    record: int
    """Number of the record in data/store/redactions."""
    rows: list[dict[str, Any]]
    """format, file, row and hash of each erased row and near copy. Rows that only a stored copy of a raw file contains
    come last, with their place in it."""
    files: list[str]
    """Raw files of the project that were changed."""
    artifacts: list[dict[str, Any]]
    """kind, fingerprint and files of each artifact that was redacted."""
    raw_files: int
    """Number of stored copies of raw files that were redacted."""
    events: int
    """Number of cells in Dagster's databases, and of logs, that were redacted."""
    answers: int
    """Number of answers that were removed from the teachers' logs."""
    models: list[dict[str, Any]]
    """Models that were trained on a row, selected their checkpoint with it or were scored on it."""
    retrain: list[str]
    """Experiments that the next run trains again."""
    champion: bool
    """Whether the present champion was trained on a row or selected its checkpoint with it."""
    also: list[str] = field(default_factory=list)
    """Rows that share a text with an erased row and stay. The user should check them."""
    stays: list[dict[str, Any]] = field(default_factory=list)
    """text, rows and more of each of these texts: it stays wherever it is until these rows are erased, too. rows: file
    and row of MAX_ALSO of them; the row is None for a file of settings. more: the number of the others."""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def erase(project: Project, path: Path, numbers: Sequence[int], reason: str) -> ErasureResult:
    """Erase rows of a raw file, by number, and their near copies in every file.

    UserError if they cannot be found, or if a run is in progress.
    """
    if not reason.strip():
        raise UserError("The reason is empty. State it for the record: --reason TEXT")
    data_format, file = _locate(project, path)
    with hold_alone(project.store):
        return _erase(project, _choose_rows(project, data_format, file, numbers), reason)


def _erase(project: Project, chosen: Sequence[PlacedRow], reason: str) -> ErasureResult:
    index = ArtifactIndex(project.store)
    reasons, unread = read_reasons(project.root)
    lineage = trace(project, index, chosen, telling_words([reason, *(given.text for given in reasons)]))
    salt = salt_of(project.root / "data")
    rows = [_describe_row(placed, salt) for placed in lineage.rows]
    markers = {identity: erasure_marker(salted(identity, salt)) for identity in sorted(lineage.ids)}
    texts = frozenset(text for text in lineage.texts - lineage.shared if words_of(text))
    erased = ErasedTexts(markers, texts, frozenset(lineage.texts), frozenset(lineage.kept))
    _require_neutral(reason, lineage)
    named = {given: found for given in reasons if (found := repeated_in(given.text, lineage.telling, lineage.ids))}
    erased = replace(erased, texts=texts.union(given.text for given in named))
    when, by = datetime.now(UTC).isoformat(timespec="seconds"), user_name()
    usage = usage_of(index, chosen[0].origin, list(markers))
    add_excluded(project.root / "data", salt, [{**row, "when": when, "by": by, "reason": reason} for row in rows])
    models = [asdict(use) for use in usage.uses if use.how != MADE_FROM_IT]
    number = redaction_ledger(project.store).next_number()
    origins = origins_by_artifact(index, lineage)
    answers, events, notes = _redact_loose_files(project, erased, lineage, origins)
    artifacts, unreadable = _redact_artifacts(index, erased, origins, {"number": number, "when": when, "by": by})
    blobs = _redact_blobs(project.store, erased, lineage)
    append_redaction(project.store, Redaction(number, when, by, reason, rows, artifacts, blobs, models))
    files = _redact_raw_files(project, lineage.rows, chosen[0].file, markers)
    notes += [
        f"not redacted, because it cannot be read: {place}. Remove it." for place in [*lineage.missing, *unreadable]
    ]
    notes += [describe_kept(given.file, found) for given, found in named.items()]
    notes += [f"{file} cannot be read as a record, so that its reasons were not searched. Check it." for file in unread]
    notes += _notes_on_unread(project, erased, lineage, blobs)
    notes += [
        f"{name} names a remote file that still has erased rows. They are replaced when it is downloaded again. Remove "
        "them there, too."
        for name in dict.fromkeys(file.declared_in for file in remote_files(project) if file.sha256 in blobs)
    ]
    return ErasureResult(
        record=number,
        rows=rows,
        files=files,
        artifacts=artifacts,
        raw_files=len(blobs),
        events=events,
        answers=answers,
        models=models,
        retrain=usage.retrain,
        champion=usage.champion,
        also=list(lineage.also)[:MAX_ALSO],
        stays=_describe_shared(lineage),
        notes=[*notes, NOT_ERASED],
    )


def _require_neutral(reason: str, lineage: Lineage) -> None:
    """Raise UserError if the reason repeats what is to be erased: its record stays as it is."""
    if found := repeated_in(reason, lineage.telling, lineage.ids):
        raise UserError(
            f"The reason repeats {found} of the row, and its record can never be changed. Write the number of the "
            "request instead."
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


def _choose_rows(project: Project, data_format: str, file: str, numbers: Sequence[int]) -> list[PlacedRow]:
    """Return the rows of a file that have these numbers. UserError if one is missing or already erased."""
    rows: dict[int, list[PlacedRow]] = {}
    first = last = 0
    for raw_file in chain(raw_files(project), remote_files(project)):
        name = raw_file.declared_in or raw_file.name
        # A document of a trace file may hold several rows, and rows of another table, too.
        if (raw_file.data_format, name) != (data_format, file) and name != name_elsewhere(data_format, file):
            continue
        with contextlib.suppress(Refused):
            for row in _rows_in(project, raw_file):
                first, last = first or row.number, max(last, row.number)
                if row.number in numbers:
                    rows.setdefault(row.number, []).append(PlacedRow(raw_file, row))
    if not last:
        raise UserError(f"{data_format}/{file} cannot be read row by row (see `ft validate`); edit or remove the file")
    for number in numbers:
        if number not in rows:
            raise UserError(f"{data_format}/{file} has no row {number}; its rows are {first} to {last}")
        if rows[number][0].row.is_marker:
            raise UserError(f"row {number} of {data_format}/{file} was already erased; name other rows")
    return [placed for number in numbers for placed in rows[number]]


def _rows_in(project: Project, file: RawFile) -> Iterator[RawRow]:
    mask = project.settings.data.masked(FORMATS).get(format_of_file(file.data_format, file.name).name, ())
    return read_raw_rows(file.path, file.name, file.data_format, file.sidecar, drafts_folder(project.store), mask)


def _describe_row(placed: PlacedRow, salt: str) -> dict[str, Any]:
    hashed = salted(placed.row.identity, salt)
    return {"hash": hashed, "format": placed.file.data_format, "file": placed.file.name, "row": placed.row.number}


def _describe_shared(lineage: Lineage) -> list[dict[str, Any]]:
    written = {words_of(text): text for text in sorted(lineage.texts)}
    return [
        {
            "text": written.get(turn) or " ".join(turn),
            "rows": [{"file": file, "row": row} for file, row in list(places)[:MAX_ALSO]],
            "more": max(len(places) - MAX_ALSO, 0),
        }
        for turn, places in lineage.stays.items()
    ]


def _redact_loose_files(
    project: Project, erased: ErasedTexts, lineage: Lineage, origins: Mapping[Path, set[Origin]]
) -> tuple[int, int, list[str]]:
    """Redact what is neither a raw file nor an artifact. Return (number of emptied answers, number of changed cells and
    logs, notes on what was not redacted)."""
    everywhere = frozenset(origin for found in origins.values() for origin in found)
    in_ui = replace(erased, origins=everywhere | {(None, file, row) for _, file, row in everywhere})
    answers, events, notes = 0, 0, []
    if has_separate_database(project.dagster_home):
        notes.append("Dagster's records are in a separate database (dagster.yaml), whose previews were not redacted")
    for path, treatment in list(files_of(project.root, "removed", "answers", "database", "text", "unknown")):
        if treatment == "removed":
            path.unlink()
        elif treatment == "answers":
            answers += erase_answers(path, lambda event: _is_erased_answer(event, erased, lineage))
        elif treatment == "database":
            try:
                events += redact_database(path, in_ui)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):  # such as a lock: the same command can be run again
                    raise
                notes.append(f"{path.relative_to(project.root)} was not searched ({error}). Check it.")
        elif treatment == "text":
            events += _redact_text_file(path, in_ui, project.store)
        else:
            notes.append(f"{path.relative_to(project.root)} is of an unknown kind, and was not searched. Check it.")
    return answers, events, notes


def _is_erased_answer(event: Mapping[str, Any], erased: ErasedTexts, lineage: Lineage) -> bool:
    texts = [event.get("answer") or "", event.get("message") or ""]
    texts += [call["arguments"] for call in event.get("calls", ())]
    return event.get("request_id") in lineage.request_ids or any(erased.redact_text(text) != text for text in texts)


def _redact_text_file(path: Path, erased: ErasedTexts, store: Path) -> int:
    """Redact a text file or a log. Return 1 if it contained an erased text, else 0."""
    with scratch_folder(store) as scratch, translate_write_errors():
        if not erased.redact_file(path, scratch / "redacted"):
            return 0
        write_atomically(path, (scratch / "redacted").read_bytes())
    return 1


def _redact_artifacts(
    index: ArtifactIndex,
    erased: ErasedTexts,
    origins: Mapping[Path, set[Origin]],
    record_fields: dict[str, Any],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Redact every artifact. Return (kind, fingerprint and files of each, unreadable files).

    Those made last come first: after an interruption, what they were made from still says what to search for.
    """
    redacted, unreadable = [], []
    for node in reversed(index.all()):
        if node.path is None:
            continue
        own = origins.get(node.path, set())
        table = TABLES_OF_PROMPTS.get(node.kind, node.kind)
        unnamed: set[Origin] = {(None, file, row) for name, file, row in own if name == table}
        packed = node.kind == "training_data" and any(name == "text" for name, _, _ in own)
        in_artifact = replace(erased, origins=frozenset(own | unnamed), packed=packed)
        files = redact_artifact(node.path, in_artifact, record_fields)
        unreadable += [f"{node.label}: {name}" for name in files.unreadable]
        if files.hashes:
            identity = {"kind": node.kind, "fingerprint": node.fingerprint}
            redacted.append({**identity, "files": files.names, "hashes": files.hashes})
    return redacted, unreadable


def _redact_blobs(store: Path, erased: ErasedTexts, lineage: Lineage) -> list[str]:
    """Redact every stored copy of a raw file that contains one of the rows. Return the SHA-256 of each."""
    blobs = BlobStore(store)
    redacted = []
    for sha256, suffix in [*lineage.copies, *((sha256, "") for sha256 in lineage.unread)]:
        with scratch_folder(store) as scratch:
            path = blobs.checkout(sha256, scratch / "copy", allow_redacted=True)
            target = scratch / "redacted"
            if rows := lineage.copies.get((sha256, suffix)):
                with target.open("wb") as file:
                    markers = {row: erased.markers[identity] for row, identity in rows.items()}
                    replace_with_markers(path, f"copy{suffix}", markers, file, scratch)
            else:
                content = path.read_bytes()
                target.write_bytes(erased.redact_plain_text(content))
                if target.read_bytes() == content:
                    continue
            blobs.redact(sha256, target)
            redacted.append(sha256)
    return list(dict.fromkeys(redacted))


def _redact_raw_files(
    project: Project, rows: Sequence[PlacedRow], last: RawFile, markers: Mapping[str, str]
) -> list[str]:
    """Replace the erased rows in the project's own files by markers. Return the paths of these files.

    `last` is changed last: until then, the same command, run again, finds the rows.
    """
    by_path: dict[Path, tuple[str, dict[int, str]]] = {}
    for placed in rows:
        if placed.file.sha256 is None:
            _, of_file = by_path.setdefault(placed.file.path, (placed.file.name, {}))
            of_file[placed.row.number] = markers[placed.row.identity]
    for path in sorted(by_path, key=lambda path: path == last.path):
        name, of_file = by_path[path]
        with translate_write_errors(), rewriting(path) as target:
            replace_with_markers(path, name, of_file, target, drafts_folder(project.store))
    return sorted(path.relative_to(project.root).as_posix() for path in by_path)


def _notes_on_unread(
    project: Project, erased: ErasedTexts, lineage: Lineage, redacted_blobs: Sequence[str]
) -> list[str]:
    """Return notes on the files that `ft erase` does not change: the user's own that contain an erased text or cannot
    be searched, and raw files that cannot be read row by row. In these, an encoding may hide a text."""
    notes = []
    for path, treatment in files_of(project.root, "named", "rows"):
        if path in lineage.read or path.suffix in WITHOUT_TEXT:
            continue
        name = path.relative_to(project.root).as_posix()
        with scratch_folder(project.store) as scratch:
            try:
                if find_text(path, erased, scratch):
                    notes.append(f"{name} still contains a text of an erased row. Edit or remove it.")
                elif treatment == "rows" and path.suffix != ".yaml":
                    notes.append(f"{name} cannot be read row by row, so that it was only searched as text. Check it.")
            except NotSearched as reason:
                notes.append(f"{name} was not searched ({reason}). Check it.")
    return notes + [
        f"the kept copy of {name} ({sha256[:SHOWN_DIGITS]}) cannot be read row by row, so that it was only searched as "
        "text. If the file contains the row, remove the file, and run `ft gc`."
        for sha256, name in lineage.unread.items()
        if sha256 not in redacted_blobs
    ]

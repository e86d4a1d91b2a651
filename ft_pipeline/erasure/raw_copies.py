"""The raw files of a project and their stored copies, each with how it is read."""

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from ft_pipeline.erasure.raw_files import read_raw_rows
from ft_pipeline.errors import UserError
from ft_pipeline.lineage.artifact_index import SHOWN_DIGITS, ArtifactIndex
from ft_pipeline.project import Project
from ft_pipeline.sources.file_names import stem_of
from ft_pipeline.sources.local_folder import remote_sources
from ft_pipeline.sources.records import SourceRecords
from ft_pipeline.store.artifact_redaction import scratch_folder
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.tables.formats.registry import FORMATS, format_of_file, tables_of_file
from ft_pipeline.tables.reading.compressed import begins_with
from ft_pipeline.tables.reading.sidecar import PLAIN, Sidecar, load_sidecar, parse_sidecar, read_sidecar
from ft_pipeline.tables.reason_codes import Refused

GUESSED_ROWS = 20
"""From how many rows of a kept copy that no snapshot lists its format is guessed."""


@dataclass(frozen=True)
class RawFile:
    """A raw file of the project, or a stored copy of one, and one way to read it."""

    data_format: str
    name: str
    """Its name in the format's folder."""
    path: Path
    sidecar: Sidecar
    sha256: str | None = None
    """SHA-256 of the stored copy; None for a file of the project."""
    declared_in: str | None = None
    """The YAML that names the source of a remote file."""

    def place(self, project: Project) -> str:
        """Return the path in the project of the file, or of the YAML that names its source."""
        folder = project.raw_folder(format_of_file(self.data_format, self.name).name)
        path = self.path if self.declared_in is None else folder / self.declared_in
        return path.relative_to(project.root).as_posix()


def all_files(project: Project, index: ArtifactIndex, missing: dict[str, None]) -> Iterator[RawFile]:
    """Yield every raw file of the project, and every stored copy of one. Descriptions of damaged copies are added to
    `missing`."""
    known: set[str] = set()
    for file in chain(raw_files(project), remote_files(project)):
        known.update(filter(None, [file.sha256]))
        yield file
    yield from _stored_files(index, missing, known)


def raw_files(project: Project) -> Iterator[RawFile]:
    """Yield every raw file of the project that can be read."""
    for data_format in FORMATS:
        folder = project.raw_folder(data_format)
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".yaml"):
            with contextlib.suppress(Refused):
                sidecar = parse_sidecar(read_sidecar(path, folder))
                for table, name in tables_of_file(data_format, path.relative_to(folder).as_posix()):
                    yield RawFile(table, name, path, sidecar)


def remote_files(project: Project) -> Iterator[RawFile]:
    """Yield the kept copy of each remote file of the project, with what its YAML says. It exists until the next one."""
    blobs, records = BlobStore(project.store), SourceRecords(project.store)
    for data_format in FORMATS:
        folder = project.raw_folder(data_format)
        for declared_in, source in remote_sources(folder).items():
            record = records.read(source)
            with scratch_folder(project.store) as scratch, contextlib.suppress(Refused, UserError):
                if record is not None:
                    path = blobs.checkout(record.sha256, scratch / "copy", allow_redacted=True)
                    sidecar = parse_sidecar(load_sidecar(folder / declared_in))
                    for table, name in tables_of_file(data_format, source.file_name(stem_of(declared_in))):
                        yield RawFile(table, name, path, sidecar, record.sha256, declared_in)


def _stored_files(index: ArtifactIndex, missing: dict[str, None], known: Collection[str]) -> Iterator[RawFile]:
    """Yield each stored copy of a raw file in each way in which a snapshot read it. It exists until the next one.

    A copy that no snapshot lists (the run ended before it was recorded) is read as traces, JSON lines or Parquet,
    unless its hash is in `known`.
    """
    blobs = BlobStore(index.root)
    listed = _listed_files(index)
    for sha256 in sorted(blobs.stored()):
        with scratch_folder(index.root) as scratch:
            try:
                path = blobs.checkout(sha256, scratch / "copy", allow_redacted=True)
            except UserError:
                if blobs.path(sha256).is_file():
                    names = [name for _, name, _ in listed.get(sha256, ())] or ["a raw file"]
                    missing[f"the kept copy of {names[0]} ({sha256[:SHOWN_DIGITS]})"] = None
                continue
            for data_format, name, sidecar_sha256 in listed.get(sha256) or (
                [] if sha256 in known else [_guess(path, scratch)]
            ):
                yield RawFile(data_format, name, path, _stored_sidecar(blobs, sidecar_sha256, scratch), sha256)


def _listed_files(index: ArtifactIndex) -> dict[str, dict[tuple[str, str, str | None], None]]:
    """Return SHA-256 → (format, name, SHA-256 of the sidecar) of every file of every snapshot."""
    files: dict[str, dict[tuple[str, str, str | None], None]] = defaultdict(dict)
    for data_format in FORMATS:
        for node in index.all(f"raw_{data_format}"):
            for entry in node.config.get("files", []):
                if entry.get("sha256"):
                    for table, name in tables_of_file(data_format, entry["name"]):
                        files[entry["sha256"]][table, name, entry.get("sidecar")] = None
    return files


def _guess(path: Path, work: Path) -> tuple[str, str, None]:
    with contextlib.suppress(Refused):
        if begins_with(path, b"PAR1"):
            return "alpaca", "unlisted.parquet", None
        as_traces = read_raw_rows(path, "unlisted.jsonl", "traces", PLAIN, work)
        if any(row.call_ids for row in islice(as_traces, GUESSED_ROWS)):
            return "traces", "unlisted.jsonl", None
    return "alpaca", "unlisted.jsonl", None


def _stored_sidecar(blobs: BlobStore, sha256: str | None, folder: Path) -> Sidecar:
    """Return a stored sidecar. Without one, or if it cannot be read, the file is read as if it had none."""
    if sha256 is None:
        return PLAIN
    try:
        path = blobs.checkout(sha256, folder / "sidecar.yaml")
        return parse_sidecar(load_sidecar(path))
    except (UserError, Refused):
        return PLAIN

"""The remote files of a raw folder, as a snapshot lists them."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ft_pipeline.sources.declaration import BadSource, RemoteSource, read_source
from ft_pipeline.sources.fetch import fetch, is_kept
from ft_pipeline.sources.file_names import stem_of
from ft_pipeline.sources.records import SourceRecord, SourceRecords
from ft_pipeline.sources.snapshot import SIDECAR_SUFFIX, FileError, SnapshotFile
from ft_pipeline.store.blobs import BlobStore

NOT_DOWNLOADED = "a remote file that is not downloaded yet: materialize the snapshot of its folder"


@dataclass(frozen=True)
class Fetching:
    """How remote files are downloaded."""

    report: Callable[[str, int, int | None], None]
    """Called with a source, the bytes that have arrived, and all of its bytes (None if their number is unknown)."""
    clean: Callable[[Path, str, Path], None] = lambda path, name, declared_in: None
    """Called with each downloaded file, the name under which it is listed, and its YAML. It may change the file."""


def read_sources(
    folder: Path, names: Iterable[str], ignored: Collection[str]
) -> tuple[dict[str, RemoteSource], dict[str, FileError]]:
    """Return (sources, errors of the YAMLs whose sources are refused), both by the name of the YAML.

    names: all files of the folder. ignored: those that are not read.
    """
    sources: dict[str, RemoteSource] = {}
    refused: dict[str, FileError] = {}
    names = list(names)
    stems = {stem_of(name) for name in names if not name.endswith(SIDECAR_SUFFIX)}
    for name in (name for name in names if name.endswith(SIDECAR_SUFFIX) and name not in ignored):
        try:
            source = read_source(folder / name)
        except BadSource as error:
            refused[name] = "unknown_format", str(error)
            continue
        if source is not None and stem_of(name) in stems:
            refused[name] = "unknown_format", "a YAML with a source, although the file itself is here: remove one"
        elif source is not None:
            sources[name] = source
    return sources, refused


def remote_file(
    declared_in: Path, stem: str, source: RemoteSource, sidecar: str, store: Path, fetching: Fetching | None
) -> SnapshotFile:
    """Return the entry of a remote file, under the name that a local file would have.

    declared_in: its YAML, with the SHA-256 `sidecar`. Without `fetching`, the network is not used, and the entry has an
    error if the newest revision is not in the store.
    """
    name = source.file_name(stem)
    blobs = BlobStore(store)
    record: SourceRecord | None
    if fetching is None:
        record = SourceRecords(store).read(source)
    else:
        report = partial(fetching.report, source.shown)
        record = fetch(source, store, blobs, report, lambda path: fetching.clean(path, name, declared_in))
    if record is None or record.is_outdated or not is_kept(record, blobs):
        revision = record.latest if record else None
        return SnapshotFile(name, None, 0, None, "not_found", NOT_DOWNLOADED, source.shown, revision)
    return SnapshotFile(name, record.sha256, record.bytes, sidecar, source=source.shown, revision=record.revision)

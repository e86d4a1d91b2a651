"""Asks remote sources for their revision, and downloads them into the store.

The spec of a snapshot has the hash of each file, so that a remote file must be known before the spec can be computed.
Planning computes specs, too, and must work without a network. So two things are apart:

- Asking. Only the materialization of `raw_<format>`, the sensor and `ft validate` use the network. What they learn is
  written to a small record in the store (records.py): the revision that was downloaded, the hash of its bytes, and the
  newest revision that the source has.
- Planning. It reads the records, and nothing else. A source without a record, or with a newer revision, makes the
  snapshot stale. So a plan needs no network, and the next materialization downloads what is missing.

A pinned source is asked once. Another one is asked by each materialization, and by the sensor at an interval. The bytes
are kept like those of local files, by their hash. If a new revision has the same bytes, the snapshot is the same.

Secrets come from the environment only. declaration.py refuses URLs that contain one before their YAML is stored.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ft_pipeline.errors import UserError
from ft_pipeline.features import choice
from ft_pipeline.sources.declaration import CONTENT_PIN, BadSource, RemoteSource, read_source
from ft_pipeline.sources.records import SourceRecord, SourceRecords
from ft_pipeline.sources.transfer import MAX_DOWNLOAD_BYTES, Access, Report, Revision, TransientError
from ft_pipeline.store.artifact_redaction import drafts_folder
from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_file

Clean = Callable[[Path], None]
"""Changes a downloaded file in place, before it is stored."""
RETRY_PAUSES = (1.0, 5.0)
"""Seconds before the second and the third attempt to read a source."""
ASK_SECONDS = 15 * 60
"""How often the sensor asks a source that is not pinned."""


def is_kept(record: SourceRecord, blobs: BlobStore) -> bool:
    """Return whether the store has the bytes that were downloaded last."""
    return bool(blobs.available([record.sha256]))


def fetch(source: RemoteSource, store: Path, blobs: BlobStore, report: Report, clean: Clean) -> SourceRecord:
    """Download the source if the store does not have its newest bytes, and return its new record.

    clean: may change the downloaded file before it is stored.

    Nothing is asked if the source is pinned and was downloaded before. Raises UserError if it cannot be read in three
    attempts; then nothing is changed.
    """
    for pause in RETRY_PAUSES:
        try:
            return _fetch(source, store, blobs, report, clean)
        except TransientError:
            time.sleep(pause)
    return _fetch(source, store, blobs, report, clean)


def _fetch(source: RemoteSource, store: Path, blobs: BlobStore, report: Report, clean: Clean) -> SourceRecord:
    records = SourceRecords(store)
    record = records.read(source)
    kept = record if record and is_kept(record, blobs) else None
    if kept and source.is_pinned:
        return kept
    revision = _access_to(source).ask(source)
    if kept and revision.identity is not None and revision.identity == kept.current:
        kept = replace(kept, latest=kept.current, asked=time.time())
    else:
        sent, sha256, size = _download(source, revision, store, blobs, report, clean)
        current = _identity(source, revision, sent) or CONTENT_PIN + sha256
        first = record.revision if record and record.sha256 == sha256 else current
        kept = SourceRecord(source.shown, first, current, current, sha256, size, time.time())
    records.write(source, kept)
    return kept


def _identity(source: RemoteSource, asked: Revision, sent: Revision) -> str | None:
    """Return the id of what was sent, as the source names it when it is asked.

    Some servers name one file differently when they are asked and when they send it. Then the two answers to the
    question are equal. Otherwise the file changed in between.
    """
    if asked.identity in (None, sent.identity):
        return sent.identity
    again = _access_to(source).ask(source).identity
    return again if again == asked.identity else sent.identity


def look_for_revision(source: RemoteSource, store: Path) -> bool:
    """Ask an unpinned source for its revision, if that is due, and record it. Return whether it was asked.

    Raises UserError if it does not answer. It is asked again after the interval in either case.
    """
    records = SourceRecords(store)
    record = records.read(source)
    if record is None or source.is_pinned or 0 <= time.time() - record.asked < ASK_SECONDS:
        return False
    records.write(source, record := replace(record, asked=time.time()))
    identity = _access_to(source).ask(source).identity
    if identity not in (None, record.latest):
        records.write(source, replace(record, latest=identity))
    return True


@contextmanager
def local_file(path: Path) -> Iterator[Path]:
    """Yield the remote file that a YAML names, in a temporary folder with a copy of the YAML as its sidecar.

    Other files are yielded themselves. Raises UserError if the remote file cannot be read.
    """
    try:
        source = read_source(path) if path.suffix == ".yaml" else None
    except BadSource as error:
        raise UserError(f"{path.name} is {error}.") from None
    if source is None:
        yield path
        return
    access = _access_to(source)
    with translate_write_errors(), tempfile.TemporaryDirectory(prefix="ft-source-") as folder:
        target = Path(folder) / source.file_name(path.stem)
        with target.open("wb") as file:
            access.download(source, access.ask(source), file, lambda size, total: None)
        _check_pin(source, sha256_of_file(target))
        shutil.copyfile(path, target.with_name(path.name))
        yield target


def _download(
    source: RemoteSource,
    revision: Revision,
    store: Path,
    blobs: BlobStore,
    report: Report,
    clean: Clean,
) -> tuple[Revision, str, int]:
    """Download the file and store it. Return its revision, the SHA-256 of what is stored, and its size."""
    folder = drafts_folder(store)
    with translate_write_errors():
        folder.mkdir(parents=True, exist_ok=True)
        file: BinaryIO
        with tempfile.NamedTemporaryFile(dir=folder, prefix="download-") as file:  # type: ignore[assignment]
            sent = _access_to(source).download(source, revision, file, report)
            file.flush()
            path = Path(file.name)
            _check_pin(source, sha256_of_file(path))
            clean(path)
            sha256, size = sha256_of_file(path), path.stat().st_size
            if blobs.is_redacted(sha256):
                raise UserError(
                    f"Rows of {source.shown} were erased here ({sha256[:16]}), and cannot be found in it any more. "
                    "Remove them there, or put the file itself into the folder."
                )
            # A copy, because a reference to this file would soon lead to nothing.
            BlobStore(store, by_reference_above=MAX_DOWNLOAD_BYTES).add(path)
    return sent, sha256, size


def _access_to(source: RemoteSource) -> Access:
    """Return how a source is read. The clients are imported here, because every plan imports this module."""
    made = choice("remote", source.scheme)
    assert made is not None, source.scheme
    access: Access = made()
    return access


def _check_pin(source: RemoteSource, sha256: str) -> None:
    if source.content_pin not in (None, sha256):
        raise UserError(
            f"{source.shown} has the SHA-256 {sha256}, which is not the one that `revision` names. Check the file, and "
            "correct it."
        )

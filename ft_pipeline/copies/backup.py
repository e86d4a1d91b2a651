"""`ft backup`: everything of a project that is needed to go on elsewhere, at one moment, while runs go on.

Dagster's records are copied first, so that each artifact that they name is in the store when that is copied.
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ft_pipeline.copies.places import Place
from ft_pipeline.copies.states import newest_state, write_state
from ft_pipeline.copies.store_files import (
    COPY_SUFFIX,
    MANIFESTS,
    RAW_SUFFIX,
    REPLACED,
    Listing,
    add_small_files,
    journal_lock,
)
from ft_pipeline.copies.transfer import LocalFile, Report, missing_objects, send_objects
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project, has_separate_database
from ft_pipeline.store.artifact_redaction import drafts_folder
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.at_rest import require_as_signed
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.locks import project_lock
from ft_pipeline.store.signing import find_key

DATABASE_SUFFIX = ".db"
QUIET_SECONDS = 60
"""A database that was not written for so long, and has no log of changes, is copied like any file."""


KEYS = "keys"
"""Folder of private keys in a backup that was made with them."""
STORE = "data/store"
LEFT_OUT = (
    *(f"{STORE}/{name}/*" for name in ("cache", "drafts", "locks", "work")),
    f"{STORE}/journal.pending.json",
    f"{STORE}/blobs/.incoming.*",
    f"{STORE}/teachers/*/lock",
    "dagster_home/opening",
    "dagster_home/ui",
    *(f"dagster_home/*{DATABASE_SUFFIX}{suffix}" for suffix in ("-wal", "-shm", "-journal")),
)
"""What is made again, or belongs to running processes. Hidden files and folders are left out, too."""
GROWING = ("dagster_home/*", f"{STORE}/teachers/*", f"{STORE}/notifications.jsonl", f"{STORE}/sources/*")
"""Files that running processes write to. Their present content is copied."""
CHANGED = "was changed while it was copied. Run again"
SEPARATE_DATABASE = (
    "Dagster's run history is in a separate database (dagster.yaml), which this backup does not have. Back it up with "
    "its own tools, at the same time: pg_dump"
)


@dataclass(frozen=True)
class BackupResult:
    """Result of `ft backup`."""

    address: str
    number: int
    files: int
    bytes: int
    """Size of the project's files."""
    sent: int
    """Number of files whose content was written; the others were there."""
    sent_bytes: int
    with_key: bool
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def back_up(project: Project, place: Place, report: Report, *, with_key: bool) -> BackupResult:
    """Write a new state of a backup. After an interruption, the same call completes it.

    with_key: the private key of the store is part of it. UserError if the key is missing, if the store is not as it was
    signed, or if the place has something else.
    """
    require_as_signed(project.store)
    previous = newest_state(place, "project")
    drafts_folder(project.store).mkdir(parents=True, exist_ok=True)
    with (
        project_lock(project.store).hold(shared=True),
        tempfile.TemporaryDirectory(prefix="backup-", dir=drafts_folder(project.store)) as scratch,
    ):
        listing = list_project(project, Path(scratch))
        if with_key:
            _add_key(listing, project)
        missing = missing_objects(place, listing.files)
        send_objects(place, missing, report)
        files = {name: file.entry for name, file in listing.files.items()}
        state = write_state(place, previous, "project", project.settings.name, files)
    sent_bytes = sum(file.size for file in missing.values())
    return BackupResult(
        place.address, state.number, len(files), listing.bytes, len(missing), sent_bytes, with_key, listing.notes
    )


def list_project(project: Project, scratch: Path) -> Listing:
    """Return the files of a project at one moment. scratch: a folder for copies of what running processes write to."""
    listing = Listing()
    if has_separate_database(project.dagster_home):
        listing.notes.append(SEPARATE_DATABASE)
    for database in database_files(project.dagster_home):
        if is_in_use(database):
            copy = scratch / database.relative_to(project.root)
            copy_database(database, copy)
            listing.files[database.relative_to(project.root).as_posix()] = _file(copy)
    with journal_lock(project.store).hold():
        records = Listing()
        add_small_files(records, project.store, *REPLACED)
        add_small_files(records, project.store, MANIFESTS)
        paths = list(_files(project.root, listing))
    listing.files |= {f"{STORE}/{name}": file for name, file in records.files.items()}
    _add_files(listing, project, paths, scratch)
    _copy_referenced_files(listing, project.store)
    return listing


def _files(root: Path, listing: Listing) -> Iterator[Path]:
    """Yield the files of a project that are copied. Links are noted and left out."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for path in [Path(folder) / name for name in sorted([*names, *folders])]:
            name = path.relative_to(root).as_posix()
            if path.is_symlink():
                listing.notes.append(f"{name} is a link, and is not copied.")
            elif path.is_file() and not is_left_out(name):
                yield path


def is_left_out(name: str) -> bool:
    """Return whether no backup has a file of this name: it is hidden, or one of LEFT_OUT."""
    return "/." in f"/{name}" or _is(name, LEFT_OUT)


def _is(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _file(path: Path) -> LocalFile:
    return LocalFile(sha256_of_file(path), path.stat().st_size, path)


def _copied(path: Path, target: Path) -> LocalFile:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return _file(target)


def _add_files(listing: Listing, project: Project, paths: list[Path], scratch: Path) -> None:
    """Add the files that are not listed yet. Those that processes write to are copied to `scratch` first."""
    named = {path.relative_to(project.root).as_posix(): path for path in paths}
    names = [name for name in named if name not in listing.files]
    for name in [name for name in names if _is(name, GROWING)]:
        with contextlib.suppress(FileNotFoundError):  # Dagster removed the log of a run
            listing.files[name] = _copied(named[name], scratch / name)
    still = [name for name in names if not _is(name, GROWING)]
    failed: dict[str, OSError] = {}
    hashes = ArtifactStore(project.store).hashes_below(project.root, still, failed)
    for name, sha256 in hashes.items():
        listing.files[name] = LocalFile(sha256, named[name].stat().st_size, named[name], problem=CHANGED)
    for name, error in failed.items():
        raise UserError(f"{name} cannot be read ({error.strerror}). Run again, or let this user read it.")


def _copy_referenced_files(listing: Listing, root: Path) -> None:
    """Replace references of the store to large raw files, which name paths of this machine, by the files' bytes."""
    blobs = BlobStore(root)
    for name in [name for name in listing.files if _is(name, (f"{STORE}/blobs/*.reference.json",))]:
        del listing.files[name]
        sha256 = Path(name).name.partition(".")[0]
        stem = name.removesuffix(".reference.json")
        if stem + COPY_SUFFIX in listing.files:
            continue
        if (referenced := blobs.referenced_file(sha256)) is not None:
            listing.files[stem + RAW_SUFFIX] = _file(referenced)
        else:
            listing.notes.append(f"The raw file {sha256[:16]} was moved or changed, and is not copied.")


def _add_key(listing: Listing, project: Project) -> None:
    key = find_key(project.store)
    if key is None:
        raise UserError("This store is not signed, so there is no key to back up. Leave out --with-key.")
    listing.add(f"{KEYS}/{key.key_id[:16]}.pem", key.path.read_bytes())


def database_files(home: Path) -> list[Path]:
    """Return the databases of Dagster's folder."""
    return sorted(path for path in home.rglob(f"*{DATABASE_SUFFIX}") if path.is_file() and not path.is_symlink())


def is_in_use(database: Path) -> bool:
    """Return whether a process may be writing to a database. Then its file alone is not the whole database."""
    return any(_logs_with_content(database)) or time.time() - database.stat().st_mtime < QUIET_SECONDS


def copy_database(database: Path, target: Path) -> None:
    """Write the database as it is now, by SQLite's own backup. UserError if it is damaged, or locked for too long."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            contextlib.closing(
                sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=60)
            ) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
    except sqlite3.Error as error:
        raise UserError(f"The database {database} cannot be copied ({error}). Run again.") from None


def _logs_with_content(database: Path) -> Iterator[Path]:
    for suffix in ("-wal", "-journal"):
        log = database.with_name(database.name + suffix)
        if log.is_file() and log.stat().st_size:
            yield log

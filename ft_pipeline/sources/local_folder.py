"""The files of a raw folder: listed, checked, and stored by content.

A YAML with a `source` names a remote file (declaration.py), which is listed like a local file.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ft_pipeline.sources.declaration import RemoteSource
from ft_pipeline.sources.file_names import stem_of
from ft_pipeline.sources.remote_listing import Fetching, read_sources, remote_file
from ft_pipeline.sources.snapshot import SIDECAR_SUFFIX, FileError, Snapshot, SnapshotFile, printable
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.locks import project_lock
from ft_pipeline.store.stat_cache import StatCache

IGNORED_NAMES = {"readme.md"}
"""Names of files that are not data, in lower case."""


class _StoredFile(NamedTuple):
    sha256: str
    bytes: int


def snapshot_folder(
    folder: Path, store: ArtifactStore, blobs: BlobStore | None = None, fetching: Fetching | None = None
) -> Snapshot:
    """Store every file of a format folder and return the snapshot. A missing folder counts as empty.

    fetching: download new remote files in this way. Without it, the network is not used, and a remote file
    that is not downloaded yet is listed with an error. Raises UserError if a remote file cannot be read.

    Waits until `ft erase` has ended. Files that are unchanged (by stat) and already stored are not read again. A file
    that disappears meanwhile is ignored. Raises UserError if the store cannot be written, or if a file is being written
    to.
    """
    with project_lock(store.root).hold(shared=True):
        return _snapshot_folder(folder, store, blobs or BlobStore(store.root), fetching)


def _snapshot_folder(folder: Path, store: ArtifactStore, blobs: BlobStore, fetching: Fetching | None) -> Snapshot:
    names = sorted(_file_names(folder))
    errors = {name: error for name in names if (error := _find_error(folder, name))}
    sources, refused = read_sources(folder, names, errors)
    errors |= refused  # a YAML that is refused may contain a secret, so that it is not stored
    readable = [name for name in names if name not in errors]
    cache = StatCache(store.root)
    stored, failed = _store_files(folder, readable, cache, blobs)
    errors |= {name: _describe_failure(failure) for name, failure in failed.items()}
    names = [name for name in names if not isinstance(failed.get(name), FileNotFoundError)]
    sidecars = {name.removesuffix(SIDECAR_SUFFIX): name for name in names if name.endswith(SIDECAR_SUFFIX)}
    data_files = [name for name in names if not name.endswith(SIDECAR_SUFFIX)]
    entries = [_snapshot_file(name, sidecars.get(stem_of(name)), stored, errors) for name in data_files]
    stems = {stem_of(name) for name in data_files}
    alone = [name for stem, name in sidecars.items() if stem not in stems]
    for name in alone:
        if name in refused:
            entries.append(_snapshot_file(name, None, stored, errors))
        elif name in sources and name in stored:
            sidecar = stored[name].sha256
            entries.append(remote_file(folder / name, stem_of(name), sources[name], sidecar, store.root, fetching))
    unused = [printable(name) for name in alone if name not in sources and name not in refused]
    return Snapshot(sorted(entries, key=lambda entry: entry.name), unused)


def remote_sources(folder: Path) -> dict[str, RemoteSource]:
    """Return the remote sources of a format folder, by the name of their YAML. Those that are refused are missing."""
    names = sorted(_file_names(folder))
    stems = {stem_of(name) for name in names if not name.endswith(SIDECAR_SUFFIX)}
    alone = [name for name in names if name.endswith(SIDECAR_SUFFIX) and stem_of(name) not in stems]
    errors = {name: error for name in alone if (error := _find_error(folder, name))}
    return read_sources(folder, alone, errors)[0]


def folder_stamp(folder: Path) -> str:
    """Return a hash of every file's name, size, times and inode. It changes only after a write. No file is read."""
    return sha256_of_json([[printable(name), *_stamp(folder / name)] for name in sorted(_file_names(folder))])


def has_files(folder: Path) -> bool:
    """Return whether the folder has a data file, or anything that is refused in its place."""
    return any(True for _ in _file_names(folder))


def last_written(folder: Path) -> str:
    """Return the name of the file that was written last; empty if there is none."""
    stamps = {name: stamp for name in _file_names(folder) if (stamp := _stamp(folder / name))}
    return printable(max(stamps, key=lambda name: stamps[name][1])) if stamps else ""


def _store_files(
    folder: Path, names: list[str], cache: StatCache, blobs: BlobStore
) -> tuple[dict[str, _StoredFile], dict[str, OSError]]:
    """Store the files. Return (stored files, errors of files that are unreadable or have disappeared), both by name."""
    failed: dict[str, OSError] = {}
    stored = {}
    hashes = cache.hashes(folder, names, blobs.add, failed)
    available = blobs.available(hashes.values())
    for name, sha256 in hashes.items():
        path = folder / name
        try:
            stored[name] = _StoredFile(sha256 if sha256 in available else blobs.add(path), path.stat().st_size)
        except OSError as error:
            failed[name] = error
    return stored, failed


def _describe_failure(error: OSError) -> FileError:
    if isinstance(error, PermissionError):
        return "not_found", "it cannot be read: give this user the right to read it"
    return "not_found", f"it cannot be read: {(error.strerror or str(error)).lower()}"


def _snapshot_file(
    name: str, sidecar: str | None, stored: dict[str, _StoredFile], errors: dict[str, FileError]
) -> SnapshotFile:
    """Return the entry of a data file. It is refused if the file itself or its sidecar has an error."""
    if error := errors.get(name):
        code, message = error
        return SnapshotFile(printable(name), error_code=code, error_message=message)
    if sidecar and (error := errors.get(sidecar)):
        code, message = error
        return SnapshotFile(
            printable(name), error_code=code, error_message=f"its sidecar {printable(sidecar)} is {message}"
        )
    sidecar_sha256 = stored[sidecar].sha256 if sidecar else None
    return SnapshotFile(name, stored[name].sha256, stored[name].bytes, sidecar_sha256)


def _find_error(folder: Path, name: str) -> FileError | None:
    """Return why a file is refused. None if it is not, and also if it has disappeared."""
    path = folder / name
    if printable(name) != name:
        return "not_utf8", "the file's name is not UTF-8: rename it"
    try:
        is_link = path.is_symlink()
        leads_out = is_link and not path.resolve().is_relative_to(folder.resolve())
        exists = path.exists()
    except PermissionError:
        return "not_found", "it cannot be looked at: give this user the right to enter its folder"
    except (OSError, RuntimeError):
        return "not_found", "a link that leads back to itself: remove it, or put the file here"
    if leads_out:
        return "path_outside_data_dir", "a link that leads out of the data folder: put the file itself here"
    if not exists:
        return ("not_found", "a link to nothing: remove it, or put the file here") if is_link else None
    if path.is_dir() and not is_link:
        return "not_found", "a folder that cannot be opened: give this user the right to read and enter it"
    if name.endswith(".yml"):
        return "unknown_format", "a sidecar's name must end in .yaml: rename it"
    if name == ".":
        return "not_a_file", "a file in the place of the folder: make a folder of that name, and put the file into it"
    if not path.is_file():
        return "not_a_file", "neither a file nor a plain folder: put the file itself here"
    return None


def _file_names(folder: Path) -> Iterator[str]:
    """Yield the relative name of every file and link below `folder`, except hidden files and READMEs.

    Links to folders, and folders that cannot be opened, are yielded but not entered. `.` is `folder` itself.
    """
    errors: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=errors.append):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".") and name not in links]
        for name in [*files, *links]:
            if not name.startswith(".") and name.lower() not in IGNORED_NAMES:
                yield (Path(parent) / name).relative_to(folder).as_posix()
    for error in errors:
        if not isinstance(error, FileNotFoundError):
            yield Path(os.fsdecode(error.filename)).relative_to(folder).as_posix()


def _stamp(path: Path) -> list[int]:
    """Return size, times and inode; empty if the file was removed meanwhile or its folder cannot be entered."""
    try:
        stat = path.lstat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]

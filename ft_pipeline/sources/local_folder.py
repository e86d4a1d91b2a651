"""The files of a local folder: listed, checked, and stored by content."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ft_pipeline.sources.snapshot import SIDECAR, FileError, Snapshot, SnapshotFile, printable
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.stat_cache import StatCache

IGNORED = {"readme.md"}


def snapshot_folder(folder: Path, store: ArtifactStore, blobs: BlobStore | None = None) -> Snapshot:
    """Store every file of a format folder and return the snapshot. A missing folder counts as empty.

    Files that are unchanged (by stat) and already stored are not read again. A file that disappears meanwhile is
    ignored. Raises UserError if the store cannot be written, or if a file is being written to.
    """
    names = sorted(_names(folder))
    faults = {name: fault for name in names if (fault := _fault(folder, name))}
    sound = [name for name in names if name not in faults]
    kept, failed = _keep(folder, sound, StatCache(store.root / "cache" / "stat"), blobs or BlobStore(store.root))
    faults |= {name: _unreadable(error) for name, error in failed.items()}
    names = [name for name in names if not isinstance(failed.get(name), FileNotFoundError)]
    sidecars = {name.removesuffix(SIDECAR): name for name in names if name.endswith(SIDECAR)}
    data = [name for name in names if not name.endswith(SIDECAR)]
    entries = [_entry(name, sidecars.get(_stem(name)), kept, faults) for name in data]
    stems = {_stem(name) for name in data}
    return Snapshot(entries, [printable(name) for stem, name in sidecars.items() if stem not in stems])


def folder_stamp(folder: Path) -> str:
    """Return a hash of every file's name, size, times and inode. It changes only after a write. No file is read."""
    return sha256_of_json([[printable(name), *_stamp(folder / name)] for name in sorted(_names(folder))])


def last_written(folder: Path) -> str:
    """Return the name of the file that was written last; empty if there is none."""
    stamps = {name: stamp for name in _names(folder) if (stamp := _stamp(folder / name))}
    return printable(max(stamps, key=lambda name: stamps[name][1])) if stamps else ""


def _keep(
    folder: Path, names: list[str], cache: StatCache, blobs: BlobStore
) -> tuple[dict[str, tuple[str, int]], dict[str, OSError]]:
    """Store the files. Return (SHA-256 and bytes of each; errors of files that are unreadable or have disappeared)."""
    failed: dict[str, OSError] = {}
    kept = {}
    for name, sha256 in cache.hashes(folder, names, blobs.add, failed).items():
        path = folder / name
        try:
            kept[name] = (sha256 if blobs.has(sha256) else blobs.add(path), path.stat().st_size)
        except OSError as error:
            failed[name] = error
    return kept, failed


def _unreadable(error: OSError) -> FileError:
    if isinstance(error, PermissionError):
        return "not_found", "it cannot be read: give this user the right to read it"
    return "not_found", f"it cannot be read: {(error.strerror or str(error)).lower()}"


def _entry(
    name: str, sidecar: str | None, kept: dict[str, tuple[str, int]], faults: dict[str, FileError]
) -> SnapshotFile:
    if fault := faults.get(name):
        return SnapshotFile(printable(name), error_code=fault[0], error_message=fault[1])
    if sidecar and (fault := faults.get(sidecar)):
        message = f"its sidecar {printable(sidecar)} is {fault[1]}"
        return SnapshotFile(printable(name), error_code=fault[0], error_message=message)
    return SnapshotFile(name, *kept[name], kept[sidecar][0] if sidecar else None)


def _fault(folder: Path, name: str) -> FileError | None:
    """Return why a file is refused; None also for a file that has disappeared."""
    path = folder / name
    if printable(name) != name:
        return "not_utf8", "the file's name is not UTF-8: rename it"
    try:
        link = path.is_symlink()
        inside = not link or path.resolve().is_relative_to(folder.resolve())
        there = path.exists()
    except PermissionError:
        return "not_found", "it cannot be looked at: give this user the right to enter its folder"
    except (OSError, RuntimeError):
        return "not_found", "a link that leads back to itself: remove it, or put the file here"
    if not inside:
        return "path_outside_data_dir", "a link that leads out of the data folder: put the file itself here"
    if not there:
        return ("not_found", "a link to nothing: remove it, or put the file here") if link else None
    if path.is_dir() and not link:
        return "not_found", "a folder that cannot be opened: give this user the right to read and enter it"
    if name.endswith(".yml"):
        return "unknown_format", "a sidecar's name must end in .yaml: rename it"
    if name == ".":
        return "not_a_file", "a file in the place of the folder: make a folder of that name, and put the file into it"
    if not path.is_file():
        return "not_a_file", "neither a file nor a plain folder: put the file itself here"
    return None


def _names(folder: Path) -> Iterator[str]:
    """Yield the name of every file and link below `folder`, except hidden files and READMEs.

    Links to folders, and folders that cannot be opened, are yielded but not entered. `.` is `folder` itself.
    """
    closed: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=closed.append):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".") and name not in links]
        for name in [*files, *links]:
            if not name.startswith(".") and name.lower() not in IGNORED:
                yield (Path(parent) / name).relative_to(folder).as_posix()
    for error in closed:
        if not isinstance(error, FileNotFoundError):
            yield Path(os.fsdecode(error.filename)).relative_to(folder).as_posix()


def _stamp(path: Path) -> list[int]:
    """Return size, times and inode; empty if the file was removed meanwhile or its folder cannot be entered."""
    try:
        seen = path.lstat()
    except OSError:
        return []
    return [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]


def _stem(name: str) -> str:
    """Return the name without its last suffix. A data file and its sidecar share it."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.name else name

"""Crash-safe writes: a crash leaves the old state or the new state, never a mixture."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ft_pipeline.errors import UserError

_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT}
_ACCESS_IS_DENIED = {errno.EACCES, errno.EPERM}


def describe_write_error(error: Exception) -> str | None:
    """Return the problem and its fix for a full or read-only file system or a denied path; None for any other error.

    The path may be anywhere: a worker also reads models and writes exports.
    """
    if not isinstance(error, OSError):  # libraries in other languages put the system's text into another exception
        return full_disk_message() if os.strerror(errno.ENOSPC) in str(error) else None
    if error.errno in _DISK_IS_FULL:
        return full_disk_message(f" ({error.filename})" if error.filename else "")
    # An error of Arrow has no file name. Its `strerror` already contains the path.
    details = f"{error.filename}, {(error.strerror or '').lower()}" if error.filename else error.strerror
    if error.errno == errno.EROFS:
        return f"cannot write: {details}; make it writable and run again"
    if error.errno in _ACCESS_IS_DENIED:
        return f"no access: {details}; let this user read and write it, and run again"
    return None


def full_disk_message(where: str = "") -> str:
    """Return the message for a full disk."""
    return f"no space is left on the disk{where}; free some space and run again (finished parts are kept)"


@contextlib.contextmanager
def translate_write_errors() -> Iterator[None]:
    """Turn "disk full", "read-only" and "permission denied" into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        if message := describe_write_error(error):
            raise UserError(message) from error
        raise


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `path` so that readers see the old bytes or all of the new ones, even after a power cut."""
    with _complete_file(path, content) as complete:
        complete.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def rewriting(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces `path` at the end of the block, with the permissions of `path`.

    After an exception, `path` is unchanged.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(path.stat().st_mode & 0o7777)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    sync_folder(path.parent)


def create_atomically(path: Path, content: bytes) -> bool:
    """Write `path` completely or not at all. Return False if it exists; then it is not changed."""
    with _complete_file(path, content) as complete:
        try:
            os.link(complete, path)  # fails if the name exists, unlike a rename
        except FileExistsError:
            return False
    sync_folder(path.parent)
    return True


@contextlib.contextmanager
def _complete_file(path: Path, content: bytes) -> Iterator[Path]:
    """Yield a temporary file next to `path` that has the content, flushed to the disk. It is removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)

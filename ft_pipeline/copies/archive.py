"""A copy in one file: an uncompressed tar with the same objects as a folder."""

import contextlib
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ft_pipeline.copies.places import Count, Place, missing_object, open_place
from ft_pipeline.errors import UserError
from ft_pipeline.store.atomic_files import sync_file, sync_folder, translate_write_errors

SUFFIX = ".tar"


class ArchivePlace:
    """An open tar."""

    def __init__(self, address: str, tar: tarfile.TarFile) -> None:
        self.address = address
        self._tar = tar
        self._lock = threading.Lock()
        # A link would be followed, and a sparse file may be any number of bytes.
        entries = [] if tar.mode == "w" else [one for one in tar.getmembers() if one.isreg() and not one.issparse()]
        self._entries = {entry.name: entry for entry in entries}

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: entry.size for name, entry in self._entries.items() if name.startswith(f"{folder}/")}

    def read(self, name: str) -> bytes:
        with self._lock:
            return self._member(name).read()

    def fetch(self, name: str, target: Path, count: Count) -> None:
        with self._lock, target.open("wb") as file:
            shutil.copyfileobj(self._member(name), file)

    def send(self, source: Path, name: str, count: Count) -> None:
        with self._lock, translate_write_errors():
            self._tar.add(source, name, recursive=False)

    def create(self, name: str, content: bytes) -> bool:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        with self._lock, translate_write_errors():
            self._tar.addfile(entry, io.BytesIO(content))
        return True

    def _member(self, name: str) -> IO[bytes]:
        member = self._tar.extractfile(self._entries[name]) if name in self._entries else None
        if member is None:
            raise missing_object(self.address, name)
        return member


@contextlib.contextmanager
def writing_place(address: str, project: Path) -> Iterator[Place]:
    """Yield a place as open_place does, or a new file FILE.tar, which appears when it is complete."""
    if not address.endswith(SUFFIX) or "://" in address:
        yield open_place(address, project)
        return
    path = Path(address).expanduser().absolute()
    if path.resolve().is_relative_to(project.resolve()):
        raise UserError(f"{address} is in the project itself. Name a file on another disk.")
    if path.exists():
        raise UserError(f"{address} exists. Name a new file, or a folder, which gets only what is new.")
    if not path.parent.is_dir():
        raise UserError(f"The folder {path.parent} does not exist. Create it, or mount the disk.")
    part = path.with_name(f".{path.name}.part")
    with translate_write_errors():
        part.touch(mode=0o600)  # it has the rows of the training data
        try:
            with tarfile.open(part, "w") as tar:
                yield ArchivePlace(str(path), tar)
            sync_file(part)
            part.replace(path)
            sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def reading_place(address: str) -> Iterator[Place]:
    """Yield a place as open_place does, or a file FILE.tar. UserError if the file cannot be read."""
    if not address.endswith(SUFFIX) or "://" in address:
        yield open_place(address)
        return
    with contextlib.ExitStack() as opened:
        try:
            place = ArchivePlace(address, opened.enter_context(tarfile.open(Path(address).expanduser(), "r:")))
        except FileNotFoundError:
            raise UserError(f"There is no file {address}. Name a backup.") from None
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            raise _unreadable(address, error) from None
        try:
            yield place
        except tarfile.TarError as error:
            raise _unreadable(address, error) from None


def _unreadable(address: str, error: Exception) -> UserError:
    return UserError(f"{address} cannot be read as a backup ({error}). Name a file of `ft backup`.")

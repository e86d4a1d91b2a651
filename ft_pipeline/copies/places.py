"""Where copies are kept: a folder, a bucket, or one file. A place has named objects that never change once they are
complete."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from ft_pipeline.errors import UserError
from ft_pipeline.store.atomic_files import sync_file, sync_folder, translate_write_errors
from ft_pipeline.store.buckets import SCHEME, bucket_and_folder, bucket_errors, file_system
from ft_pipeline.store.hashing import CHUNK_BYTES

FILE_SCHEME = "file://"
_NEEDS = "A copy in S3 needs"
_AGAIN = "run again to continue"


Count = Callable[[int], None]
"""Called with the number of bytes that were transferred since the last call, if the place counts them."""


class Place(Protocol):
    """A place with copies. UserError if it cannot be read or written."""

    address: str
    """As the user named it."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Return name → bytes of the complete objects below `folder`."""

    def read(self, name: str) -> bytes:
        """Return a small object."""

    def fetch(self, name: str, target: Path, count: Count) -> None:
        """Write an object to a file, which may be left incomplete if the process is killed."""

    def send(self, source: Path, name: str, count: Count) -> None:
        """Make the content of a file an object. It appears complete or not at all."""

    def create(self, name: str, content: bytes) -> bool:
        """Make `content` an object. Return False if there is one of that name; then it is not changed."""


class FolderPlace:
    """A folder on a disk that is mounted."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder)
        self._folder = folder

    def sizes(self, folder: str) -> dict[str, int]:
        root = self._folder / folder
        paths = (Path(parent) / name for parent, _, names in os.walk(root) for name in names if name[0] != ".")
        return {path.relative_to(self._folder).as_posix(): path.stat().st_size for path in paths if path.is_file()}

    def read(self, name: str) -> bytes:
        with self._reading(name):
            return (self._folder / name).read_bytes()

    def fetch(self, name: str, target: Path, count: Count) -> None:
        with self._reading(name):
            _copy(self._folder / name, target, count)

    def send(self, source: Path, name: str, count: Count) -> None:
        with self._complete(name) as part, translate_write_errors():
            _copy(source, part, count)
            sync_file(part)
            part.replace(self._folder / name)
            sync_folder(part.parent)

    def create(self, name: str, content: bytes) -> bool:
        target = self._folder / name
        if target.exists():
            return False
        with self._complete(name) as part, translate_write_errors():
            part.write_bytes(content)
            sync_file(part)
            try:
                os.link(part, target)  # fails if the name exists, unlike a rename
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links, such as exFAT
                if target.exists():
                    return False
                part.replace(target)
            sync_folder(part.parent)
        return True

    @contextlib.contextmanager
    def _complete(self, name: str) -> Iterator[Path]:
        """Yield a hidden file that becomes the object `name`. A killed process leaves it; it is never read."""
        target = self._folder / name
        if not self._folder.parent.is_dir():
            raise UserError(f"The folder {self._folder.parent} does not exist. Create it, or mount the disk.")
        with translate_write_errors():
            self._folder.mkdir(exist_ok=True, mode=0o700)  # it has the rows of the training data
            target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise missing_object(self.address, name) from None


class BucketPlace:
    """A folder in a bucket of S3, or of a store that speaks its protocol. Credentials are those of AWS's own tools."""

    def __init__(self, address: str) -> None:
        """address: `s3://BUCKET/FOLDER`."""
        self._path = bucket_and_folder(address)
        self.address = f"{SCHEME}{self._path}"
        with bucket_errors(self._path, _NEEDS, _AGAIN, "opened"):
            self._files = file_system(_NEEDS)

    def sizes(self, folder: str) -> dict[str, int]:
        with self._errors("read"):
            found = self._files.find(f"{self._path}/{folder}", detail=True)
        return {path.removeprefix(f"{self._path}/"): int(info["size"]) for path, info in found.items()}

    def read(self, name: str) -> bytes:
        with self._errors("read"), self._existing(name):
            content: bytes = self._files.cat_file(f"{self._path}/{name}")
            return content

    def fetch(self, name: str, target: Path, count: Count) -> None:
        with self._errors("read"), self._existing(name):
            self._files.get_file(f"{self._path}/{name}", str(target), callback=_counting(count))

    def send(self, source: Path, name: str, count: Count) -> None:
        with self._errors("written"):
            self._files.put_file(str(source), f"{self._path}/{name}", callback=_counting(count))

    def create(self, name: str, content: bytes) -> bool:
        with self._errors("written"):
            try:
                self._files.pipe_file(f"{self._path}/{name}", content, mode="create")
            except FileExistsError:
                return False
        return True

    def _errors(self, verb: str) -> contextlib.AbstractContextManager[None]:
        return bucket_errors(self._path, _NEEDS, _AGAIN, verb)

    @contextlib.contextmanager
    def _existing(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise missing_object(self.address, name) from None


def open_place(address: str, project: Path | None = None) -> Place:
    """Return the place that a user named: s3://BUCKET/FOLDER, file:///FOLDER, or a path.

    UserError if it is of another kind, or in the folder `project`, which is copied.
    """
    if address.startswith(SCHEME):
        return BucketPlace(address)
    if "://" in address and not address.startswith(FILE_SCHEME):
        raise UserError(f"{address!r} is not a place for copies. Use s3://BUCKET/FOLDER, or a folder.")
    named = unquote(urlsplit(address).path) if address.startswith(FILE_SCHEME) else address
    folder = Path(named).expanduser().absolute()
    if project is not None and folder.resolve().is_relative_to(project.resolve()):
        raise UserError(f"{address} is in the project itself. Name a folder on another disk, or s3://BUCKET/FOLDER.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{address} is a file. Name a folder, or s3://BUCKET/FOLDER.")
    return FolderPlace(folder)


def _copy(source: Path, target: Path, count: Count) -> None:
    with source.open("rb") as content, target.open("wb") as file:
        while chunk := content.read(CHUNK_BYTES):
            file.write(chunk)
            count(len(chunk))


def _counting(count: Count) -> Any:
    """Return what fsspec calls during a transfer."""
    from fsspec.callbacks import Callback

    class Counting(Callback):
        def relative_update(self, inc: int = 1) -> None:
            count(inc)

    return Counting()


def missing_object(address: str, name: str) -> UserError:
    """Return the error for an object that a state lists, and the place lacks."""
    return UserError(f"{address} has no {name}, which it should have. Push again from a store that has it.")

"""Objects sent to a place and fetched from it, several at a time.

Only what is missing is transferred. Every file is hashed before it is sent, and after it has arrived.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ft_pipeline.copies.places import Count, Place
from ft_pipeline.copies.states import OBJECTS, CopiedFile, object_name
from ft_pipeline.errors import UserError
from ft_pipeline.store.atomic_files import sync_file, translate_write_errors
from ft_pipeline.store.hashing import sha256_of_file

THREADS = 8
"""Number of transfers at a time. Most files are small, so that waiting for answers takes longest."""
Report = Callable[[int, int], None]
"""Called with the bytes that have been transferred, and with all bytes."""
_Item = TypeVar("_Item")


class ChangedCopy(UserError):
    """A copy is not as it was written, so that nothing of it is used."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where} was changed: {why}. Nothing was used.")


@dataclass(frozen=True)
class LocalFile:
    """A file that is copied."""

    sha256: str
    size: int
    """Bytes."""
    source: Path | bytes
    """The file; or its content, if it may be replaced while it is copied."""
    check: Callable[[], str | None] | None = None
    """Returns what is wrong with the file, if its hash does not show it. Called before it is sent."""
    problem: str = "is not as it was recorded. Run `ft audit --verify`"
    """What an error says of the file if it has another hash."""
    others: tuple[Path, ...] = ()
    """Further files with this content, which are sent if the first one is damaged."""

    @property
    def entry(self) -> CopiedFile:
        """How a state lists it."""
        return CopiedFile(self.sha256, self.size)


def missing_objects(place: Place, files: Mapping[str, LocalFile]) -> dict[str, LocalFile]:
    """Return the files whose content the place lacks, one for each content.

    UserError if an object there does not have the size of its content: it was not written by a push.
    """
    present = place.sizes(OBJECTS)
    missing: dict[str, LocalFile] = {}
    first: dict[str, str] = {}
    for name, file in files.items():
        size = present.get(object_name(file.sha256))
        if size is None and file.sha256 not in first:
            missing[name] = file
            first[file.sha256] = name
        elif size is None and isinstance(file.source, Path):
            known = missing[first[file.sha256]]
            missing[first[file.sha256]] = replace(known, others=(*known.others, file.source))
        elif size not in (None, file.size):
            raise UserError(
                f"{place.address}/{object_name(file.sha256)} does not have the size of {name}: it was changed. Remove "
                "it there, and run again."
            )
    return missing


def send_objects(place: Place, missing: Mapping[str, LocalFile], report: Report) -> None:
    """Send files, each hashed again. UserError if one is not as it was recorded."""
    _in_parallel(missing.items(), lambda item, count: _send(place, *item, count), lambda item: item[1].size, report)


def _send(place: Place, name: str, file: LocalFile, count: Count) -> None:
    if isinstance(file.source, bytes):
        place.create(object_name(file.sha256), file.source)
        return
    try:
        problem = file.check() if file.check else None
        intact = (path for path in (file.source, *file.others) if sha256_of_file(path) == file.sha256)
        source = None if problem else next(intact, None)
    except FileNotFoundError:
        raise UserError(f"{name} was removed while it was copied. Run again.") from None
    if source is None:
        raise UserError(f"{name} {problem or file.problem}.")
    place.send(source, object_name(file.sha256), count)


def fetch_objects(place: Place, wanted: Iterable[CopiedFile], folder: Path, report: Report) -> None:
    """Fetch objects into `folder`, under their SHA-256. What an interrupted call fetched is not fetched again.

    ChangedCopy if one does not have the content of its name.
    """
    files = {file.sha256: file for file in wanted if not (folder / file.sha256).is_file()}
    with translate_write_errors():
        folder.mkdir(parents=True, exist_ok=True)
    _in_parallel(
        files.values(), lambda file, count: _fetch(place, file, folder, count), lambda file: file.bytes, report
    )


def _fetch(place: Place, file: CopiedFile, folder: Path, count: Count) -> None:
    name = object_name(file.sha256)
    part = folder / f".{file.sha256}"
    with translate_write_errors():
        place.fetch(name, part, count)
        if sha256_of_file(part) != file.sha256:
            part.unlink()
            raise ChangedCopy(f"{place.address}/{name}", "its content is not that of its name")
        sync_file(part)
        part.replace(folder / file.sha256)


def _in_parallel(
    items: Iterable[_Item], work: Callable[[_Item, Count], None], size: Callable[[_Item], int], report: Report
) -> None:
    """Call `work` for every item in several threads. After the first error, no further item is begun."""
    items = list(items)
    total, done, lock = sum(map(size, items)), 0, threading.Lock()

    def add(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            report(done, total)

    def work_and_count(item: _Item) -> None:
        counted = 0

        def count(more: int) -> None:
            nonlocal counted
            counted += more
            add(more)

        work(item, count)
        add(size(item) - counted)  # not every place counts

    report(0, total)
    threads = ThreadPoolExecutor(THREADS)
    try:
        for result in [threads.submit(work_and_count, item) for item in items]:
            result.result()
    finally:
        threads.shutdown(cancel_futures=True)

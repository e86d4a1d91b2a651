"""The work of reading a raw file: its batches, each of which any process or machine can turn into rows."""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ft_pipeline.tables.file_result import rows_path, write_stream
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.process_batch import BatchResult, process_batch
from ft_pipeline.tables.reading.batches import Batch
from ft_pipeline.tables.reading.containers import check_path, read_batches
from ft_pipeline.tables.reading.process_pool import map_batches
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Refused


@dataclass(frozen=True)
class FileTask:
    """A raw file to read. Its folders must be there, under the same paths, wherever it is read."""

    path: Path
    data_dir: Path
    """The folder that must contain the file."""
    suffix: str
    """The suffix of the user's name for it."""
    folder: Path
    """Receives the accepted rows."""
    data_format: str
    sidecar: Sidecar
    prepared: Any = None
    """What `Format.prepare` returned for the file."""

    def batches(self) -> Iterator[Batch]:
        """Yield the rows of the file. Raises Refused, possibly late."""
        documents = FORMATS[self.data_format].expand is not None
        yield from read_batches(check_path(self.path, self.data_dir), self.suffix, documents=documents)

    def with_preparation(self) -> "FileTask":
        """Return the task with what its format must know of the whole file. If it is refused, `read` says why."""
        prepare = FORMATS[self.data_format].prepare
        if prepare is None:
            return self
        try:
            return replace(self, prepared=prepare(self.batches, self.sidecar))
        except Refused:
            return self

    def read(self, excluded: Collection[str]) -> "FileResults":
        """Process all batches on this machine."""
        size = check_path(self.path, self.data_dir).stat().st_size
        yield from map_batches(partial(self.process, excluded=excluded), self.batches(), size)

    def process(self, batch: Batch, excluded: Collection[str]) -> BatchResult:
        """Run process_batch and write the rows to a file: they are too large to send between processes."""
        batch_result = process_batch(batch, self.data_format, self.sidecar, excluded, self.prepared)
        write_stream(rows_path(self.folder, batch.rows[0]), batch_result.table)
        return replace(batch_result, table=None)


FileResults = Generator[tuple[Batch, BatchResult], None, None]
"""The batches of a file in order, each with its result. Raises Refused if the file cannot be read to its end.

Once it is closed, no process writes to the folder of the file any more."""
MapFiles = Callable[[Iterable[FileTask], Collection[str]], Iterator[FileResults]]
"""Yields the results of each file, in order; they are read to their end, or closed, before those of the next one.
Arguments: the files, and the ids of the erased rows."""


def map_files(tasks: Iterable[FileTask], excluded: Collection[str]) -> Iterator[FileResults]:
    """Read the files on this machine, one after the other."""
    return (task.read(excluded) for task in tasks)

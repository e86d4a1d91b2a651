"""The work of reading a raw file: its batches, each of which any process can turn into rows."""

from collections.abc import Collection, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ft_pipeline.tables.file_result import rows_path, write_stream
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.process_batch import BatchResult, process_batch
from ft_pipeline.tables.reading.batches import Batch
from ft_pipeline.tables.reading.compressed import expanded
from ft_pipeline.tables.reading.containers import check_path, read_batches
from ft_pipeline.tables.reading.process_pool import map_batches
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Refused


@dataclass(frozen=True)
class FileTask:
    """A raw file to read."""

    path: Path
    data_dir: Path
    """The folder that must contain the file."""
    suffix: str
    """The suffix of the user's name for it, without that of a compression."""
    folder: Path
    """Receives the accepted rows."""
    data_format: str
    """The table that the rows are for."""
    source: Format
    """The format of the file."""
    sidecar: Sidecar
    mask: tuple[str, ...] = ()
    """What is masked in its rows."""
    prepared: Any = None
    """What `Format.prepare` returned for the file."""

    def batches(self) -> Iterator[Batch]:
        """Yield the rows of the file. Raises Refused, possibly late."""
        with self._plain_file() as path:
            yield from self._read_batches(path)

    def with_preparation(self) -> "FileTask":
        """Return the task with what its format must know of the whole file. If it is refused, `read` says why."""
        if self.source.prepare is None:
            return self
        try:
            return replace(self, prepared=self.source.prepare(self.batches, self.sidecar))
        except Refused:
            return self

    def read(self, excluded: Collection[str]) -> "FileResults":
        """Process all batches."""
        with self._plain_file() as path:
            process = partial(self.process, excluded=excluded)
            yield from map_batches(process, self._read_batches(path), path.stat().st_size)

    def _plain_file(self) -> AbstractContextManager[Path]:
        return expanded(check_path(self.path, self.data_dir), self.folder)

    def _read_batches(self, path: Path) -> Iterator[Batch]:
        return read_batches(path, self.suffix, documents=bool(self.source.expand))

    def process(self, batch: Batch, excluded: Collection[str]) -> BatchResult:
        """Run process_batch and write the rows to a file: they are too large to send between processes."""
        expand = self.source.expand.get(self.data_format)
        batch_result = process_batch(
            batch,
            self.data_format,
            self.sidecar,
            excluded,
            partial(expand, feedback=self.prepared) if expand else None,
            self.mask,
        )
        write_stream(rows_path(self.folder, batch.rows[0]), batch_result.table)
        return replace(batch_result, table=None)


FileResults = Generator[tuple[Batch, BatchResult], None, None]
"""The batches of a file in order, each with its result. Raises Refused if the file cannot be read to its end.

Once it is closed, no process writes to the folder of the file any more."""

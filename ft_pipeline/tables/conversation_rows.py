"""The rows of the conversational tables together, as turns."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.tables.dedup.keys import Keys, read_keys, shingles_of_views
from ft_pipeline.tables.dedup.near_duplicates import Spill
from ft_pipeline.tables.formats.arrow_schema import ORIGIN, schema_of, with_schema
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.comparison_texts import views_of_messages
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading.process_pool import map_batches

BATCH_ROWS = 16_384
"""Rows in memory at a time."""
Result = TypeVar("Result")


@dataclass
class ConversationRows:
    """The rows of all conversational tables, in the order of the tables and of their files."""

    folders: Mapping[str, Path]
    """Table → the folder of its artifact."""
    keys: Keys
    table: np.ndarray
    """uint8: an index into `tables`."""
    file: np.ndarray
    """int32: an index into `files`."""
    files: list[str]
    row: np.ndarray
    """int64: the row's number in its file."""
    golden: np.ndarray
    """bool: the row is in a golden test file."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(self.folders)

    def origin(self, position: int) -> str:
        """Return the origin of a row as `table/file:row`."""
        return f"{self.tables[self.table[position]]}/{self.files[self.file[position]]}:{self.row[position]}"

    def map_messages(
        self, rows: np.ndarray, work: Callable[[tuple[pa.Array, np.ndarray]], Result]
    ) -> Iterator[tuple[np.ndarray, Result]]:
        """Yield (positions, work((their turns, positions))) for batches of the rows at these positions, which ascend.

        work: see process_pool.map_batches.
        """
        paths = [folder / "rows.parquet" for folder in self.folders.values()]
        share = len(rows) / max(len(self), 1)
        size = int(2 * share * sum(path.stat().st_size for path in paths))
        for (_, positions), result in map_batches(work, self._batches(rows), size):
            yield positions, result

    def _batches(self, rows: np.ndarray) -> Iterator[tuple[pa.Array, np.ndarray]]:
        done = 0
        for name, folder in self.folders.items():
            for table in table_batches(folder / "rows.parquet", FORMATS[name]):
                first, last = np.searchsorted(rows, [done, done + table.num_rows])
                positions = rows[first:last]
                if positions.size:
                    yield FORMATS[name].to_messages(table.take(pa.array(positions - done))), positions
                done += table.num_rows

    def read_shingles(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (shingles, number per row) of the rows at these positions, which ascend."""
        shingles, lengths = Spill(), []
        for _, (part, part_lengths) in self.map_messages(rows, _shingles):
            shingles.append(part)
            lengths.append(part_lengths)
        return shingles.read(), np.concatenate(lengths)


def _shingles(batch: tuple[pa.Array, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return shingles_of_views(views_of_messages(batch[0]))


def load_conversation_rows(folders: Mapping[str, Path]) -> ConversationRows:
    """Load the origins and keys of the rows of the tables (name → folder of the artifact)."""
    files: list[str] = []
    parts: list[dict[str, np.ndarray]] = []
    for table_number, folder in enumerate(folders.values()):
        accounts = {entry["file"]: entry for entry in pq.read_table(folder / "files.parquet").to_pylist()}
        origin = pq.read_table(
            folder / "rows.parquet", columns=["file", "row"], read_dictionary=["file"]
        ).unify_dictionaries()
        file_column = origin["file"].combine_chunks()
        file_names = file_column.dictionary.to_pylist() if len(origin) else []
        file_numbers = np.empty(0, np.int32)
        if len(origin):
            file_numbers = file_column.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        golden = np.array([accounts[name]["split"] == "test" for name in file_names], dtype=bool)
        parts.append(
            {
                "table": np.full(len(origin), table_number, np.uint8),
                "file": file_numbers + len(files),
                "row": origin["row"].to_numpy(),
                "golden": golden[file_numbers],
            }
        )
        files += file_names
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    keys = read_keys([folder / "keys.parquet" for folder in folders.values()])
    return ConversationRows(folders, keys, files=files, **columns)


def table_batches(path: Path, row_format: Format) -> Iterator[pa.Table]:
    """Yield the rows of a format's rows.parquet, possibly of an older version, in batches of BATCH_ROWS."""
    schema = schema_of(row_format, *ORIGIN)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield with_schema(pa.Table.from_batches([batch]), schema)

"""The rows of the conversational tables together, as turns."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.store.parquet_files import open_parquet
from ft_pipeline.tables.dedup.in_threads import thread_count
from ft_pipeline.tables.dedup.keys import Keys, compared_parts, groups_of, read_keys
from ft_pipeline.tables.dedup.near_duplicates import Spill
from ft_pipeline.tables.formats.arrow_schema import schema_of, with_schema
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.comparison_texts import views_of_messages
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reason_codes import DUPLICATE_CODES

BATCH_ROWS = 16_384
"""Rows in memory at a time."""
Result = TypeVar("Result")


@dataclass
class ConversationRows:
    """The rows of all conversational tables, in the order of the tables and of their files."""

    folders: Mapping[str, Path]
    """Table → the folder of its artifact."""
    table: np.ndarray
    """uint8: an index into `tables`."""
    file: np.ndarray
    """int32: an index into `files`."""
    files: list[str]
    row: np.ndarray
    """int64: the row's number in its file."""
    golden: np.ndarray
    """bool: the row is in a golden test file."""
    lenient: np.ndarray
    """bool: the row is in a file that may contain duplicates of other rows."""
    keys: Keys = field(default_factory=lambda: Keys.empty(0))
    """If `are_compared`, those for duplicates are left out."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(self.folders)

    @property
    def are_compared(self) -> bool:
        """Whether no two rows can be near each other: only one table has rows, and it is fully deduplicated."""
        return not (self.golden.any() or self.lenient.any() or len(np.unique(self.table)) > 1)

    def origin(self, position: int) -> str:
        """Return the origin of a row as `table/file:row`."""
        return f"{self.tables[self.table[position]]}/{self.files[self.file[position]]}:{self.row[position]}"

    def map_messages(
        self, rows: np.ndarray, work: Callable[[pa.Array, np.ndarray], Result]
    ) -> Iterator[tuple[np.ndarray, Result]]:
        """Yield (positions, work(their turns, positions)) for batches of the rows at these positions, which ascend.

        Threads do the work (dedup/in_threads.py).
        """
        workers = thread_count()
        with ThreadPoolExecutor(workers) as pool:
            under_way: deque[tuple[np.ndarray, Future[Result]]] = deque()
            for messages, positions in self.batches(rows):
                under_way.append((positions, pool.submit(work, messages, positions)))
                if len(under_way) > workers:
                    done, future = under_way.popleft()
                    yield done, future.result()
            for done, future in under_way:
                yield done, future.result()

    def batches(self, rows: np.ndarray) -> Iterator[tuple[pa.Array, np.ndarray]]:
        """Yield (turns, positions) of the rows at these positions, which ascend."""
        done = 0
        for name, folder in self.folders.items():
            for table in table_batches(folder / "rows.parquet", FORMATS[name]):
                first, last = np.searchsorted(rows, [done, done + table.num_rows])
                positions = rows[first:last]
                if positions.size:
                    yield FORMATS[name].to_messages(table.take(pa.array(positions - done))), positions
                done += table.num_rows

    def read_shingles(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the compared parts (dedup.keys) of the rows at these positions, which ascend."""
        shingles, lengths, answers = Spill(), [], []
        for _, (part, part_lengths, part_answers) in self.map_messages(rows, _parts):
            shingles.append(part)
            lengths.append(part_lengths)
            answers.append(part_answers)
        return shingles.read(), np.concatenate(lengths), np.concatenate(answers)


def _parts(messages: pa.Array, positions: np.ndarray) -> tuple[np.ndarray, ...]:
    return compared_parts(views_of_messages(messages))


def load_conversation_rows(folders: Mapping[str, Path], settings: DataSettings) -> ConversationRows:
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
        lenient = np.array([bool(DUPLICATE_CODES & set(accounts[name]["allow"])) for name in file_names], dtype=bool)
        parts.append(
            {
                "table": np.full(len(origin), table_number, np.uint8),
                "file": file_numbers + len(files),
                "row": origin["row"].to_numpy(),
                "golden": golden[file_numbers],
                "lenient": lenient[file_numbers],
            }
        )
        files += file_names
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = ConversationRows(folders, files=files, **columns)
    rows.keys = read_keys(
        [folder / "keys.parquet" for folder in folders.values()], for_duplicates=not rows.are_compared
    )
    rows.keys.group = groups_of(rows.keys, settings)
    return rows


def table_batches(path: Path, row_format: Format, *others: str) -> Iterator[pa.Table]:
    """Yield the rows of a format's rows.parquet, possibly of an older version, in batches of BATCH_ROWS.

    others: names of ORIGIN. Those columns are read, too, after those of the format.
    """
    schema = schema_of(row_format, *others)
    with open_parquet(path) as file:
        written = [name for name in file.schema_arrow.names if name in schema.names]
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=written):
            yield with_schema(pa.Table.from_batches([batch]), schema)

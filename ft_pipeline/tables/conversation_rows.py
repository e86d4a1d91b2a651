"""The rows of the conversational tables together, as turns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.tables.dedup.contamination import Phrases
from ft_pipeline.tables.dedup.keys import Keys, ShingleFile, merge, read_keys, shingles_of_views
from ft_pipeline.tables.formats.arrow_schema import ORIGIN, schema_of, with_schema
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.comparison_texts import views_of_messages
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading.process_pool import map_batches
from ft_pipeline.tables.reason_codes import DUPLICATE_CODES

BATCH_ROWS = 16_384
"""Rows in memory at a time."""


@dataclass
class ConversationRows:
    """The rows of all conversational tables, in the order of the tables and of their files."""

    folders: Mapping[str, Path]
    """Table → the folder of its artifact."""
    keys: Keys
    """Has no shingles until `with_texts` reads the texts."""
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
    prompt_hits: np.ndarray
    """bool: the prompt shares a phrase with the general suite. False until `with_texts` reads the texts."""
    answer_hits: np.ndarray
    """bool: the same for the rest of the row."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(self.folders)

    def origin(self, position: int) -> str:
        """Return the origin of a row as `table/file:row`."""
        return f"{self.tables[self.table[position]]}/{self.files[self.file[position]]}:{self.row[position]}"

    @property
    def compared_already(self) -> bool:
        """Whether no two rows can be near each other: only one table has rows, and it is fully deduplicated."""
        return not (self.golden.any() or self.lenient.any() or len(np.unique(self.table)) > 1)


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
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    no_hits = np.zeros(len(columns["row"]), dtype=bool)
    keys = merge([read_keys(folder / "keys.parquet") for folder in folders.values()])
    return ConversationRows(folders, keys, files=files, prompt_hits=no_hits, answer_hits=no_hits, **columns)


def with_texts(rows: ConversationRows, phrases: Phrases, work: Path) -> ConversationRows:
    """Read all texts. Return the same rows with their shingles and their overlap with the general suite."""
    shingle_file = ShingleFile(work / "shingles.u64")
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for name, folder in rows.folders.items():
        path = folder / "rows.parquet"
        batches = (FORMATS[name].to_messages(table) for table in table_batches(path, FORMATS[name]))
        for _, (shingles, lengths, prompt_hits, answer_hits) in map_batches(
            partial(_look_at, phrases=phrases), batches, 2 * path.stat().st_size
        ):
            shingle_file.append(shingles)
            parts.append((lengths, prompt_hits, answer_hits))
    if not parts:
        return rows
    lengths, prompt_hits, answer_hits = (np.concatenate(column) for column in zip(*parts, strict=True))
    keys = replace(rows.keys, shingles=shingle_file.read(), lengths=lengths)
    return replace(rows, keys=keys, prompt_hits=prompt_hits, answer_hits=answer_hits)


def _look_at(messages: pa.Array, phrases: Phrases) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (shingles, number of them per row, prompt hits, answer hits) of some rows."""
    views = views_of_messages(messages)
    shingles, lengths = shingles_of_views(views.prompts, views.answers)
    return shingles, lengths, phrases.shared_by(views.prompts), phrases.shared_by(views.answers)


def table_batches(path: Path, row_format: Format) -> Iterator[pa.Table]:
    """Yield the rows of a format's rows.parquet, possibly of an older version, in batches of BATCH_ROWS."""
    schema = schema_of(row_format, *ORIGIN)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield with_schema(pa.Table.from_batches([batch]), schema)

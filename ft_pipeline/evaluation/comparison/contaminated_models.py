"""Find tuned models that learned from rows which are test rows now: their scores on these rows say nothing.

Rows move into the test split if `test_share` is raised or a golden test file is added. A row is recognized by its id (a
hash of its content) and by its group (a hash of its question), wherever its file is now. Only ids and groups are read,
and only those of test rows are kept in memory.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.training_facts import phase_adapters
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.bounded_duckdb import bounded_duckdb
from ft_pipeline.store.parquet_files import open_parquet
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.row_ids import sha256_of_each

_QUESTIONS = pa.schema(
    [("id", pa.string()), ("group", pa.string()), ("table", pa.string()), ("file", pa.string()), ("row", pa.int64())]
)
Facts = dict[str, Any]
"""What the spec of a comparison says about a contaminated model: `rows`, `first` (table/file:row) and `since`."""
FIRST_ROWS = 3
"""Maximum number of rows that are named."""
BATCH_ROWS = 16_384
"""Rows in memory at a time, of tables whose rows have no group."""
GROUP_BYTES = 16
"""The part of a hash that is the group, see Keys.group. In an erased row, a text of another length replaces it."""

_LOAD_TEST_ROWS = """CREATE TEMP TABLE test_rows AS
SELECT id, "group" FROM read_parquet($rows) WHERE split = 'test'"""
_LOAD_ROWS_SET_ASIDE = """INSERT INTO test_rows
SELECT id, '' FROM read_parquet($set_aside) WHERE id IS NOT NULL AND copy_of IN (
    SELECT "table" || '/' || file || ':' || "row" FROM read_parquet($rows) WHERE split = 'test'
)"""
_FIND_CANDIDATES = f"""CREATE OR REPLACE TEMP TABLE candidates AS
SELECT id, "table", file, "row" FROM {{source}}
WHERE id IN (SELECT id FROM test_rows)
   OR (length("group") = {2 * GROUP_BYTES} AND "group" IN (SELECT "group" FROM test_rows))"""
_LEARNED = "(SELECT * FROM read_parquet($rows) WHERE split != 'test')"
_ADD_TRAINED = """INSERT INTO moved FROM candidates
WHERE id IN (SELECT id FROM read_parquet($splits) WHERE id IN (SELECT id FROM candidates))"""
"""The inner condition keeps the ids of the whole training data out of memory."""


@dataclass(frozen=True)
class _TrainedTable:
    """A table that a phase of the training read."""

    name: str
    folder: Path
    training_data: Artifact

    @property
    def splits(self) -> list[str]:
        """The files with the ids of the rows that the phase was trained on, or that selected its checkpoint."""
        return [str(self.training_data.path / f"{split}.parquet") for split in ("train", "validation")]

    @property
    def left_out(self) -> set[tuple[str, int]]:
        """(file, row) of the pairs and texts that were not used."""
        rows = self.training_data.summary["audit"].get("left_out", ())
        return {(row["file"], row["row"]) for row in rows if row.get("table", self.name) == self.name}


def find_contaminated(
    store: ArtifactStore, adapters: Mapping[str, Artifact], conversations: Artifact
) -> dict[str, Facts]:
    """Return the facts about each model that learned from a row which `conversations` hold out for the test.

    adapters: by name of the model. Rows of all phases count: those that it was trained on, and those of the validation
    split, which selected its checkpoint. A row also counts if it asks the same as a test row, or if the conversations
    set it aside because of one. Blocks of raw text have no row ids: a text counts if it is the question of a test row.
    Data that was prepared with these conversations is not read.
    """
    tables = {name: list(_tables_to_check(store, adapter, conversations)) for name, adapter in adapters.items()}
    if not any(tables.values()):
        return {}
    with _test_rows(conversations.path) as connection:
        moved = {name: _find_moved(connection, trained) for name, trained in tables.items()}
    since = _first_created(store, conversations)
    return {name: {"rows": count, "first": first, "since": since} for name, (count, first) in moved.items() if count}


def learned_test_rows(store: ArtifactStore, word_model: Artifact, conversations: Artifact) -> Facts | None:
    """Return the facts about a classifier that learned from rows which `conversations` hold out; None without any."""
    if word_model.inputs["conversations"] == conversations.reference:
        return None
    learned = store.require(*word_model.inputs["conversations"]).path / "rows.parquet"
    with _test_rows(conversations.path) as connection:
        connection.execute(_FIND_CANDIDATES.format(source=_LEARNED), {"rows": str(learned)})
        found = connection.execute('SELECT "table", file, "row" FROM candidates ORDER BY ALL').fetchall()
    first = [f"{name}/{file}:{row}" for name, file, row in found[:FIRST_ROWS]]
    return {"rows": len(found), "first": first, "since": _first_created(store, conversations)} if found else None


def _tables_to_check(store: ArtifactStore, adapter: Artifact, conversations: Artifact) -> Iterator[_TrainedTable]:
    """Yield the tables of all phases whose rows were not held against the test rows of these conversations."""
    for phase in phase_adapters(store, adapter):
        data = store.require(*phase.inputs["training_data"])
        for name in ("conversations", "distilled", *FORMATS):
            if name in data.inputs:
                table = store.require(*data.inputs[name])
                filtered = table if name == "distilled" else data
                if filtered.inputs["conversations"] != conversations.reference:
                    yield _TrainedTable(name, table.path, data)


@contextmanager
def _test_rows(conversations: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection with the table `test_rows` (id, group): the test rows, and those set aside because of one.

    Conversations of older versions do not have the ids of the latter.
    """
    files = {name: str(conversations / f"{name}.parquet") for name in ("rows", "set_aside")}
    with bounded_duckdb() as connection:
        connection.execute(_LOAD_TEST_ROWS, {"rows": files["rows"]})
        if "id" in pq.read_schema(files["set_aside"]).names:
            connection.execute(_LOAD_ROWS_SET_ASIDE, files)
        yield connection


def _find_moved(connection: duckdb.DuckDBPyConnection, tables: list[_TrainedTable]) -> tuple[int, list[str]]:
    """Return the number of trained rows that are test rows now, and the first ones as table/file:row."""
    connection.execute('CREATE OR REPLACE TEMP TABLE moved (id VARCHAR, "table" VARCHAR, file VARCHAR, "row" BIGINT)')
    for table in tables:
        if table.name in FORMATS:
            connection.register("questions", _questions(table))
            connection.execute(_FIND_CANDIDATES.format(source="questions"))
        else:
            find = _FIND_CANDIDATES.format(source="read_parquet($rows)")
            connection.execute(find, {"rows": str(table.folder / "rows.parquet")})
        if table.name == "text":
            connection.execute("INSERT INTO moved FROM candidates")
        else:
            connection.execute(_ADD_TRAINED, {"splits": table.splits})
    count = connection.execute("SELECT count(DISTINCT id) FROM moved").fetchall()[0][0]
    first = 'SELECT DISTINCT "table", file, "row" FROM moved ORDER BY ALL LIMIT ?'
    return count, [f"{name}/{file}:{row}" for name, file, row in connection.execute(first, [FIRST_ROWS]).fetchall()]


def _questions(table: _TrainedTable) -> pa.RecordBatchReader:
    """Return the rows of a table of one format (id, group, table, file, row), in batches.

    Rows that the training data left out, because they are near a row that was held out then, are not returned.
    """
    row_format, left_out = FORMATS[table.name], table.left_out
    columns = ["id", "file", "row", *row_format.column_names]

    def batches() -> Iterator[pa.RecordBatch]:
        with open_parquet(table.folder / "rows.parquet") as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                texts = row_format.comparison_texts({name: batch[name] for name in row_format.column_names})
                groups = [digest[:GROUP_BYTES].hex() for digest in sha256_of_each(texts.prompts)]
                origins = zip(batch["file"].to_pylist(), batch["row"].to_pylist(), strict=True)
                kept = pa.array([origin not in left_out for origin in origins], pa.bool_())
                names = pa.repeat(pa.scalar(table.name), len(batch))
                arrays = [batch["id"], pa.array(groups, pa.string()), names, batch["file"], batch["row"]]
                yield pa.RecordBatch.from_arrays(arrays, schema=_QUESTIONS).filter(kept)

    return pa.RecordBatchReader.from_batches(_QUESTIONS, batches())


def _first_created(store: ArtifactStore, conversations: Artifact) -> str:
    """Return when these conversations were first made. A later rebuild with the same content does not change it."""
    made = [artifact for artifact in store.all("conversations") if artifact.fingerprint == conversations.fingerprint]
    return made[0].manifest["created"][:16].replace("T", " ") + " UTC"

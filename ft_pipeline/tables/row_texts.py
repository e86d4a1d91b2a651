"""The prompt, the answer, the length and the origin of each row of a table, in one schema for all tables."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.store.bounded_duckdb import bounded_duckdb
from ft_pipeline.tables.excluded_rows import MARKER_START

TEXT_CHARS = 2_000
"""Length to which the prompt and the answer of a row are cut, so that a batch of rows needs little memory."""
BATCH_ROWS = 10_000
PRESENT = f"NOT starts_with(id, '{MARKER_START}')"
"""The condition for rows that are not erased."""


def longest_rows(path: Path, table: str, count: int) -> pa.Table:
    """Return the `count` rows with the most characters, the longest first.

    Columns, here and below: table, file, row, id; prompt and answer, cut to TEXT_CHARS; characters, the length of all
    texts of the row. path: a rows.parquet. table: the name of the rows' table, for those without a column `table`. An
    erased row has no text and is left out.
    """
    with bounded_duckdb() as connection:
        query = _select(path, table) + " ORDER BY characters DESC, id, file, row LIMIT ?"
        return connection.sql(query, params=[str(path), count]).to_arrow_table()


def sample_rows(path: Path, table: str, count: int) -> pa.Table:
    """Return at most `count` rows, sorted by id: those with the smallest ids.

    Ids are hashes of the content, so that this is a random sample, and the same rows give the same sample.
    """
    # Only the texts of the sample are read into memory. That takes a third of the memory of ORDER BY over all rows.
    smallest = f"SELECT id FROM read_parquet(?) WHERE {PRESENT} ORDER BY id LIMIT ?"
    query = (
        f"{_select(path, table)} WHERE id <= (SELECT max(id) FROM ({smallest})) ORDER BY id, file, row LIMIT {count:d}"
    )
    with bounded_duckdb() as connection:
        return connection.sql(query, params=[str(path), str(path), count]).to_arrow_table()


class SmallestIds:
    """The rows with the smallest ids, collected while a table is written, so that it need not be read again."""

    def __init__(self, schema: pa.Schema, count: int) -> None:
        """schema: of the rows. count: how many are wanted."""
        self._count, self._parts, self._rows = count, [schema.empty_table()], 0
        self._largest: pa.Scalar | None = None

    def add(self, rows: pa.Table) -> None:
        """Add rows of the table."""
        chosen = pc.invert(pc.starts_with(rows["id"], MARKER_START))
        if self._largest is not None:
            chosen = pc.and_(chosen, pc.less_equal(rows["id"], self._largest))
        self._parts.append(rows.filter(chosen))
        self._rows += len(self._parts[-1])
        if self._rows > 4 * self._count:
            self._drop_larger()

    def _drop_larger(self) -> None:
        rows = pa.concat_tables(self._parts)
        smallest = pc.sort_indices(rows["id"])[: self._count]
        self._largest = rows["id"][smallest[-1].as_py()]
        self._parts = [rows.filter(pc.less_equal(rows["id"], self._largest))]
        self._rows = len(self._parts[0])

    def sample(self, table: str) -> pa.Table:
        """Return what `sample_rows` returns for the whole table."""
        with tempfile.TemporaryDirectory(prefix="ft-sample-") as folder:
            path = Path(folder) / "rows.parquet"
            pq.write_table(pa.concat_tables(self._parts), path)
            query = f"{_select(path, table)} ORDER BY id, file, row LIMIT {self._count:d}"
            with bounded_duckdb() as connection:
                return connection.sql(query, params=[str(path)]).to_arrow_table()


def row_batches(path: Path, table: str) -> Iterator[pa.RecordBatch]:
    """Yield all rows in batches of BATCH_ROWS."""
    with bounded_duckdb() as connection:
        yield from connection.sql(_select(path, table), params=[str(path)]).to_arrow_reader(BATCH_ROWS)


def _select(path: Path, table: str) -> str:
    """Return the SQL of all rows of a table. Which columns have its texts follows from the names of its columns."""
    names = pq.read_schema(path).names
    if "messages" in names:
        prompt, answer = _turns("messages", "user", "tool"), _turns("messages", "assistant")
        lengths = [_length_of_turns("messages")]
    elif "chosen" in names:
        prompt = _turns("prompt_messages", "user", "tool")
        answer = f"concat_ws(chr(10), {_turns('chosen', 'assistant')}, {_turns('rejected', 'assistant')})"
        lengths = [_length_of_turns(column) for column in ("prompt_messages", "chosen", "rejected")]
    elif "completion" in names:
        prompt, answer = _turns("prompt_messages", "user", "tool"), _turns("completion", "assistant")
        lengths = [_length_of_turns(column) for column in ("prompt_messages", "completion")]
    elif "instruction" in names:
        texts = "list_concat(flatten(coalesce(history, [])), [instruction, input])"
        prompt, answer = _joined(texts), "output"
        lengths = [f"length(array_to_string({texts}, ''))", "length(output)", "length(coalesce(system, ''))"]
    else:
        prompt, answer, lengths = "''", "text", ["length(text)"]
    origin = '"table"' if "table" in names else "'" + table.replace("'", "''") + '\' AS "table"'
    columns = (
        f"{origin}, file, row, id, left({prompt}, {TEXT_CHARS}) AS prompt, left({answer}, {TEXT_CHARS}) AS answer, "
        f"CAST({' + '.join(lengths)} AS BIGINT) AS characters"
    )
    return f"SELECT * FROM (SELECT {columns} FROM read_parquet(?) WHERE {PRESENT})"


def _turns(column: str, *roles: str) -> str:
    """Return the SQL of the texts of the turns with these roles."""
    listed = ", ".join(f"'{role}'" for role in roles)
    return _joined(f"list_transform(list_filter({column}, lambda t: t.role IN ({listed})), lambda t: t.content)")


def _joined(texts: str) -> str:
    """Return the SQL that joins a list of texts by line breaks, without those that are null or empty."""
    return f"array_to_string(list_filter({texts}, lambda text: text != ''), chr(10))"


def _length_of_turns(column: str) -> str:
    """Return the SQL of the number of characters in a list of turns."""
    length = "coalesce(length(t.content), 0) + coalesce(length(t.reasoning_content), 0)"
    return f"coalesce(list_sum(list_transform({column}, lambda t: {length})), 0)"

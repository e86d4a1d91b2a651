"""SQL views with stable names over the current tables: views.sql for any DuckDB shell, `query` for `ft sql`."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow.dataset

from ft_pipeline.errors import UserError
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, Pointer
from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically

ROWS = "rows.parquet"
READABLE = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
POINTERS = "current_artifacts"


@dataclass(frozen=True)
class ViewFile:
    """One Parquet file of a view."""

    name: str
    experiment: str | None
    path: Path


class QueryResult(NamedTuple):
    """The result of a query."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def view_parts(store: ArtifactStore) -> dict[str, list[ViewFile]]:
    """Return the files of each view: view name → files.

    `rows.parquet` of an asset gives the view ASSET; any other `x.parquet` gives ASSET_x. The tables of experiments are
    combined, with `experiment` as the first column.
    """
    parts: dict[str, list[ViewFile]] = defaultdict(list)
    for pointer in AssetPointers(store.root).all():
        artifact = store.open(pointer.kind, pointer.fingerprint)
        for path in sorted(artifact.path.glob("*.parquet")) if artifact else []:
            name = pointer.asset if path.name == ROWS else f"{pointer.asset}_{path.stem}"
            parts[name].append(ViewFile(name, pointer.partition, path))
    return dict(parts)


def _statements(parts: dict[str, list[ViewFile]], source_of: Callable[[ViewFile], str]) -> list[str]:
    """Return a view over `source_of` of its files for each name, and `training_rows` over both training splits."""
    views = [_view(name, [_select(part, source_of(part)) for part in files]) for name, files in parts.items()]
    splits = [split for split in ("train", "validation") if f"training_data_{split}" in parts]
    if splits:
        views.append(
            _view("training_rows", [f"SELECT '{split}' AS split, * FROM training_data_{split}" for split in splits])
        )
    return views


def write_views(store: ArtifactStore) -> Path:
    """Rewrite views.sql and return its path. It serves any DuckDB shell: `duckdb -init data/store/views.sql`."""
    target = store.root / "views.sql"
    views = _statements(view_parts(store), lambda part: f"read_parquet({_text(str(part.path))})")
    text = "-- Views over the current tables; rewritten after each materialization.\n" + "\n".join(views) + "\n"
    with translate_write_errors():
        write_atomically(target, text.encode())
    return target


def query(store: ArtifactStore, sql: str) -> QueryResult:
    """Run one read-only statement over the current tables, in memory. UserError for other statements and for errors.

    The tables are passed as open datasets. The query itself is not allowed to read or write any file.
    """
    with _connection(store) as connection:
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type not in READABLE:
                raise UserError("ft sql runs one read-only statement: SELECT, DESCRIBE, SUMMARIZE or EXPLAIN")
            result = connection.execute(statements[0])
            columns = [column[0] for column in result.description or []]
            return QueryResult(columns, result.fetchall())
        except duckdb.Error as error:
            raise UserError(_explain(error, sorted(view_parts(store)))) from None


@contextlib.contextmanager
def _connection(store: ArtifactStore) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(":memory:")
    try:
        connection.execute("SET enable_progress_bar = false")
        parts = view_parts(store)
        for part in (part for files in parts.values() for part in files):
            connection.register(_source(part), pyarrow.dataset.dataset([str(part.path)], format="parquet"))
        for statement in _statements(parts, lambda part: _quote(_source(part))):
            connection.execute(statement)
        connection.execute(_pointers_view(AssetPointers(store.root).all()))
        connection.execute("SET python_enable_replacements = false")  # a Python variable is not a table
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection
    finally:
        connection.close()


def _view(name: str, selects: list[str]) -> str:
    return f"CREATE OR REPLACE VIEW {_quote(name)} AS " + " UNION ALL BY NAME ".join(selects) + ";"


def _source(part: ViewFile) -> str:
    """Return the name under which a connection registers a file's dataset."""
    return f"__{part.name}@{part.experiment or ''}"


def _select(part: ViewFile, source: str) -> str:
    columns = f"{_text(part.experiment)} AS experiment, *" if part.experiment else "*"
    return f"SELECT {columns} FROM {source}"


def _pointers_view(pointers: list[Pointer]) -> str:
    names = ("asset", "partition", "kind", "fingerprint", "when")
    cells = [[getattr(pointer, name) for name in names] for pointer in pointers]
    rows = [", ".join("NULL" if cell is None else _text(cell) for cell in row) for row in cells]
    columns = "asset, experiment, kind, fingerprint, materialized"
    values = ", ".join(f"({row})" for row in rows) or "(NULL, NULL, NULL, NULL, NULL)"
    keep = "" if rows else " WHERE asset IS NOT NULL"
    return f"CREATE VIEW {POINTERS} AS SELECT * FROM (VALUES {values}) AS t({columns}){keep}"


def _explain(error: duckdb.Error, names: list[str]) -> str:
    first = str(error).split("\n", 1)[0]
    if isinstance(error, duckdb.CatalogException) and "Table" in first:
        return f"{first} Tables: {', '.join([*names, POINTERS])}"
    if isinstance(error, duckdb.PermissionException):
        return "ft sql can read only the project's tables, not other files"
    return first


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

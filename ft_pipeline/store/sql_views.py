"""Stable names over the current tables: views.sql for any DuckDB shell, `query` for `ft sql`."""

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
    """One Parquet file behind a view."""

    name: str
    experiment: str | None
    path: Path


class QueryResult(NamedTuple):
    """What a query gave."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def view_parts(store: ArtifactStore) -> dict[str, list[ViewFile]]:
    """View name → the files behind it.

    `rows.parquet` of an asset gives the view ASSET, any other `x.parquet` gives ASSET_x. Experiments' tables are
    united, with the column `experiment` in front.
    """
    parts: dict[str, list[ViewFile]] = defaultdict(list)
    for pointer in AssetPointers(store.root).all():
        artifact = store.open(pointer.kind, pointer.fingerprint)
        for path in sorted(artifact.path.glob("*.parquet")) if artifact else []:
            name = pointer.asset if path.name == ROWS else f"{pointer.asset}_{path.stem}"
            parts[name].append(ViewFile(name, pointer.partition, path))
    return dict(parts)


def _statements(parts: dict[str, list[ViewFile]], source_of: Callable[[ViewFile], str]) -> list[str]:
    """The views, each over `source_of` of its files, and `training_rows` over both splits of `training_data`."""
    views = [_view(name, [_select(part, source_of(part)) for part in each]) for name, each in parts.items()]
    splits = [split for split in ("train", "validation") if f"training_data_{split}" in parts]
    if splits:
        views.append(
            _view("training_rows", [f"SELECT '{each}' AS split, * FROM training_data_{each}" for each in splits])
        )
    return views


def write_views(store: ArtifactStore) -> Path:
    """Write views.sql anew. It is for a shell of one's own: `duckdb -init data/store/views.sql`."""
    target = store.root / "views.sql"
    views = _statements(view_parts(store), lambda part: f"read_parquet({_text(str(part.path))})")
    text = "-- Views over the current tables; written anew after each materialization.\n" + "\n".join(views) + "\n"
    with translate_write_errors():
        write_atomically(target, text.encode())
    return target


def query(store: ArtifactStore, sql: str) -> QueryResult:
    """Run one reading statement over the current tables, in memory. UserError for anything else, and for its errors.

    The tables are handed over as open datasets, so the query itself may touch no file at all, to read or to write.
    """
    with _connection(store) as connection:
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type not in READABLE:
                raise UserError("ft sql takes one statement that reads (SELECT, DESCRIBE, SUMMARIZE, EXPLAIN)")
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
        for part in (part for each in parts.values() for part in each):
            connection.register(_source(part), pyarrow.dataset.dataset([str(part.path)], format="parquet"))
        for statement in _statements(parts, lambda part: _quote(_source(part))):
            connection.execute(statement)
        connection.execute(_pointers_view(AssetPointers(store.root).all()))
        connection.execute("SET python_enable_replacements = false")  # a variable of this process is no table
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection
    finally:
        connection.close()


def _view(name: str, selects: list[str]) -> str:
    return f"CREATE OR REPLACE VIEW {_quote(name)} AS " + " UNION ALL BY NAME ".join(selects) + ";"


def _source(part: ViewFile) -> str:
    """The name under which a file's dataset is known to a connection."""
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
        return "ft sql reads the project's tables only, no other file"
    return first


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

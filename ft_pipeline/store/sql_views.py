"""SQL views with stable names over the current tables: views.sql for any DuckDB shell, `query` for `ft sql`."""

import contextlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow.dataset

from ft_pipeline.errors import UserError
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, Pointer
from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically

MAIN_TABLE = "rows.parquet"
"""The Parquet file whose view has the asset's own name."""
READ_ONLY_STATEMENTS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
"""DuckDB's types of the statements that `query` runs. DESCRIBE and SUMMARIZE have the type SELECT."""
POINTERS_VIEW = "current_artifacts"


@dataclass(frozen=True)
class ViewFile:
    """One Parquet file of a view."""

    view: str
    experiment: str | None
    path: Path


class QueryResult(NamedTuple):
    """Names of the columns, and the rows, of a query's result."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def view_files(store: ArtifactStore) -> dict[str, list[ViewFile]]:
    """Return the files of each view: view name → files.

    `rows.parquet` or `ASSET.parquet` of an asset gives the view ASSET; any other `x.parquet` gives ASSET_x. The tables
    of experiments are combined, with `experiment` as the first column.
    """
    return _by_view(store, lambda pointer: _verified_files(store, pointer) or [])


def _by_view(store: ArtifactStore, files_of: Callable[[Pointer], Sequence[Path]]) -> dict[str, list[ViewFile]]:
    """Return the files of each view. files_of: returns the Parquet files of a pointer's artifact."""
    views: dict[str, list[ViewFile]] = defaultdict(list)
    for pointer in AssetPointers(store.root).all():
        for path in files_of(pointer):
            view = (
                pointer.asset
                if path.name in (MAIN_TABLE, f"{pointer.asset}.parquet")
                else f"{pointer.asset}_{path.stem}"
            )
            views[view].append(ViewFile(view, pointer.partition, path))
    return dict(views)


def _verified_files(store: ArtifactStore, pointer: Pointer) -> list[Path] | None:
    """Return the Parquet files of the pointer's artifact; None if the store has no valid one."""
    artifact = store.open(pointer.kind, pointer.fingerprint)
    return sorted(artifact.path.glob("*.parquet")) if artifact else None


class _KnownFiles:
    """The Parquet files of artifacts that were verified before: cache/views.json.

    A project with a hundred experiments has over a thousand artifacts, and each step replaces one of them.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self.path = store.root / "cache" / "views.json"
        self.before = self._read()
        self.now: dict[str, list[str]] = {}

    def of(self, pointer: Pointer) -> Sequence[Path]:
        """Return the files of a pointer's artifact, which is verified only if it was not known."""
        key = f"{pointer.kind} {pointer.fingerprint}"
        known = [self.store.root / name for name in self.before.get(key, ())]
        files = known if key in self.before and all(map(Path.is_file, known)) else _verified_files(self.store, pointer)
        if files is not None:
            self.now[key] = [path.relative_to(self.store.root).as_posix() for path in files]
        return files or []

    def save(self) -> None:
        """Write what is known now. A cache that cannot be written costs only time."""
        if self.now != self.before:
            with contextlib.suppress(OSError):
                write_atomically(self.path, json.dumps(self.now).encode())

    def _read(self) -> dict[str, list[str]]:
        try:
            content = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def _create_views(views: dict[str, list[ViewFile]], source_of: Callable[[ViewFile], str]) -> list[str]:
    """Return the SQL that creates each view, and `training_rows` over both training splits.

    source_of: returns the SQL expression of a file, from which the view selects.
    """
    statements = [
        _create_view(view, [_select_from(file, source_of(file)) for file in files]) for view, files in views.items()
    ]
    splits = [split for split in ("train", "validation") if f"training_data_{split}" in views]
    if splits:
        selects = [f"SELECT '{split}' AS split, * FROM training_data_{split}" for split in splits]
        statements.append(_create_view("training_rows", selects))
    return statements


def write_views(store: ArtifactStore) -> Path:
    """Rewrite views.sql and return its path. It serves any DuckDB shell: `duckdb -init data/store/views.sql`."""
    target = store.root / "views.sql"
    known = _KnownFiles(store)
    statements = _create_views(_by_view(store, known.of), lambda file: f"read_parquet({_quote_text(str(file.path))})")
    text = "-- Views over the current tables; rewritten after each materialization.\n" + "\n".join(statements) + "\n"
    with translate_write_errors():
        write_atomically(target, text.encode())
    known.save()
    return target


def query(store: ArtifactStore, sql: str) -> QueryResult:
    """Run one read-only statement over the current tables, in memory. UserError for other statements and for errors.

    The tables are passed as open datasets. The query itself is not allowed to read or write any file.
    """
    with _connection(store) as connection:
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type not in READ_ONLY_STATEMENTS:
                raise UserError("ft sql runs one read-only statement: SELECT, DESCRIBE, SUMMARIZE or EXPLAIN")
            result = connection.execute(statements[0])
            columns = [column[0] for column in result.description or []]
            return QueryResult(columns, result.fetchall())
        except duckdb.Error as error:
            raise UserError(_describe_error(error, sorted(view_files(store)))) from None


@contextlib.contextmanager
def _connection(store: ArtifactStore) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection with all views, which can read nothing else."""
    connection = duckdb.connect(":memory:")
    try:
        connection.execute("SET enable_progress_bar = false")
        views = view_files(store)
        for file in itertools.chain.from_iterable(views.values()):
            connection.register(_dataset_name(file), pyarrow.dataset.dataset([str(file.path)], format="parquet"))
        for statement in _create_views(views, lambda file: _quote_name(_dataset_name(file))):
            connection.execute(statement)
        connection.execute(_create_pointers_view(AssetPointers(store.root).all()))
        connection.execute("SET python_enable_replacements = false")  # a Python variable is not a table
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection
    finally:
        connection.close()


def _create_view(name: str, selects: list[str]) -> str:
    return f"CREATE OR REPLACE VIEW {_quote_name(name)} AS " + " UNION ALL BY NAME ".join(selects) + ";"


def _dataset_name(file: ViewFile) -> str:
    """Return the name under which a connection registers a file's dataset."""
    return f"__{file.view}@{file.experiment or ''}"


def _select_from(file: ViewFile, source: str) -> str:
    columns = f"{_quote_text(file.experiment)} AS experiment, *" if file.experiment else "*"
    return f"SELECT {columns} FROM {source}"


def _create_pointers_view(pointers: list[Pointer]) -> str:
    """Return the SQL that creates POINTERS_VIEW. Without pointers, the view is empty: SQL has no empty VALUES list."""
    fields = ("asset", "partition", "kind", "fingerprint", "when")
    cells = [[getattr(pointer, field) for field in fields] for pointer in pointers]
    rows = [", ".join("NULL" if cell is None else _quote_text(cell) for cell in row) for row in cells]
    columns = "asset, experiment, kind, fingerprint, materialized"
    values = ", ".join(f"({row})" for row in rows) or "(NULL, NULL, NULL, NULL, NULL)"
    condition = "" if rows else " WHERE asset IS NOT NULL"
    return f"CREATE VIEW {POINTERS_VIEW} AS SELECT * FROM (VALUES {values}) AS t({columns}){condition}"


def _describe_error(error: duckdb.Error, views: list[str]) -> str:
    """Return the first line of DuckDB's message, and the names of the views if the query names an unknown table."""
    line = str(error).split("\n", 1)[0]
    if isinstance(error, duckdb.CatalogException) and "Table" in line:
        return f"{line} Tables: {', '.join([*views, POINTERS_VIEW])}"
    if isinstance(error, duckdb.PermissionException):
        return "ft sql can read only the project's tables, not other files"
    return line


def _quote_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quote_text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

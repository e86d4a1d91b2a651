"""Build the table of one format: read, validate, deduplicate and write all its files. Every row is counted."""

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.store.folder_cache import FolderCache
from ft_pipeline.tables.accounts import CheckResult, FileAccount, TableReport
from ft_pipeline.tables.dedup.keys import write_keys
from ft_pipeline.tables.duplicates import (
    CODES,
    WORDS,
    DuplicateFlags,
    conflict_warnings,
    duplicate_warnings,
    fill_accounts,
    flag_duplicates,
)
from ft_pipeline.tables.file_result import FileResult, SourceFile
from ft_pipeline.tables.finished_tables import FILES, SET_ASIDE, table_of_format
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.registry import FORMATS, format_of_file
from ft_pipeline.tables.formats.row_ids import RowsDigest
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.ingest import Ingestor
from ft_pipeline.tables.languages import SAMPLED_ROWS, identifier, languages_of
from ft_pipeline.tables.raw_text import raw_json
from ft_pipeline.tables.row_groups import RowGroupWriter
from ft_pipeline.tables.row_texts import SmallestIds
from ft_pipeline.tables.table_checks import table_checks
from ft_pipeline.tables.table_schemas import TableCheck, check_table, together

PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": ["file", "split", "table"]}
"""Options for writing rows.parquet."""
PREVIEW_ROWS = 10
PREVIEW_CHARS = 200
"""Length to which a text in the preview is shortened."""


def build_table(
    data_format: str,
    files: list[SourceFile],
    out: Path,
    *,
    max_quarantined: float,
    shares: DataSettings | None = None,
    excluded: Collection[str] = frozenset(),
    progress: Callable[[int], None] | None = None,
    cache: FolderCache | None = None,
    mask: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> TableReport:
    """Write rows.parquet, set_aside.parquet and files.parquet into the folder `out`, which is created if missing.

    shares: of the splits; of duplicates, held-out rows are kept. None: the first row is kept.

    For a conversational format, also write keys.parquet: the keys by which the conversations compare rows. Bad data
    raises no error: refused files, and a quarantined share above its limit, are failed checks of the report. Without
    files the table is empty. `excluded` has the ids (`row_id`) of erased rows. `progress` receives the number of rows
    read after each batch. `cache` stores the results of files, so that unchanged files are not read again.
    `mask` has the personal data that is masked, by the format of the file (masking.py).
    """
    row_format = FORMATS[data_format]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".work-", dir=out) as folder:
        ingestor = Ingestor(data_format, Path(folder), excluded, progress, cache, mask)
        results = [
            result
            for result in ingestor.collect(sorted(files, key=lambda file: file.name))
            if result.account.read or format_of_file(data_format, result.source.name) is row_format
        ]
        readable = [file for file in results if not file.refused]
        flags = flag_duplicates(row_format, readable, shares)
        fill_accounts(flags)
        rows_check, aside_check = TableCheck(table_of_format(row_format)), TableCheck(SET_ASIDE)
        sample = SmallestIds(table_of_format(row_format).arrow_schema, SAMPLED_ROWS)
        with ThreadPoolExecutor(1) as beside:  # one core compresses rows: the others have time for the rest
            rest = beside.submit(_write_rest, row_format, flags, out, aside_check)
            rows_hash, preview, written = _write_rows(row_format, flags, out / "rows.parquet", rows_check, sample)
            set_aside = rest.result()
    accounts = [file.account for file in results]
    files_check = _write_files(accounts, out / "files.parquet")
    warnings = [warning for file in readable for warning in file.warnings]
    warnings += duplicate_warnings(row_format, flags)
    if row_format.is_conversational:
        warnings += conflict_warnings(flags)
    languages = languages_of(sample.sample(data_format), sum(written))
    warnings += languages.warnings
    checks = table_checks(data_format, results, max_quarantined, written, set_aside)
    may_repeat = np.repeat([_may_repeat(file) for file in readable], written).astype(bool)
    checks["matches_schema"] = together(rows_check.result(may_repeat), aside_check.result(), files_check)
    return TableReport(
        data_format, accounts, checks, warnings, preview, rows_hash, languages.to_json(), ingestor.from_cache
    )


def _may_repeat(file: FileResult) -> bool:
    """Return whether rows of a file may be equal to others. Golden files are compared only with each other."""
    return file.account.split == "test" or "duplicate" in file.sidecar.allow


def _write_rows(
    row_format: Format, flags: DuplicateFlags, path: Path, check: TableCheck, sample: SmallestIds
) -> tuple[str, list[dict[str, Any]], list[int]]:
    """Write rows.parquet. Returns (hash of the rows, preview, number of rows written per file)."""
    digest, written = RowsDigest(), []
    preview: list[dict[str, Any]] = []
    schema = table_of_format(row_format).arrow_schema
    with RowGroupWriter(path, schema, check.add, **PARQUET) as writer:
        for index, file in enumerate(flags.files):
            stays, count, begin = flags.of_file(index)[0] == 0, 0, 0
            for batch in file.stored.row_batches():
                mask = stays[begin : begin + batch.num_rows]
                begin += batch.num_rows
                kept = batch if mask.all() else batch.filter(pa.array(mask))
                table = _with_file(pa.Table.from_batches([kept]), file.source.name).select(schema.names)
                writer.write_table(table)
                sample.add(table)
                count += table.num_rows
                digest.add(table["id"], table["row"])
                if len(preview) < PREVIEW_ROWS:
                    preview += [_shown(row) for row in table.slice(0, PREVIEW_ROWS - len(preview)).to_pylist()]
            written.append(count)
            digest.end(file.source.name, count)
    return digest.hexdigest(), preview, written


def _with_file(table: pa.Table, name: str) -> pa.Table:
    return table.append_column("file", pa.repeat(pa.scalar(name), table.num_rows))


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: cut(value) for name, value in row.items()}


def cut(value: Any) -> Any:
    """Return the value with long texts shortened for display."""
    if isinstance(value, str):
        return value if len(value) <= PREVIEW_CHARS else value[: PREVIEW_CHARS - 1] + "…"
    if isinstance(value, list):
        return [cut(item) for item in value]
    return {name: cut(item) for name, item in value.items() if item is not None} if isinstance(value, dict) else value


def _write_rest(row_format: Format, flags: DuplicateFlags, out: Path, check: TableCheck) -> list[int]:
    """Write set_aside.parquet and keys.parquet, and load what `languages_of` needs. Returns the rows that each file
    has set aside."""
    set_aside = _write_set_aside(row_format, flags, out / "set_aside.parquet", check)
    if row_format.is_conversational:
        write_keys(flags.keys, flags.code == 0, out / "keys.parquet")
    if len(flags.keys):
        identifier()
    return set_aside


def _write_set_aside(row_format: Format, flags: DuplicateFlags, path: Path, check: TableCheck) -> list[int]:
    """Write each file's faulty rows, then its duplicates and contradicting pairs. Returns the rows written per file."""
    schema, written = SET_ASIDE.arrow_schema, []
    with RowGroupWriter(path, schema, check.add, compression="zstd") as writer:
        for index, file in enumerate(flags.files):
            count = 0
            for batch in file.aside_batches():
                table = _with_file(pa.Table.from_batches([batch]), file.source.name)
                copy_of = pa.nulls(table.num_rows, pa.string())
                writer.write_table(table.append_column("copy_of", copy_of).select(schema.names))
                count += table.num_rows
            for copies in _copies(row_format, flags, index):
                count += _write_tuples(writer, copies)
            written.append(count)
    return written


def _copies(row_format: Format, flags: DuplicateFlags, index: int) -> Iterator[list[tuple]]:
    """Yield the rows of a file that duplicate or contradict another row. Their raw text is the row read, as JSON."""
    file, begin = flags.files[index], 0
    codes, of = flags.of_file(index)
    for batch in file.stored.row_batches():
        positions = np.flatnonzero(codes[begin : begin + batch.num_rows])
        rows = batch.take(pa.array(positions)).to_pylist() if positions.size else []
        entries = []
        for position, row in zip(positions.tolist(), rows, strict=True):
            code, origin = CODES[codes[begin + position]], flags.origin(int(of[begin + position]))
            raw = raw_json({name: _own(row[name]) for name in row_format.column_names if row[name] is not None})
            entries.append((file.source.name, row["row"], code, WORDS[code].format(origin=origin), raw, origin))
        begin += batch.num_rows
        yield entries


def _own(value: Any) -> Any:
    """Return the cell. If it is a list of turns, the null keys of each turn are removed."""
    return plain(value) if isinstance(value, list) and value and isinstance(value[0], dict) else value


def _write_tuples(writer: RowGroupWriter, tuples: list[tuple]) -> int:
    if tuples:
        schema = SET_ASIDE.arrow_schema
        arrays = [pa.array(column, field.type) for column, field in zip(zip(*tuples, strict=True), schema, strict=True)]
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return len(tuples)


def _write_files(accounts: list[FileAccount], path: Path) -> CheckResult:
    schema = FILES.arrow_schema
    table = pa.Table.from_pylist(
        [{name: getattr(account, name) for name in schema.names} for account in accounts], schema
    )
    pq.write_table(table, path)
    return check_table(FILES, table)

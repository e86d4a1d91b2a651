"""Read raw files: accepted rows go to disk, their keys stay in memory. Duplicates are not known yet."""

from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from ft_pipeline.store.folder_cache import FolderCache
from ft_pipeline.tables.accounts import FileAccount, RowWarning
from ft_pipeline.tables.cache_key import hash_of_ids, key_of
from ft_pipeline.tables.checks.pii import NAMES
from ft_pipeline.tables.checks.placeholders import message as placeholder_message
from ft_pipeline.tables.dedup.keys import Keys, merge
from ft_pipeline.tables.file_result import ASIDE as ASIDE_FILE
from ft_pipeline.tables.file_result import (
    FileResult,
    SourceFile,
    load,
    refused,
    rows_path,
    save,
    write_stream,
)
from ft_pipeline.tables.process_batch import ASIDE, BatchResult, process_batch
from ft_pipeline.tables.reading.batches import Batch
from ft_pipeline.tables.reading.containers import check_path, read_batches
from ft_pipeline.tables.reading.process_pool import map_batches
from ft_pipeline.tables.reading.sidecar import Sidecar, parse_sidecar
from ft_pipeline.tables.reason_codes import Refused

MIN_ROWS = 2
"""A file with fewer rows is refused."""
MAX_NAMED_COLUMNS = 20
"""Maximum number of unused columns that a warning names."""


class Ingestor:
    """Reads the files of one format folder, in order, into a work folder. Unchanged files come from the cache."""

    def __init__(
        self,
        data_format: str,
        work: Path,
        excluded: Collection[str] = frozenset(),
        progress: Callable[[int], None] | None = None,
        cache: FolderCache | None = None,
    ):
        self.data_format, self.work, self.excluded, self.cache = data_format, work, excluded, cache
        self.progress = progress or (lambda rows: None)
        self.from_cache = 0
        """Number of files that came from the cache and were not read."""
        self._files = 0
        self._excluded_hash = hash_of_ids(excluded)

    def collect(self, source: SourceFile) -> FileResult:
        """Read one file, or load its result from the cache. If the file is refused, its account has the error."""
        if source.refused:
            return refused(source, Refused(*source.refused))
        account = FileAccount(file=source.name, sha256=source.sha256)
        self._files += 1
        folder = self.work / f"{self._files:06d}"
        try:
            sidecar = parse_sidecar(source.sidecar)
            account.max_quarantined, account.split = sidecar.max_quarantined, sidecar.split
            account.allow = sorted(sidecar.allow)
            if self.cache is None or not source.sha256:
                return self._read(FileResult(source, account, sidecar, folder))
            suffix = Path(source.name).suffix.lower()
            key = key_of(source.sha256, self.data_format, suffix, source.sidecar, self._excluded_hash)
            if self.cache.restore(key, folder):
                self.from_cache += 1
                return load(source, account, sidecar, folder)
            result = self._read(FileResult(source, account, sidecar, folder))
            save(result, folder)
            self.cache.store(key, folder)
            return result
        except Refused as error:
            return refused(source, error)

    def _read(self, result: FileResult) -> FileResult:
        """Read the content of the file into `result`, and return it; or a refused result if the content is refused."""
        source, folder = result.source, result.folder
        assert folder is not None
        folder.mkdir()
        with source.fetch() if source.fetch else nullcontext(source.path) as path:
            try:
                path = check_path(path, source.data_dir or path.parent)
                totals = self._gather(result, path, folder)
                _refuse_whole(totals, self.data_format)
            except Refused as error:
                for path_left in folder.iterdir():
                    path_left.unlink()
                return refused(source, error)
        result.rows = np.concatenate(totals.rows)
        result.keys = merge(totals.keys, consume=True)
        result.pairs = np.concatenate(totals.pairs)
        result.reasons = totals.reasons
        result.warnings = totals.warnings(source.name)
        result.account.read = totals.read
        return result

    def _gather(self, result: FileResult, path: Path, folder: Path) -> "_FileTotals":
        totals = _FileTotals()
        suffix = Path(result.source.name).suffix.lower()
        process = partial(
            _process_into,
            folder=folder,
            data_format=self.data_format,
            sidecar=result.sidecar,
            excluded=self.excluded,
        )
        with pa.OSFile(str(folder / ASIDE_FILE), "wb") as sink, pa.ipc.new_stream(sink, ASIDE) as aside:
            for batch, batch_result in map_batches(process, read_batches(path, suffix), path.stat().st_size):
                _refuse_broken_array(batch, batch_result)
                aside.write_table(batch_result.aside)
                totals.add(batch, batch_result)
                self.progress(batch_result.read)
        return totals


def _process_into(
    batch: Batch, folder: Path, data_format: str, sidecar: Sidecar, excluded: Collection[str]
) -> BatchResult:
    """Run process_batch and write its rows to a file: they are too large to send between processes."""
    batch_result = process_batch(batch, data_format, sidecar, excluded)
    write_stream(rows_path(folder, batch.rows[0]), batch_result.table)
    return replace(batch_result, table=None)


class _FileTotals:
    """Totals over the batches of a file."""

    def __init__(self) -> None:
        self.read = self.objects = self.known = 0
        self.is_array = False
        self.rows: list[np.ndarray] = []
        self.keys: list[Keys] = []
        self.pairs: list[np.ndarray] = []
        self.reasons: dict[str, list[int]] = {}
        self.hints: dict[str, list[int]] = {}
        self.unknown: set[str] = set()
        self.first: tuple[int, str] | None = None
        """Number of the first line that is not JSON, and why."""

    def add(self, batch: Batch, batch_result: BatchResult) -> None:
        """Add the result of a batch."""
        self.read += batch_result.read
        self.objects += batch_result.objects
        self.known += batch_result.known
        self.is_array = batch.offsets is not None
        self.first = self.first or batch_result.broken
        self.rows.append(batch_result.rows)
        self.keys.append(batch_result.keys)
        self.pairs.append(batch_result.pairs)
        for all_rows, batch_rows in ((self.reasons, batch_result.reasons), (self.hints, batch_result.hints)):
            for code, rows in batch_rows.items():
                all_rows.setdefault(code, []).extend(rows)
        if len(self.unknown) <= MAX_NAMED_COLUMNS:
            self.unknown |= batch_result.unknown

    @property
    def first_fault(self) -> str:
        """The error of the first line that is not JSON, in parentheses, or an empty string."""
        return f" (line {self.first[0]} is {self.first[1]})" if self.first else ""

    def warnings(self, file: str) -> list[RowWarning]:
        warnings = []
        if self.unknown:
            names = ", ".join(sorted(self.unknown)[:MAX_NAMED_COLUMNS])
            more = ", and more" if len(self.unknown) > MAX_NAMED_COLUMNS else ""
            message = f"nothing reads these, they are dropped: {names}{more}; a sidecar's `columns` can map them"
            warnings.append(RowWarning("ignored_columns", message, file=file))
        for kind, rows in sorted(self.hints.items()):
            personal = f"{len(rows):,} row(s) may hold {NAMES.get(kind)}; nothing is masked"
            message = personal if kind in NAMES else placeholder_message(len(rows))
            warnings.append(RowWarning(kind, message, rows, file))
        return warnings


def _refuse_broken_array(batch: Batch, batch_result: BatchResult) -> None:
    """Raise Refused if an array element is not JSON. An array is one JSON text, so the whole file is then invalid."""
    if batch.offsets is not None and batch_result.broken:
        row, message = batch_result.broken
        offset = batch.offsets[batch.rows.index(row)]
        raise Refused("invalid_json", f"element {row} of the JSON array, at byte {offset}, is {message}")


def _refuse_whole(totals: _FileTotals, data_format: str) -> None:
    """Raise Refused if the file has too few rows, or none that can be a row of the format."""
    if not totals.read:
        raise Refused("empty_file", "no rows")
    codes = set(totals.reasons)
    if not totals.objects:
        if codes == {"not_utf8"}:
            raise Refused("not_utf8", "no row is UTF-8; is it Latin-1? convert it: iconv -f LATIN1 -t UTF-8 IN > OUT")
        if codes <= {"invalid_json", "not_utf8"}:
            raise Refused(
                "not_json",
                f"no line is a JSON object{totals.first_fault}; CSV must be named .csv, Parquet .parquet, all else "
                "needs one JSON object on each line, or a list of them",
            )
        raise Refused("unknown_format" if totals.is_array else "not_json", "no row is a JSON object")
    if not totals.known:
        raise Refused(
            "unknown_format", f"no row has the keys of the {data_format} format; a sidecar YAML can map columns"
        )
    if totals.read < MIN_ROWS:
        raise Refused("too_few_rows", f"{totals.read} row; at least {MIN_ROWS} are needed")

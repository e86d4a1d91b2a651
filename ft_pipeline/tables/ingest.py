"""Read raw files: accepted rows go to disk, their keys stay in memory. Duplicates are not known yet."""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from ft_pipeline.sources.file_names import suffix_of
from ft_pipeline.store.folder_cache import FolderCache
from ft_pipeline.tables.accounts import FileAccount, RowWarning
from ft_pipeline.tables.checks.pii import NAMES
from ft_pipeline.tables.checks.placeholders import message as placeholder_message
from ft_pipeline.tables.dedup.keys import Keys, merge
from ft_pipeline.tables.file_result import ASIDE as ASIDE_FILE
from ft_pipeline.tables.file_result import (
    FileResult,
    SourceFile,
    load,
    refused,
    save,
)
from ft_pipeline.tables.file_task import FileResults, FileTask
from ft_pipeline.tables.formats.fitting_format import no_row_fits
from ft_pipeline.tables.formats.registry import FORMATS, format_of_file
from ft_pipeline.tables.process_batch import ASIDE, BatchResult
from ft_pipeline.tables.reading.batches import Batch
from ft_pipeline.tables.reading.describe import shorten
from ft_pipeline.tables.reading.sidecar import PLAIN, parse_sidecar
from ft_pipeline.tables.reason_codes import Refused

MAX_NAMED_COLUMNS = 20
"""Maximum number of unused columns that a warning names."""
MAY_BE_ALL = frozenset({"no_content", "wrong_format", "wrong_type"})
"""Reason codes that all rows of a file may have, so that the file is refused by the message of the first one."""


class Ingestor:
    """Reads the files of one format folder, in order, into a work folder. Unchanged files come from the cache."""

    def __init__(
        self,
        data_format: str,
        work: Path,
        excluded: Collection[str] = frozenset(),
        progress: Callable[[int], None] | None = None,
        cache: FolderCache | None = None,
        mask: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ):
        self.data_format, self.work, self.excluded, self.cache = data_format, work, excluded, cache
        self.progress = progress or (lambda rows: None)
        self.mask = mask
        self.from_cache = 0
        """Number of files that came from the cache and were not read."""
        self._files = 0
        self._excluded_hash = hash_of_ids(excluded)

    def collect(self, sources: Iterable[SourceFile]) -> list[FileResult]:
        """Read files, or load their results from the cache. If a file is refused, its account has the error."""
        prepared = [self._prepare(source) for source in sources]
        opened: deque[ExitStack] = deque()

        def tasks() -> Iterator[FileTask]:
            for result, is_read in prepared:
                if not is_read:
                    opened.append(stack := ExitStack())
                    yield self._open(result, stack)

        batches = (task.read(self.excluded) for task in tasks())
        return [result if is_read else self._finish(result, next(batches), opened) for result, is_read in prepared]

    def _prepare(self, source: SourceFile) -> tuple[FileResult, bool]:
        """Return the result of a file, and whether it is complete. If not, the file must be read."""
        if source.refused:
            return refused(source, Refused(*source.refused)), True
        account = FileAccount(file=source.name, sha256=source.sha256)
        self._files += 1
        folder = self.work / f"{self._files:06d}"
        try:
            sidecar = parse_sidecar(source.sidecar)
        except Refused as error:
            return refused(source, error), True
        account.max_quarantined, account.split = sidecar.max_quarantined, sidecar.split
        account.allow = sorted(sidecar.allow)
        if self.cache and source.sha256 and self.cache.restore(self._key(source), folder):
            self.from_cache += 1
            return load(source, account, sidecar, folder), True
        return FileResult(source, account, sidecar, folder), False

    def _key(self, source: SourceFile) -> str:
        source_format = format_of_file(self.data_format, source.name).name
        mask = f" without {', '.join(self.mask[source_format])}" if source_format in self.mask else ""
        formats = f"{self.data_format} of {source_format}{mask}"
        return key_of(source.sha256, formats, _suffix(source), source.sidecar, self._excluded_hash)

    def _open(self, result: FileResult, stack: ExitStack) -> FileTask:
        """Return the task of reading a file. Its bytes are there until the stack is closed."""
        source, folder = result.source, result.folder
        assert folder is not None
        folder.mkdir()
        path = stack.enter_context(source.fetch() if source.fetch else nullcontext(source.path))
        data_dir = source.data_dir or path.parent
        source_format = format_of_file(self.data_format, source.name)
        mask = tuple(self.mask.get(source_format.name, ()))
        task = FileTask(path, data_dir, _suffix(source), folder, self.data_format, source_format, result.sidecar, mask)
        return task.with_preparation()

    def _finish(self, result: FileResult, batches: FileResults, opened: deque[ExitStack]) -> FileResult:
        """Return the result of a file with the content of its batches, and store it in the cache."""
        source, folder = result.source, result.folder
        assert folder is not None
        with opened.popleft():
            result = self._read(result, folder, batches)
        if self.cache and source.sha256:
            save(result, folder)
            self.cache.store(self._key(source), folder)
        return result

    def _read(self, result: FileResult, folder: Path, batches: FileResults) -> FileResult:
        """Return the result with the content of the file, or a refused result if the content is refused.

        A file of another format may have no row for this table. If it is refused, the table of its format says so.
        """
        is_own = format_of_file(self.data_format, result.source.name).name == self.data_format
        try:
            with closing(batches):
                totals = self._gather(folder, batches)
            if is_own:
                _refuse_whole(totals, self.data_format)
        except Refused as error:
            for path_left in folder.iterdir():
                path_left.unlink()
            if is_own:
                return refused(result.source, error)
            totals = self._gather(folder, ())
        if not totals.rows:
            return result
        result.rows = np.concatenate(totals.rows)
        result.keys = merge(totals.keys, consume=True)
        result.pairs = np.concatenate(totals.pairs)
        result.reasons = totals.reasons
        result.warnings = totals.warnings(result.source.name, result.sidecar.group)
        result.account.read = totals.read
        return result

    def _gather(self, folder: Path, batches: Iterable[tuple[Batch, BatchResult]]) -> "_FileTotals":
        totals = _FileTotals()
        with pa.OSFile(str(folder / ASIDE_FILE), "wb") as sink, pa.ipc.new_stream(sink, ASIDE) as aside:
            for batch, batch_result in batches:
                _refuse_broken_array(batch, batch_result)
                aside.write_table(batch_result.aside)
                totals.add(batch, batch_result)
                self.progress(batch_result.read)
        return totals


def _suffix(source: SourceFile) -> str:
    return suffix_of(source.name)


class _FileTotals:
    """Totals over the batches of a file."""

    def __init__(self) -> None:
        self.read = self.objects = self.known = self.named = 0
        self.is_array = False
        self.rows: list[np.ndarray] = []
        self.keys: list[Keys] = []
        self.pairs: list[np.ndarray] = []
        self.reasons: dict[str, list[int]] = {}
        self.hints: dict[str, list[int]] = {}
        self.masked: Counter[str] = Counter()
        self.first_messages: dict[str, str] = {}
        """Reason code of MAY_BE_ALL → message of the first row."""
        self.columns: list[str] = []
        """The columns of the first rows."""
        self.unknown: set[str] = set()
        self.first: tuple[int, str] | None = None
        """Number of the first line that is not JSON, and why."""

    def add(self, batch: Batch, batch_result: BatchResult) -> None:
        """Add the result of a batch."""
        self.read += batch_result.read
        self.objects += batch_result.objects
        self.known += batch_result.known
        self.named += batch_result.named
        self.is_array = batch.offsets is not None
        self.first = self.first or batch_result.broken
        self.rows.append(batch_result.rows)
        self.masked += batch_result.masked
        self.columns = self.columns or batch_result.columns
        for code in MAY_BE_ALL & batch_result.reasons.keys() - self.first_messages.keys():
            messages = (row["message"] for row in batch_result.aside.to_pylist() if row["code"] == code)
            self.first_messages[code] = next(messages)
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

    def warnings(self, file: str, group: str) -> list[RowWarning]:
        """Return the warnings about a file. group: the column that names groups."""
        warnings, alone = [], sum(map(len, self.rows)) - self.named
        if alone and (self.named or group != PLAIN.group):
            message = (
                f"{alone:,} row(s) have no value in the column {shorten(group)}, which names groups: each stands alone"
            )
            warnings.append(RowWarning("without_group", message, file=file))
        if self.unknown:
            names = ", ".join(sorted(self.unknown)[:MAX_NAMED_COLUMNS])
            more = ", and more" if len(self.unknown) > MAX_NAMED_COLUMNS else ""
            message = f"nothing reads these, they are dropped: {names}{more}; a sidecar's `columns` can map them"
            warnings.append(RowWarning("ignored_columns", message, file=file))
        if rows := self.reasons.get("wrong_format"):
            first = f"row {rows[0]} is {self.first_messages['wrong_format']}"
            warnings.append(RowWarning("wrong_format", first, rows, file))
        if self.masked:
            counts = ", ".join(f"{count:,} × {entity}" for entity, count in sorted(self.masked.items()))
            warnings.append(RowWarning("masked", f"masked in the texts: {counts}", file=file))
        for kind, rows in sorted(self.hints.items()):
            personal = f"{len(rows):,} row(s) may hold {NAMES.get(kind)}; it is not masked"
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
        for code in ("wrong_format", "wrong_type") if FORMATS[data_format].expand else ():  # of documents
            if code in codes:
                raise Refused("unknown_format", totals.first_messages[code])
        raise Refused("unknown_format" if totals.is_array else "not_json", "no row is a JSON object")
    if not totals.known:
        raise Refused("unknown_format", no_row_fits(FORMATS[data_format], totals.columns))
    if codes == {"no_content"} and not sum(map(len, totals.rows)):
        message = (
            f"none of the {totals.read:,} calls was logged with its content: {totals.first_messages['no_content']}"
        )
        raise Refused("no_content", message)
    min_rows = FORMATS[data_format].min_rows
    if totals.read < min_rows:
        raise Refused("too_few_rows", f"{totals.read} row; at least {min_rows} are needed")


_LIBRARIES = ("numpy", "orjson", "pyarrow")
"""Libraries that a result depends on."""


def key_of(sha256: str, data_format: str, suffix: str, sidecar: Any, excluded: str) -> str:
    """Return the cache key of a file's result. sha256: hash of its content. excluded: `hash_of_ids` of erased rows."""
    parts = {
        "file": sha256,
        "format": data_format,
        "suffix": suffix,
        "sidecar": sidecar,
        "excluded": excluded,
        "code": code_hash(Path(__file__).parent),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def hash_of_ids(identities: Iterable[str]) -> str:
    """Return a hash of a set of ids."""
    return hashlib.sha256(json.dumps(sorted(identities)).encode()).hexdigest()


@cache
def code_hash(package: Path) -> str:
    """Return a hash of the source of `package`, with subfolders, and of the versions of the libraries that it uses.

    If a rule changes, old results are therefore never reused.
    """
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\x00" + path.read_bytes())
    for name in _LIBRARIES:
        digest.update(f"{name} {version(name)}\n".encode())
    return digest.hexdigest()

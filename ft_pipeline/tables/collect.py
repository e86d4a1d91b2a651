"""Read raw files into accepted rows on disk and keys in memory, before it is known which of them are copies."""

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ft_pipeline.tables.chunk import ASIDE, Chunk, process
from ft_pipeline.tables.codes import Refused
from ft_pipeline.tables.columns import schema_of
from ft_pipeline.tables.keys import Keys, ShingleFile, merge
from ft_pipeline.tables.pii import NAMES
from ft_pipeline.tables.pool import map_batches
from ft_pipeline.tables.reader import Batch, check_path, read_batches
from ft_pipeline.tables.report import FileAccount, Warning
from ft_pipeline.tables.sidecar import PLAIN, Sidecar, parse_sidecar

MIN_ROWS = 2
MAX_NAMED_COLUMNS = 20


@dataclass(frozen=True)
class SourceFile:
    """One raw file of a format folder."""

    name: str
    """Relative to the format folder: what people see, and what rows carry as their origin."""
    path: Path
    """Where its bytes lie (the folder itself, or a snapshot)."""
    sha256: str
    sidecar: dict[str, Any] | None = None
    """The parsed YAML beside it."""
    data_dir: Path | None = None
    """The folder that the path must not lead out of; None: the folder that the path lies in."""
    refused: tuple[str, str] | None = None
    """(code, message) of a file that could not even be taken from the user's folder."""


@dataclass
class Collected:
    """One file, read. A refused one has an account and nothing else."""

    source: SourceFile
    account: FileAccount
    sidecar: Sidecar = PLAIN
    rows_path: Path | None = None
    """Arrow IPC stream of the accepted rows, in order."""
    aside_path: Path | None = None
    """Arrow IPC stream of the faulty rows (chunk.ASIDE)."""
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """The row numbers of the accepted rows."""
    keys: Keys = field(default_factory=lambda: merge([]))
    pairs: np.ndarray = field(default_factory=lambda: np.empty((0, 2), dtype=np.uint64))
    reasons: dict[str, list[int]] = field(default_factory=dict)
    """Code → faulty rows."""
    warnings: list[Warning] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return self.account.status == "refused"


class Collector:
    """Reads the files of one format folder, one after the other, into a work folder."""

    def __init__(
        self,
        data_format: str,
        work: Path,
        excluded: Container[str] = frozenset(),
        progress: Callable[[int], None] | None = None,
    ):
        self.data_format, self.work, self.excluded = data_format, work, excluded
        self.progress = progress or (lambda rows: None)
        self.shingles = ShingleFile(work / "shingles.u64")
        self._files = 0

    def collect(self, source: SourceFile) -> Collected:
        """Read one file. What is wrong with it as a whole stands in its account."""
        account = FileAccount(file=source.name, sha256=source.sha256)
        mark = self.shingles.count
        try:
            sidecar = parse_sidecar(source.sidecar)
            path = check_path(source.path, source.data_dir or source.path.parent)
            account.max_quarantined, account.split = sidecar.max_quarantined, sidecar.split
            account.allow = sorted(sidecar.allow)
            return self._read(Collected(source, account, sidecar), path)
        except Refused as error:
            self.shingles.rewind(mark)
            return refused(source, error)

    def _read(self, collected: Collected, path: Path) -> Collected:
        self._files += 1
        collected.rows_path = self.work / f"{self._files:06d}.rows.arrow"
        collected.aside_path = self.work / f"{self._files:06d}.aside.arrow"
        gathered, mark = _Gathered(), self.shingles.count
        with (
            _stream(collected.rows_path, schema_of(self.data_format, "row", "id")) as rows,
            _stream(collected.aside_path, ASIDE) as aside,
        ):
            suffix = Path(collected.source.name).suffix.lower()
            work = partial(process, data_format=self.data_format, sidecar=collected.sidecar, excluded=self.excluded)
            for batch, chunk in map_batches(work, read_batches(path, suffix), path.stat().st_size):
                _refuse_broken_array(batch, chunk)
                rows.write_table(chunk.table)
                aside.write_table(chunk.aside)
                self.shingles.append(chunk.keys.shingles)
                gathered.add(batch, chunk)
                self.progress(chunk.read)
        _refuse_whole(gathered, self.data_format)
        collected.rows = np.concatenate(gathered.rows)
        collected.keys = merge(gathered.keys, self.shingles.read(mark))
        collected.pairs = np.concatenate(gathered.pairs)
        collected.reasons = gathered.reasons
        collected.warnings = gathered.warnings(collected.source.name)
        collected.account.read = gathered.read
        return collected


def refused(source: SourceFile, error: Refused) -> Collected:
    """A file that is not used, and why."""
    return Collected(
        source,
        FileAccount(
            file=source.name, sha256=source.sha256, status="refused", error_code=error.code, error_message=error.message
        ),
    )


@contextmanager
def _stream(path: Path, schema: pa.Schema) -> Iterator[pa.ipc.RecordBatchStreamWriter]:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        yield writer


def read_stream(path: Path | None) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow IPC stream that a Collector wrote."""
    with pa.memory_map(str(path)) as source:
        yield from pa.ipc.open_stream(source)


class _Gathered:
    """What adds up over the batches of a file."""

    def __init__(self) -> None:
        self.read = self.objects = self.known = 0
        self.is_array = False
        self.rows: list[np.ndarray] = []
        self.keys: list[Keys] = []
        self.pairs: list[np.ndarray] = []
        self.reasons: dict[str, list[int]] = {}
        self.pii: dict[str, list[int]] = {}
        self.unknown: set[str] = set()

    def add(self, batch: Batch, chunk: Chunk) -> None:
        self.read += chunk.read
        self.objects += chunk.objects
        self.known += chunk.known
        self.is_array = batch.offsets is not None
        self.rows.append(chunk.table["row"].to_numpy())
        self.keys.append(replace(chunk.keys, shingles=np.empty(0, dtype=np.uint64)))
        self.pairs.append(chunk.pairs)
        for found, more in ((self.reasons, chunk.reasons), (self.pii, chunk.pii)):
            for code, rows in more.items():
                found.setdefault(code, []).extend(rows)
        if len(self.unknown) <= MAX_NAMED_COLUMNS:
            self.unknown |= chunk.unknown

    def warnings(self, file: str) -> list[Warning]:
        found = []
        if self.unknown:
            names = ", ".join(sorted(self.unknown)[:MAX_NAMED_COLUMNS])
            more = ", and more" if len(self.unknown) > MAX_NAMED_COLUMNS else ""
            message = f"nothing reads these, they are dropped: {names}{more}; a sidecar's `columns` can map them"
            found.append(Warning("ignored_columns", message, file=file))
        for kind, rows in sorted(self.pii.items()):
            message = f"{len(rows):,} row(s) may hold {NAMES[kind]}; nothing is masked"
            found.append(Warning(kind, message, rows, file))
        return found


def _refuse_broken_array(batch: Batch, chunk: Chunk) -> None:
    """An array is one JSON text: where an element is no JSON, the whole cannot be read."""
    if batch.offsets is not None and chunk.broken:
        row, message = chunk.broken
        at = batch.offsets[batch.rows.index(row)]
        raise Refused("invalid_json", f"element {row} of the JSON array, at byte {at}, is {message}")


def _refuse_whole(gathered: _Gathered, data_format: str) -> None:
    if not gathered.read:
        raise Refused("empty_file", "no rows")
    codes = set(gathered.reasons)
    if not gathered.objects:
        if "not_utf8" in codes and codes <= {"not_utf8", "invalid_json"}:
            raise Refused("not_utf8", "no row is UTF-8; is it Latin-1? convert it: iconv -f LATIN1 -t UTF-8 IN > OUT")
        if codes <= {"invalid_json", "not_utf8"}:
            raise Refused(
                "not_json",
                "no line is JSON; CSV must be named .csv, Parquet .parquet, all else one JSON object per line",
            )
        raise Refused("unknown_format" if gathered.is_array else "not_json", "no row is a JSON object")
    if not gathered.known:
        raise Refused(
            "unknown_format", f"no row has the keys of the {data_format} format; a sidecar YAML can map columns"
        )
    if gathered.read < MIN_ROWS:
        raise Refused("too_few_rows", f"{gathered.read} row; at least {MIN_ROWS} are needed")

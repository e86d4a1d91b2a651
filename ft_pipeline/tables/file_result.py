"""The result of reading one raw file, before duplicates are known. Each result has a separate folder for its rows."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from ft_pipeline.tables.accounts import FileAccount, RowWarning
from ft_pipeline.tables.dedup.keys import Keys, merge
from ft_pipeline.tables.reading.sidecar import PLAIN, Sidecar
from ft_pipeline.tables.reason_codes import Refused

ASIDE = "aside.arrow"
_PAIRS = ("pair", "reverse")
_KEYS, _NOTE, _ROWS = "keys.arrow", "outcome.json", "rows-*.arrow"
"""Names of the files in the folder of a result."""


@dataclass(frozen=True)
class SourceFile:
    """One raw file of a format folder."""

    name: str
    """Path relative to the format folder. It is shown to users and stored as the origin of rows."""
    path: Path
    """The file with its bytes, in the format folder or in a snapshot."""
    sha256: str
    """Hash of its content. Empty if the hash is unknown; the file is then always read."""
    sidecar: dict[str, Any] | None = None
    """The parsed YAML of its sidecar."""
    data_dir: Path | None = None
    """The folder that must contain the path; None: the parent folder of the path."""
    refused: tuple[str, str] | None = None
    """(code, message) of a file that could not be taken from the user's folder."""
    fetch: Callable[[], AbstractContextManager[Path]] | None = None
    """Returns a context with a path with its bytes, if they are not at `path`. Called only if the file must be read.
    The context ends with UserError if the bytes changed while they were read."""


@dataclass(frozen=True)
class StoredRows:
    """The accepted rows of a file on disk."""

    folder: Path | None
    """None if the file is refused."""
    count: int

    def row_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, in order: the format's columns, `row`, `id`."""
        for path in sorted(self.folder.glob(_ROWS)) if self.folder else ():
            yield from _read_stream(path)


@dataclass
class FileResult:
    """Result of reading one file. A refused file has only an account."""

    source: SourceFile
    account: FileAccount
    sidecar: Sidecar = PLAIN
    folder: Path | None = None
    """Contains the accepted rows, in order, and the faulty rows (schema: process_batch.ASIDE)."""
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """The row numbers of the accepted rows."""
    keys: Keys = field(default_factory=lambda: merge([]))
    """The keys of the accepted rows."""
    pairs: np.ndarray = field(default_factory=lambda: np.empty((0, 2), dtype=np.uint64))
    """See BatchResult.pairs."""
    reasons: dict[str, list[int]] = field(default_factory=dict)
    """Code → numbers of the faulty rows."""
    warnings: list[RowWarning] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return self.account.status == "refused"

    @property
    def stored(self) -> StoredRows:
        return StoredRows(self.folder, len(self.rows))

    def aside_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the faulty rows."""
        if self.folder:
            yield from _read_stream(self.folder / ASIDE)


def refused(source: SourceFile, error: Refused) -> FileResult:
    """Return the result of a file that is not used, with the error in its account."""
    account = FileAccount(file=source.name, sha256=source.sha256, status="refused")
    account.error_code, account.error_message = error.code, error.message
    return FileResult(source, account)


def rows_path(folder: Path, first_row: int) -> Path:
    """Return the file for the rows of a batch that begins with `first_row`. The names sort in the order of the rows."""
    return folder / f"rows-{first_row:015d}.arrow"


def write_stream(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow IPC stream."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def _read_stream(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        yield from pa.ipc.open_stream(source)


def save(result: FileResult, folder: Path) -> None:
    """Write everything that `load` needs, except the rows."""
    account = result.account
    note = {
        "refused": [account.error_code, account.error_message] if result.refused else None,
        "read": account.read,
        "reasons": result.reasons,
        "warnings": [asdict(warning) for warning in result.warnings],
    }
    (folder / _NOTE).write_text(json.dumps(note))
    with pa.OSFile(str(folder / _KEYS), "wb") as sink, ExitStack() as stack:
        writer, begin = None, 0
        for table in result.keys.tables():
            rows = slice(begin, begin + table.num_rows)
            table = table.append_column("row", pa.array(result.rows[rows]))
            if len(result.pairs):
                for number, name in enumerate(_PAIRS):
                    table = table.append_column(name, pa.array(result.pairs[rows, number]))
            writer = writer or stack.enter_context(pa.ipc.new_stream(sink, table.schema))
            writer.write_table(table)
            begin += table.num_rows


def load(source: SourceFile, account: FileAccount, sidecar: Sidecar, folder: Path) -> FileResult:
    """Return the result that `save` wrote. `account` already has the settings of the sidecar."""
    note = json.loads((folder / _NOTE).read_text())
    if note["refused"]:
        return refused(source, Refused(*note["refused"]))
    account.read = note["read"]
    with pa.OSFile(str(folder / _KEYS)) as file:
        table = pa.ipc.open_stream(file).read_all()
    keys = Keys.empty(table.num_rows)
    keys.fill(0, table)
    result = FileResult(source, account, sidecar, folder, table["row"].to_numpy(), keys, reasons=note["reasons"])
    if _PAIRS[0] in table.column_names:
        result.pairs = np.stack([table[name].to_numpy() for name in _PAIRS], axis=1)
    result.warnings = [RowWarning(**{**warning, "file": source.name}) for warning in note["warnings"]]
    return result

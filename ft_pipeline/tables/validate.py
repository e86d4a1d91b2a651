"""Validate one file without running the pipeline (`ft validate`)."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ft_pipeline.errors import UserError
from ft_pipeline.sources.snapshot import printable
from ft_pipeline.tables.accounts import FileAccount, FileReport, RowWarning
from ft_pipeline.tables.dedup.matching import first_index, match_against
from ft_pipeline.tables.duplicates import (
    DuplicateFlags,
    conflict_warnings,
    duplicate_warnings,
    fill_accounts,
    flag_duplicates,
    read_shingles,
)
from ft_pipeline.tables.file_result import FileResult, SourceFile, refused
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.ingest import Ingestor
from ft_pipeline.tables.reading.containers import check_path
from ft_pipeline.tables.reading.sidecar import read_sidecar
from ft_pipeline.tables.reason_codes import Refused
from ft_pipeline.tables.table_checks import share_check

NEXT_TO_FILE: Any = object()
"""Default for `sidecar`: read the sidecar from the folder of the file."""


def validate_file(
    path: Path,
    data_format: str,
    *,
    data_dir: Path,
    against: Path | None = None,
    sidecar: Mapping[str, Any] | None = NEXT_TO_FILE,
    max_quarantined: float = 0.1,
    progress: Callable[[int], None] | None = None,
) -> FileReport:
    """Validate one file with the code that builds the tables, and return its report.

    data_dir: the folder that must contain the file. against: rows that are also in that file (or are near one of its
    rows, or have an equal prompt) are set aside as train_test_overlap. Raises UserError if `against` cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="ft-validate-") as folder:
        ingestor = Ingestor(data_format, Path(folder), progress=progress)
        file = _ingest(ingestor, path, data_dir, sidecar)
        if file.refused:
            return FileReport(file.account, data_format, [])
        flags = flag_duplicates(FORMATS[data_format], [file])
        overlap = _overlap(flags, against, ingestor) if against else np.empty(0, dtype=np.int64)
        fill_accounts(flags)
        warnings = _warnings(flags, data_format)
        _set_overlap_aside(file.account, file.rows[overlap])
        warnings += _ceiling(file.account, max_quarantined)
        return FileReport(file.account, data_format, warnings)


def _ingest(ingestor: Ingestor, path: Path, data_dir: Path, sidecar: Any) -> FileResult:
    name = printable(path.name or str(path))
    source = SourceFile(name, path, "", None, data_dir)
    try:
        if name != (path.name or str(path)):
            raise Refused("not_utf8", "the file's name is not UTF-8: rename it")
        check_path(path, data_dir)
        mapping = read_sidecar(path, data_dir) if sidecar is NEXT_TO_FILE else sidecar
    except Refused as error:
        return refused(source, error)
    return ingestor.collect([replace(source, sidecar=dict(mapping) if mapping else None)])[0]


def _warnings(flags: DuplicateFlags, data_format: str) -> list[RowWarning]:
    warnings = [*flags.files[0].warnings, *duplicate_warnings(FORMATS[data_format], flags)]
    return warnings + list(conflict_warnings(flags)) if FORMATS[data_format].is_conversational else warnings


def _ceiling(account: FileAccount, max_quarantined: float) -> list[RowWarning]:
    """Return a warning if the table's check of the quarantined share would fail."""
    check = share_check(account.file, [account], max_quarantined)
    return [] if check.passed else [RowWarning("quarantined_share", f"the pipeline would stop: {check.message}")]


def _overlap(flags: DuplicateFlags, against: Path, ingestor: Ingestor) -> np.ndarray:
    """Return the positions of the kept rows that are in the file `against`, are near one of its rows, or have the same
    prompt."""
    heldout = _ingest(ingestor, against, against.parent, NEXT_TO_FILE)
    if heldout.refused:
        raise UserError(f"--against {against.name} cannot be used: {heldout.account.error_message}")
    file, row_format = flags.files[0], FORMATS[ingestor.data_format]
    read = partial(read_shingles, row_format, [heldout.stored, file.stored])
    matches = match_against(file.keys, heldout.keys, read)
    first_prompt = first_index(np.concatenate([heldout.keys.prompt, file.keys.prompt]))[len(heldout.keys) :]
    return np.flatnonzero((~matches.kept | (first_prompt < len(heldout.keys))) & (flags.code == 0))


def _set_overlap_aside(account: FileAccount, rows: np.ndarray) -> None:
    if rows.size:
        account.reasons["train_test_overlap"] = rows.tolist()
        account.quarantined += rows.size
        account.accepted -= rows.size

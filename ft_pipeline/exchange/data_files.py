"""The data files of an import: copied into data/raw with their sidecars, or named as remote sources."""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline.errors import UserError
from ft_pipeline.exchange.import_report import ImportReport
from ft_pipeline.exchange.remote_data import Remote
from ft_pipeline.exchange.row_edits import RowEdit, count_concerned, needs_new_file, write_rows
from ft_pipeline.exchange.their_settings import without_secrets
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.sources.file_names import stem_of
from ft_pipeline.sources.file_names import suffix_of as inner_suffix
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reason_codes import ROW_CODES

KNOWN_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt", ".arrow")
"""Containers that can be taken over."""


MAX_QUARANTINED = DataSettings().max_quarantined
_TRAINED_BY_THEIRS = frozenset({"unresolved_placeholder", "refusal_boilerplate", "output_equals_input", "too_short"})
"""Codes of rows that can be trained on as they are."""


@dataclass
class DataSet:
    """One of their data sets, as it is used by experiments of one objective."""

    name: str
    source: str
    """The file that names it."""
    data_format: str
    paths: list[Path] = field(default_factory=list)
    remote: Remote | None = None
    columns: dict[str, str] = field(default_factory=dict)
    """Their column or turn key → ours, for the sidecar."""
    roles: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    edits: list[RowEdit] = field(default_factory=list)
    limit: int | None = None
    """Use only the first N rows."""
    line: str = ""
    """What their file says about it, for the report."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """(theirs, effect) of what is read in another way here."""
    is_test: bool = False
    """Whether theirs does not train on it, although ours has no test file of the format."""
    rows: int = 0
    """Number of rows of the copies."""
    copies: list[Path] = field(default_factory=list)
    """The files that were written."""

    @property
    def sidecar(self) -> dict[str, Any]:
        """The keys of the sidecar. Columns and roles that are ours already are left out."""
        columns = {theirs: ours for theirs, ours in self.columns.items() if theirs != ours}
        parts = {"columns": columns, "roles": self.roles, "split": self.split}
        return {name: part for name, part in parts.items() if part}


def place_all(data_sets: Iterable[DataSet], root: Path, report: ImportReport, *, remote: bool) -> None:
    """Copy the data sets into data/raw of the project folder `root`, with their sidecars.

    remote: write a YAML for a data set that is not here. Otherwise it is reported as not taken over.
    """
    taken: set[tuple[str, str]] = set()
    for data in data_sets:
        line = data.line or f"data set {data.name}"
        if data.split == "test" and not FORMATS[data.data_format].is_conversational:
            data.split = None
            effect = "Only conversations have a test file here; these rows are used like the others."
            report.add("changed", data.source, f"{data.name}: rows to evaluate on", data.data_format, effect)
        if data.remote is not None:
            _place_remote(data, root, report, taken, line, write=remote)
        for path in data.paths:
            try:
                _place_file(data, path, root, report, taken, line)
            except UserError as error:
                report.add("no_counterpart", data.source, line, "", str(error))


def _place_remote(
    data: DataSet, root: Path, report: ImportReport, taken: set[tuple[str, str]], line: str, *, write: bool
) -> None:
    assert data.remote is not None
    refusal = data.remote.refusal()
    if refusal is not None or not write:
        way = f" (no remote source: {refusal})" if refusal else ", or import again with --remote to name it as a source"
        effect = (
            f"{without_secrets(data.remote.source)} is not here. Download it into data/raw/{data.data_format}{way}."
        )
        report.add("no_counterpart", data.source, line, "", effect)
        data.remote = None
        return
    stem = _free_name(data.name, data.data_format, taken)
    document, notes = data.remote.declaration(data.sidecar)
    if data.edits or data.limit is not None:
        notes.append("Rows are not changed or left out as in a copied file: check them with `ft validate`.")
    target = _folder(root, data.data_format) / f"{stem}.yaml"
    _write_yaml(target, document, f"Imported from {data.source}. Fetched when the raw files are read.")
    report.files.append(target.relative_to(root).as_posix())
    effect = " ".join(["The rows are fetched when the raw files are read.", *notes])
    report.add("changed", data.source, line, f"data/raw/{data.data_format}/{target.name}", effect)


def _place_file(
    data: DataSet, path: Path, root: Path, report: ImportReport, taken: set[tuple[str, str]], line: str
) -> None:
    suffix = suffix_of(path)
    if suffix is None:
        raise UserError(f"{path.name} is not a data file that can be read. Convert it to JSON Lines.")
    stem = _free_name(
        data.name if len(data.paths) == 1 else f"{data.name}-{stem_of(path.name)}", data.data_format, taken
    )
    total, counts = count_concerned(path, data.edits)
    edits = [edit for edit, count in zip(data.edits, counts, strict=True) if count]
    cut = data.limit is not None and data.limit < total
    why_new = needs_new_file(path)
    new = bool(edits) or cut or why_new is not None
    target = _folder(root, data.data_format) / (f"{stem}.jsonl" if new else f"{stem}{suffix}")
    ours = target.relative_to(root).as_posix()
    if new:
        write_rows(path, target, edits, data.limit)
    else:
        shutil.copyfile(path, target)
    for theirs, effect in data.notes:
        report.add("changed", data.source, f"{data.name}: {theirs}", ours, effect)
    data.rows += min(total, data.limit) if data.limit is not None else total
    report.files.append(ours)
    data.copies.append(target)
    sidecar = target.with_name(f"{stem}.yaml")
    if data.sidecar:
        _write_yaml(sidecar, data.sidecar, f"How {target.name} is read. Imported from {data.source}.")
    if allow := _allow_what_theirs_trains(data, target, report):
        document = {**data.sidecar, "allow": allow}
        _write_yaml(sidecar, document, f"How {target.name} is read. Imported from {data.source}.")
    if sidecar.exists():
        report.files.append(sidecar.relative_to(root).as_posix())
    what = f"{ours} ({total:,} row{'s' * (total != 1)}{', as it is' if not new else ''})"
    report.add("taken_over", data.source, line, f"{what}{_describe_sidecar(data.sidecar)}")
    for edit, count in zip(data.edits, counts, strict=True):
        if count:
            effect = f"{edit.effect} Rows: {count:,}."
            report.add("changed", data.source, f"{data.name}: {edit.theirs}", ours, effect)
    if why_new:
        report.add("changed", data.source, f"{data.name}: {path.name}", ours, why_new)
    if cut:
        effect = f"The copy has the first {data.limit:,} of {total:,} rows."
        report.add("changed", data.source, f"{data.name}: a limit of {data.limit:,} rows", ours, effect)


def _allow_what_theirs_trains(data: DataSet, path: Path, report: ImportReport) -> list[str]:
    """Return the reason codes that the sidecar must allow, so that a run does not stop for rows that theirs trains on.

    None, if at most MAX_QUARANTINED of the rows would be set aside: these are better left out.
    """
    from ft_pipeline.tables.validate import validate_file  # its libraries take a second to load

    account = validate_file(path, data.data_format, data_dir=path.parent).account
    if account.quarantined <= MAX_QUARANTINED * account.read:
        return []
    codes = sorted(_TRAINED_BY_THEIRS & account.reasons.keys())
    for code in codes:
        rows = len(account.reasons[code])
        effect = (
            f"{rows:,} rows have it. Theirs trains on them, so the sidecar allows them: look at them, then remove it."
        )
        report.add("changed", data.source, f"{path.name}: {ROW_CODES[code]}", f"allow: [{code}]", effect)
    return codes


def _describe_sidecar(sidecar: dict[str, Any]) -> str:
    parts = []
    for key in ("columns", "roles"):
        if key in sidecar:
            parts.append(f"{key} " + ", ".join(f"{theirs} → {ours}" for theirs, ours in sidecar[key].items()))
    if "split" in sidecar:
        parts.append(f"split {sidecar['split']}")
    return f"; {'; '.join(parts)}" if parts else ""


def _folder(root: Path, data_format: str) -> Path:
    folder = root / "data" / "raw" / data_format
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _free_name(name: str, data_format: str, taken: set[tuple[str, str]]) -> str:
    """Return a file name without suffix that no other file of the format has."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-_")[:80] or "rows"
    stem = stem.removesuffix(".yaml").removesuffix(".yml")
    number = 1
    while (data_format, candidate := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    taken.add((data_format, candidate))
    return candidate


def _write_yaml(path: Path, document: dict[str, Any], comment: str) -> None:
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    path.write_text(f"# {comment}\n{text}", encoding="utf-8")


def inside(root: Path, *candidates: Path) -> Path | None:
    """Return the first of the paths that exists and is inside `root`, links followed; None if there is none."""
    home = root.resolve()
    for candidate in candidates:
        try:
            real = candidate.resolve()
            if real.exists() and real.is_relative_to(home):
                return candidate
        except (OSError, RuntimeError, ValueError):
            continue
    return None


def suffix_of(path: Path) -> str | None:
    """Return the suffix of a data file, such as `.jsonl` or `.jsonl.gz`; None if it has no known one."""
    return path.name[len(stem_of(path.name)) :].lower() if inner_suffix(path.name) in KNOWN_SUFFIXES else None


def data_files_of(path: Path) -> list[Path]:
    """Return a data file itself, or the data files in a folder, sorted. Others, such as README.md, are left out."""
    if path.is_file():
        return [path]
    home = path.resolve()
    files = sorted(item for item in path.iterdir() if suffix_of(item) is not None)
    return [item for item in files if item.is_file() and item.resolve().is_relative_to(home)]

"""Erased rows are removed from what is downloaded, because the source of a remote file may still have them."""

import contextlib
from pathlib import Path

from ft_pipeline.erasure.raw_files import read_raw_rows, replace_with_markers
from ft_pipeline.project import Project
from ft_pipeline.store.artifact_redaction import drafts_folder
from ft_pipeline.store.atomic_files import rewriting, translate_write_errors
from ft_pipeline.tables.excluded_rows import erasure_marker, read_excluded, salted
from ft_pipeline.tables.reading.sidecar import load_sidecar, parse_sidecar
from ft_pipeline.tables.reason_codes import Refused


def replace_erased_rows(project: Project, data_format: str, path: Path, name: str, declared_in: Path) -> None:
    """Replace erased rows in a downloaded file by their markers. A file that cannot be read stays as it is.

    name: the name under which the file is listed. declared_in: the YAML that names its source.
    """
    excluded = read_excluded(project.root / "data", data_format)
    if not excluded:
        return
    work = drafts_folder(project.store)
    with contextlib.suppress(Refused):
        sidecar = parse_sidecar(load_sidecar(declared_in))
        rows = read_raw_rows(path, name, data_format, sidecar, work)
        erased = {row.number: row.identity for row in rows if row.identity in excluded}
        if erased:
            markers = {number: erasure_marker(salted(identity, excluded.salt)) for number, identity in erased.items()}
            with translate_write_errors(), rewriting(path) as target:
                replace_with_markers(path, name, markers, target, work)

"""The folder that an export writes: new or empty before, complete or not at all after."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError

_CHUNK_BYTES = 1 << 23
ReportBytes = Callable[[int], None]
"""Called with the number of bytes written since the last call."""


def require_free_folder(target: Path) -> Path:
    """Return the folder as an absolute path. Raises UserError if it is a file, or not empty."""
    target = target.expanduser().absolute()
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file. Choose a new or empty folder.")
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} is not empty. Choose a new or empty folder.")
    return target


@contextmanager
def draft_folder(target: Path) -> Iterator[Path]:
    """Yield a draft folder of the same name, in a hidden folder next to `target`.

    It is renamed to `target` on success and removed on failure.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    draft = holder / target.name  # a signature of the folder contains its name
    try:
        draft.mkdir()
        yield draft
        draft.chmod(0o777 & ~_current_umask())
        draft.rename(target)  # also replaces an empty folder
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def copy_file(source: Path, target: Path, report_bytes: ReportBytes = lambda count: None) -> None:
    """Copy the file. It is not linked, because an edit of the exported file would then damage the store."""
    with source.open("rb") as source_file, target.open("wb") as target_file:
        while chunk := source_file.read(_CHUNK_BYTES):
            target_file.write(chunk)
            report_bytes(len(chunk))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write the content, indented, with sorted keys and a line break at the end."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

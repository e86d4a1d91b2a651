"""The last line of each journal that this machine signed. It is kept with the keys, outside the store.

A journal that was cut off, or that an earlier copy replaced, is valid in itself. Only what is outside the store shows
that lines are missing.
"""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.store.atomic_files import write_atomically
from ft_pipeline.store.checked_json import read_checked
from ft_pipeline.store.signing import ID_DIGITS, keys_folder


@dataclass(frozen=True)
class Head:
    """A line of a journal."""

    key_id: str
    number: int
    sha256: str


def remember(root: Path, head: Head) -> None:
    """Remember the last line of the journal in the store `root`. Without a writable folder of keys, do nothing."""
    document = {"store": str(root), **asdict(head)}
    with contextlib.suppress(OSError):
        write_atomically(_path(root), json.dumps(document).encode())


def forget(root: Path) -> None:
    """Forget the last line: a new journal begins in this folder, or a person accepts the present one."""
    with contextlib.suppress(OSError):
        _path(root).unlink(missing_ok=True)


def remembered(root: Path) -> Head | None:
    """Return the last line that this machine signed in the store folder `root`; None if it signed none."""
    return _read(_path(root))


def remembered_elsewhere(key_id: str) -> list[Head]:
    """Return the last lines that this machine signed with a key, in any folder."""
    heads = [_read(path) for path in sorted((keys_folder() / "heads").glob("*.json"))]
    return [head for head in heads if head is not None and head.key_id == key_id]


def is_remembered(root: Path, line: Head) -> bool:
    """Return whether a line is the last one that this machine signed in the store folder `root`."""
    head = remembered(root)
    return head is not None and (line.number, line.sha256) == (head.number, head.sha256)


def require_not_behind(root: Path, last: Head | None) -> None:
    """Raise UserError if the journal ends before the line that this machine signed last, or with another one.

    Lines after it are accepted: the process that wrote them was killed before it remembered them, or it runs elsewhere.
    """
    head = remembered(root)
    if head is None or (last is not None and (last.number > head.number or is_remembered(root, last))):
        return
    ends = f"ends at line {last.number}" if last else "is missing"
    raise UserError(
        f"The journal of this store {ends}, but line {head.number} was signed here. Restore the store, or run "
        "`ft audit --verify` and accept it: ft keys accept --reason TEXT"
    )


def _read(path: Path) -> Head | None:
    try:
        document = read_checked(path, dict[str, Any])
        return Head(str(document["key_id"]), int(document["number"]), str(document["sha256"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(root: Path) -> Path:
    # Not resolved: a link in place of a folder of the project must not make this machine forget the store.
    name = hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:ID_DIGITS]
    return keys_folder() / "heads" / f"{name}.json"

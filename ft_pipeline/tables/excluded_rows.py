"""Erased rows: their salted hashes in data/excluded.yaml, and the marker that replaces an erased row in a raw file.

The hash identifies an erased row that is added again. It reveals nothing about the row's text.
"""

import hmac
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline.errors import UserError
from ft_pipeline.settings.bounded_yaml import load_bounded
from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically

FILE = "excluded.yaml"
MARKER_START = "excluded:"
"""The beginning of the marker that replaces an erased row and its id."""
MARK = re.compile(rf"^{MARKER_START}[0-9a-f]{{64}}$")
HEADER = """\
# Rows that were erased on request: salted hashes, written by `ft erase`. Rows with these hashes are never used again,
# in any file (reason `excluded`). Keep this file under version control, and keep the salt: without it, the hashes
# match no row.
"""


@dataclass(frozen=True)
class Excluded:
    """The erased rows of one format. Test with `identity in excluded`, where `identity` is a row's id."""

    salt: str = ""
    hashes: frozenset[str] = frozenset()

    def __contains__(self, identity: object) -> bool:
        return bool(self.hashes) and salted(str(identity), self.salt) in self.hashes

    def __len__(self) -> int:
        return len(self.hashes)

    def __iter__(self) -> Iterator[str]:
        """Yield `salt:hash` of each erased row, so that the rows can be part of a cache key. Their ids are unknown."""
        return (f"{self.salt}:{hashed}" for hashed in sorted(self.hashes))

    def to_json(self) -> dict[str, Any]:
        """Return the entry in a table's spec: salt and hashes, or {} if no row is erased."""
        return {"salt": self.salt, "hashes": sorted(self.hashes)} if self.hashes else {}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Excluded":
        return cls(document.get("salt", ""), frozenset(document.get("hashes", ())))


def salted(identity: str, salt: str) -> str:
    """Return the HMAC-SHA-256 (hex) of a row's id."""
    return hmac.new(bytes.fromhex(salt), identity.encode(), sha256).hexdigest()


def erasure_marker(hashed: str) -> str:
    """Return the text that replaces a row with this salted hash."""
    return MARKER_START + hashed


def is_erasure_marker(value: Mapping[str, Any]) -> bool:
    """Return whether a raw row is an erasure marker: its first value that is not empty is `excluded:HASH`."""
    first = next((item for item in value.values() if item is not None and item != ""), None)
    return type(first) is str and first.startswith(MARKER_START) and MARK.match(first) is not None


def read_excluded(data_dir: Path, data_format: str) -> Excluded:
    """Return the erased rows of a format.

    Raises UserError if data/excluded.yaml is invalid: otherwise erased rows would be used again without notice.
    """
    document = _read(data_dir / FILE)
    hashes = frozenset(row["hash"] for row in document["rows"] if row["format"] == data_format)
    return Excluded(document["salt"], hashes)


def salt_of(data_dir: Path) -> str:
    """Return the project's salt, or a new salt if no row has been erased yet."""
    return _read(data_dir / FILE)["salt"] or secrets.token_hex(16)


def add_excluded(data_dir: Path, salt: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows (`hash`, `format`, `file`, `row`, `when`, `by`, `reason`) to data/excluded.yaml.

    Rows that are already listed stay unchanged.
    """
    path = data_dir / FILE
    listed = _read(path)["rows"]
    hashes = {(row["hash"], row["format"]) for row in listed}
    new_rows = [dict(row) for row in rows if (row["hash"], row["format"]) not in hashes]
    text = yaml.safe_dump({"salt": salt, "rows": [*listed, *new_rows]}, sort_keys=False, allow_unicode=True)
    with translate_write_errors():
        write_atomically(path, (HEADER + text).encode())


def merge_excluded(data_dir: Path, content: bytes) -> None:
    """Add the rows of another copy of data/excluded.yaml. UserError if it has another salt, or is invalid."""
    other, own = _parse(content), _read(data_dir / FILE)
    if own["salt"] not in ("", other["salt"]):
        raise UserError(
            f"The rows in the copy's data/{FILE} have another salt than the ones here, so that they cannot be added. "
            "Restore the file from version control."
        )
    add_excluded(data_dir, other["salt"], other["rows"])


def _read(path: Path) -> dict[str, Any]:
    return _parse(path.read_bytes()) if path.is_file() else {"salt": "", "rows": []}


def _parse(content: bytes) -> dict[str, Any]:
    try:
        document = load_bounded(content.decode("utf-8"))
        bytes.fromhex(document["salt"])
        for row in document["rows"]:
            if not (re.fullmatch(r"[0-9a-f]{64}", row["hash"]) and isinstance(row["format"], str)):
                raise ValueError(f"{row['hash']!r} is not a hash")
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"data/{FILE} is invalid ({error}). Restore it from version control: it lists the rows that must never be "
            "used."
        ) from None
    return document

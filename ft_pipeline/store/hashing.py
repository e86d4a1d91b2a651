"""Content hashes of JSON and of files."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20
"""Number of bytes of a file that are in memory at a time."""


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON of a value: keys sorted, no spaces, ASCII only. ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def plain_json(value: Any) -> Any:
    """Return the value as plain JSON: numpy scalars as Python scalars, NaN and infinities as null, keys as strings."""
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def sha256_of_json(value: Any) -> str:
    """Return the hex SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes_of_files(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the hex SHA-256 of files of a folder, by name."""
    return {name: sha256_of_file(folder / name) for name in names}

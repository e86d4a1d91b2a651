"""The cache key of a raw file's result: a hash of everything that the result depends on."""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

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

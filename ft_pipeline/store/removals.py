"""The list of artifacts that `ft gc` removed."""

from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.store.checked_json import UnreadableJson, parse_checked
from ft_pipeline.store.spec import ArtifactReference

LOG_NAME = "removed.jsonl"
"""Append-only list of removed artifacts, so that an audit can distinguish removal from tampering."""


@dataclass(frozen=True)
class _Removal:
    kind: str
    fingerprint: str


def logged_removals(root: Path) -> set[ArtifactReference]:
    """Return the artifacts in the removal log of the store `root`. A damaged line excuses nothing.

    After an interruption, the last one may still be in the store.
    """
    entries = (_parse(line) for line in _lines(root))
    return {(entry["kind"], entry["fingerprint"]) for entry in entries if entry is not None}


def damaged_removals(root: Path) -> str | None:
    """Return why the removal log cannot be read completely; None if it can, or if there is none."""
    path = root / LOG_NAME
    if (path.exists() or path.is_symlink()) and not path.is_file():
        return "is not a regular file"
    damaged = [number for number, line in enumerate(_lines(root), start=1) if _parse(line) is None]
    return f"cannot be read in line {damaged[0]}" if damaged else None


def _lines(root: Path) -> list[bytes]:
    path = root / LOG_NAME
    return path.read_bytes().splitlines() if path.is_file() else []


def _parse(line: bytes) -> dict[str, str] | None:
    try:
        entry: dict[str, str] = parse_checked(line, _Removal)
        return entry
    except UnreadableJson:
        return None

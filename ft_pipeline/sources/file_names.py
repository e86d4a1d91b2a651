"""What the name of a raw file says: its stem, which its sidecar shares, and the suffix of the rows inside.

`support.jsonl.gz` has the stem `support` and the suffix `.jsonl`, because the suffix of a compression does not count.
Everything that pairs files with sidecars, or looks for CSV and Parquet, uses these two functions.
"""

from pathlib import PurePosixPath

COMPRESSION_SUFFIXES = frozenset({".gz", ".zst", ".bz2"})
"""Suffixes in lower case. The content decides whether a file is compressed, and how."""


def stem_of(name: str) -> str:
    """Return the name without its suffix and the suffix of a compression. A data file and its sidecar share it."""
    path = _expanded_name(name)
    return str(path.with_suffix("")) if path.name else name


def suffix_of(name: str) -> str:
    """Return the suffix of the file inside, in lower case: `.csv` for `rows.CSV.gz`; empty if it has none."""
    return _expanded_name(name).suffix.lower()


def _expanded_name(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    return path.with_suffix("") if path.suffix.lower() in COMPRESSION_SUFFIXES else path

"""Detect files that run code when they are loaded, by name and by first bytes. The store accepts none."""

from pathlib import Path

ENDINGS = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"})


def named_like_a_pickle(name: str) -> bool:
    """Return whether a file's suffix is one that pickled weights and objects use."""
    return Path(name).suffix.lower() in ENDINGS


def begins_like_a_pickle(path: Path) -> bool:
    """Return whether a file is a pickle of protocol 2 or later, or a zip archive, in which torch stores pickles."""
    with path.open("rb") as file:
        begin = file.read(4)
    return begin == b"PK\x03\x04" or (begin[:1] == b"\x80" and begin[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"})

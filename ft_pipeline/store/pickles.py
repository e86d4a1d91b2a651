"""Detect files that run code when they are loaded, by name and by first bytes. The store accepts none."""

from pathlib import Path

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"})


def named_like_a_pickle(name: str) -> bool:
    """Return whether a file's suffix is one of pickled weights or objects."""
    return Path(name).suffix.lower() in PICKLE_SUFFIXES


def begins_like_a_pickle(path: Path) -> bool:
    """Return whether a file is a pickle of protocol 2 or later, or a zip archive, in which torch stores pickles."""
    with path.open("rb") as file:
        first_bytes = file.read(4)
    if first_bytes == b"PK\x03\x04":  # zip
        return True
    return first_bytes[:1] == b"\x80" and first_bytes[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}

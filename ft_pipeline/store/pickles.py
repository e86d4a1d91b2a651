"""Files that run code when they are loaded, known by their name and by their first bytes. The store holds none."""

from pathlib import Path

ENDINGS = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"})


def named_like_a_pickle(name: str) -> bool:
    """Whether a file's ending is one of those that pickled weights and objects go by."""
    return Path(name).suffix.lower() in ENDINGS


def begins_like_a_pickle(path: Path) -> bool:
    """A pickle of protocol 2 and later, or a zip archive, in which torch keeps its pickles."""
    with path.open("rb") as file:
        begin = file.read(4)
    return begin == b"PK\x03\x04" or (begin[:1] == b"\x80" and begin[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"})

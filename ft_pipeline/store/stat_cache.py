"""Cached SHA-256 of files. A file that has not changed since it was last read is not read again."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from ft_pipeline.store.atomic_files import write_atomically
from ft_pipeline.store.hashing import sha256_of_file, sha256_of_json

# A file written this recently may be written again within the same timestamp tick. Its stat would not show that.
RACY_NANOSECONDS = 2_000_000_000


class StatCache:
    """One small JSON per folder: name → (size, mtime, ctime, inode) and hash.

    ctime cannot be set from user space, so an edit that restores size and mtime is still detected. Losing the cache, or
    two writers at the same time, costs only another read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def hashes(
        self,
        folder: Path,
        names: list[str],
        read: Callable[[Path], str] = sha256_of_file,
        failed: dict[str, OSError] | None = None,
    ) -> dict[str, str]:
        """Return the hash of each file of `folder`, by name (relative path). `read` is called for changed files.

        failed: receives the files that are missing or unreadable. Without it, the first of them raises OSError.
        """
        cache_file = self.root / f"{sha256_of_json(str(folder.resolve()))[:32]}.json"
        known = _load(cache_file)
        entries: dict[str, list] = {}
        for name in names:
            try:
                entries[name] = self._one(folder / name, known.get(name), read)
            except OSError as error:
                if failed is None:
                    raise
                failed[name] = error
        fresh = {name: entry for name, entry in entries.items() if not _racy(entry)}
        merged = known | fresh
        if fresh != {name: known.get(name) for name in fresh}:
            self._save(cache_file, merged)
        return {name: entry[-1] for name, entry in entries.items()}

    @staticmethod
    def _one(path: Path, known: list | None, read: Callable[[Path], str]) -> list:
        stamp = _stamp(path)
        if known and known[:-1] == stamp:
            return known
        return [*stamp, read(path)]

    @staticmethod
    def _save(path: Path, entries: dict[str, list]) -> None:
        try:
            write_atomically(path, json.dumps(entries).encode())
        except OSError:  # a read-only store can still be read
            return


def _stamp(path: Path) -> list[int]:
    seen = path.stat()
    return [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]


def _racy(entry: list) -> bool:
    return max(entry[1], entry[2]) > time.time_ns() - RACY_NANOSECONDS


def _load(path: Path) -> dict[str, list]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

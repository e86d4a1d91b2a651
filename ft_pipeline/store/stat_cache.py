"""Cached SHA-256 of files. A file that has not changed since it was last read is not read again."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from ft_pipeline.store.atomic_files import write_atomically
from ft_pipeline.store.cache_seal import CacheSeal
from ft_pipeline.store.hashing import sha256_of_file, sha256_of_json

RACY_NANOSECONDS = 2_000_000_000
"""A file written this recently may be written again within the same timestamp tick. Its stat would not show that."""


class StatCache:
    """One small JSON per folder, sealed: file name → entry. An entry is [size, mtime, ctime, inode, hash].

    ctime cannot be set from user space, so an edit that restores size and mtime is still detected. Losing the cache, or
    two writers at the same time, costs only another read.
    """

    def __init__(self, store: Path) -> None:
        self.root = store / "cache" / "stat"
        self._seal = CacheSeal(store)

    def hashes(
        self,
        folder: Path,
        names: list[str],
        hash_file: Callable[[Path], str] = sha256_of_file,
        failed: dict[str, OSError] | None = None,
    ) -> dict[str, str]:
        """Return the hash of each file of `folder`, by name (relative path). `hash_file` is called for changed files.

        failed: receives the files that are missing or unreadable. Without it, the first of them raises OSError.
        """
        place = str(folder.resolve())
        cached = self._load(place)
        entries: dict[str, list] = {}
        for name in names:
            try:
                entries[name] = _current_entry(folder / name, cached.get(name), hash_file)
            except OSError as error:
                if failed is None:
                    raise
                failed[name] = error
        reliable = {name: entry for name, entry in entries.items() if not _is_racy(entry)}
        if reliable != {name: cached.get(name) for name in reliable}:
            self._save(place, cached | reliable)
        return {name: entry[-1] for name, entry in entries.items()}

    def _file(self, place: str) -> Path:
        return self.root / f"{sha256_of_json(place)[:32]}.json"

    def _load(self, place: str) -> dict[str, list]:
        """Return the saved entries; none if the file is missing, broken or not sealed."""
        try:
            content = json.loads(self._file(place).read_bytes())
            entries, seal = content["entries"], content["seal"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return entries if isinstance(entries, dict) and self._seal.fits([place, entries], seal) else {}

    def _save(self, place: str, entries: dict[str, list]) -> None:
        seal = self._seal.of([place, entries])
        if seal is not None:
            with contextlib.suppress(OSError):  # a read-only store can still be read
                write_atomically(self._file(place), json.dumps({"entries": entries, "seal": seal}).encode())


def _current_entry(path: Path, cached: list | None, hash_file: Callable[[Path], str]) -> list:
    """Return the cached entry of a file if the file has not changed, else a new one."""
    stamp = stamp_of(path)
    if cached and cached[:-1] == stamp:
        return cached
    return [*stamp, hash_file(path)]


def stamp_of(path: Path) -> list[int]:
    """Return an entry without its hash: size (bytes), mtime and ctime (ns), inode. A write changes it."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _is_racy(entry: list) -> bool:
    """Return whether the file was written too recently for its entry to be saved."""
    _, mtime, ctime, *_ = entry
    return max(mtime, ctime) > time.time_ns() - RACY_NANOSECONDS

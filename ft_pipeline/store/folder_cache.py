"""A cache of folders by key, with a size limit: the least recently used folders are removed first.

Each entry records the hashes of its files, sealed. They are verified each time the entry is used.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

from ft_pipeline.store.cache_seal import CacheSeal
from ft_pipeline.store.hashing import sha256_of_file

MAX_BYTES = 8 << 30
"""Largest total size of all entries."""
_SHARE_KEPT = 0.9
"""If the cache is full, entries are removed down to this share of its size, so that not every new entry must look for
the oldest ones."""
_HASHES_NAME = "entry.json"
"""Name of the file with the hashes of an entry. Its modification time is the time of the entry's last use."""


class FolderCache:
    """Folders of files by key, below `cache` in the store. Losing the cache, or any part of it, costs only time."""

    def __init__(self, store: Path, name: str, max_bytes: int = MAX_BYTES):
        self.root, self.max_bytes = store / "cache" / name, max_bytes
        self._seal = CacheSeal(store)
        self._bytes: int | None = None
        """Total size of the entries when they were last listed, and of those stored since. None: not listed yet."""

    def restore(self, key: str, target: Path) -> bool:
        """Put the files of an entry into a new folder `target`, and return whether there was an intact entry.

        An entry that is damaged, or is not sealed with the store's key, is removed.
        """
        entry = self._entry(key)
        if not entry.exists():
            return False
        try:
            recorded = json.loads((entry / _HASHES_NAME).read_bytes())
            hashes = recorded["files"]
            if not self._seal.fits([key, hashes], recorded["seal"]):
                raise ValueError(key)
            target.mkdir(parents=True)
            for name, sha256 in hashes.items():
                _link_or_copy(entry / name, target / name)
                if sha256_of_file(target / name) != sha256:
                    raise ValueError(name)
            os.utime(entry / _HASHES_NAME)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            shutil.rmtree(entry, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)
            return False
        return True

    def store(self, key: str, folder: Path) -> None:
        """Store the files of `folder`, which must not change any more. If they cannot be stored, nothing happens."""
        files = sorted(path for path in folder.iterdir() if path.is_file())
        size = sum(path.stat().st_size for path in files)
        temporary = None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if size > min(self.max_bytes, shutil.disk_usage(self.root).free):
                return
            if self._bytes is None or self._bytes + size > self.max_bytes:
                self._bytes = self._make_room(size)
            temporary = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self.root))
            for path in files:
                _link_or_copy(path, temporary / path.name)
            hashes = {path.name: sha256_of_file(path) for path in files}
            if (seal := self._seal.of([key, hashes])) is None:
                raise OSError("no key to seal it")
            (temporary / _HASHES_NAME).write_text(json.dumps({"files": hashes, "seal": seal}))
            temporary.rename(self._entry(key))
            self._bytes += size
        except OSError:  # the disk is full or read-only, or another build has just stored the entry
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    def _entry(self, key: str) -> Path:
        return self.root / key

    def _make_room(self, size: int) -> int:
        """Return the total size of the entries. If `size` more bytes do not fit, the oldest by use are removed."""
        entries = []
        for path in self.root.iterdir():
            try:
                last_used = (path / _HASHES_NAME).stat().st_mtime_ns
            except OSError:  # an entry that is not finished
                continue
            entries.append((last_used, path, sum(file.stat().st_size for file in path.iterdir())))
        total = sum(bytes_used for _, _, bytes_used in entries)
        if total + size <= self.max_bytes:
            return total
        for _, path, bytes_used in sorted(entries):
            if total + size <= _SHARE_KEPT * self.max_bytes:
                break
            shutil.rmtree(path, ignore_errors=True)
            total -= bytes_used
        return total


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-link the file under another name, or copy it if a link is not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

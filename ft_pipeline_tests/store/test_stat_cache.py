"""Unchanged files are not read again, and every change is detected."""

import json
import os
import time
from pathlib import Path

import pytest

from ft_pipeline.store import stat_cache
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.stat_cache import StatCache


class Reader:
    """Hashes files and records their names."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, path: Path) -> str:
        self.read.append(path.name)
        return sha256_of_file(path)


def wait_until_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait until the timestamps of new files are old enough to be trusted: a tenth of a second in place of two."""
    monkeypatch.setattr(stat_cache, "RACY_NANOSECONDS", 100_000_000)
    time.sleep(0.15)


def test_unchanged_files_are_read_once_and_changed_files_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
    wait_until_trusted(monkeypatch)
    reader, cache = Reader(), StatCache(tmp_path / "store")
    first = cache.hashes(folder, ["a", "b"], reader)
    assert cache.hashes(folder, ["a", "b"], reader) == first
    assert reader.read == ["a", "b"]

    stamp = (folder / "a").stat()
    (folder / "a").write_text("x")  # same size, and the old mtime is restored
    os.utime(folder / "a", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert cache.hashes(folder, ["a", "b"], reader)["a"] == sha256_of_file(folder / "a") != first["a"]
    assert reader.read == ["a", "b", "a"]


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    reader, cache = Reader(), StatCache(tmp_path / "store")
    for _ in range(2):
        cache.hashes(tmp_path, ["a"], reader)
    assert reader.read == ["a", "a"]


def test_a_broken_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("a")
    wait_until_trusted(monkeypatch)
    cache = StatCache(tmp_path / "store")
    first = cache.hashes(tmp_path, ["a"])
    for file in cache.root.iterdir():
        kept = json.loads(file.read_bytes())
        for content in (
            "{",
            "[]",
            '{"a": []}',
            '{"entries": "x", "seal": "unsealed"}',
            json.dumps(kept | {"seal": "x"}),
        ):
            file.write_text(content)
            assert cache.hashes(tmp_path, ["a"]) == first

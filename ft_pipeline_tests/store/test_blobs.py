"""Raw files are stored once, by content, and are returned unchanged or not at all."""

import os
from pathlib import Path

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_file


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 100_000)
    return path


def test_bytes_are_stored_once_compressed_and_returned_unchanged(tmp_path: Path, raw: Path) -> None:
    blobs = BlobStore(tmp_path / "store")
    sha256 = blobs.add(raw)
    assert sha256 == sha256_of_file(raw)
    assert blobs.path(sha256).stat().st_size < raw.stat().st_size / 100
    written = blobs.path(sha256).stat().st_mtime_ns
    assert blobs.add(raw) == sha256
    assert blobs.path(sha256).stat().st_mtime_ns == written
    content = raw.read_bytes()
    raw.unlink()
    assert blobs.available([sha256])
    assert blobs.checkout(sha256, tmp_path / "out" / "raw.jsonl").read_bytes() == content
    assert [path.name for path in (tmp_path / "store" / "blobs").iterdir()] == [sha256[:2]]


def test_an_empty_file_is_stored(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    blobs = BlobStore(tmp_path / "store")
    sha256 = blobs.add(tmp_path / "empty")
    assert blobs.checkout(sha256, tmp_path / "back").read_bytes() == b""


@pytest.mark.parametrize("position", [8, -5])
def test_a_damaged_blob_is_not_returned_and_is_replaced(tmp_path: Path, raw: Path, position: int) -> None:
    blobs = BlobStore(tmp_path / "store")
    sha256 = blobs.add(raw)
    content = bytearray(blobs.path(sha256).read_bytes())
    content[position] ^= 1
    blobs.path(sha256).write_bytes(content)
    assert not blobs.available([sha256])
    with pytest.raises(UserError, match="damaged"):
        blobs.checkout(sha256, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert blobs.add(raw) == sha256
    assert blobs.available([sha256])
    assert blobs.path(sha256).with_suffix(".zst.damaged").exists()


def test_a_truncated_blob_counts_as_damaged(tmp_path: Path, raw: Path) -> None:
    blobs = BlobStore(tmp_path / "store")
    sha256 = blobs.add(raw)
    os.truncate(blobs.path(sha256), blobs.path(sha256).stat().st_size // 2)
    assert not blobs.available([sha256])


def test_a_large_file_is_stored_by_reference(tmp_path: Path, raw: Path) -> None:
    blobs = BlobStore(tmp_path / "store", by_reference_above=1000)
    sha256 = blobs.add(raw)
    assert not blobs.path(sha256).exists()
    assert blobs.checkout(sha256, tmp_path / "back") == raw
    raw.write_bytes(b"edited" * 1000)
    assert not blobs.available([sha256])
    with pytest.raises(UserError, match="moved or changed"):
        blobs.checkout(sha256, tmp_path / "back")


def test_an_unknown_hash_gives_an_error_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="materialize its raw asset again"):
        BlobStore(tmp_path / "store").checkout("0" * 64, tmp_path / "back")

"""Raw bytes stored by content: blobs/ab/<sha256>.zst, or a reference if a file is too large to copy."""

import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Literal

import zstandard

from ft_pipeline.errors import UserError
from ft_pipeline.store.atomic_files import sync_folder, translate_write_errors, write_atomically
from ft_pipeline.store.hashing import CHUNK_BYTES, sha256_of_file
from ft_pipeline.store.stat_cache import StatCache

BlobState = Literal["copy", "reference", "redacted", "gone", "damaged", "changed"]
"""`redacted`: rows were removed from it (`ft erase`), and its bytes are the rest. `changed`: stored by reference, and
the referenced file has changed."""
BY_REFERENCE_ABOVE = 512 * 2**20
LEVEL = 3
INCOMING = ".incoming."
"""Prefix of the name of an unfinished copy."""


class BlobStore:
    """Compressed copies of files. Equal content is stored once, under any name. A copy is complete or absent."""

    def __init__(self, root: Path, by_reference_above: int = BY_REFERENCE_ABOVE) -> None:
        """by_reference_above: bytes. A larger file is not copied; its path, size, mtime and hash are recorded."""
        self.folder = root / "blobs"
        self.by_reference_above = by_reference_above
        self._cache = StatCache(root / "cache" / "stat")

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.zst"

    def reference_path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.reference.json"

    def holds(self, sha256: str) -> bool:
        """Return whether the content is available: a copy that decompresses to its hash, or a valid reference."""
        return self._intact(sha256) or self._referenced(sha256) is not None

    def add(self, path: Path) -> str:
        """Store the bytes of `path` and return their hex SHA-256. UserError while another program writes the file."""
        for _ in range(3):
            before = _stamp(path)
            sha256 = self._refer(path) if before[0] > self.by_reference_above else self._copy(path)
            if _stamp(path) == before:
                return sha256
        raise UserError(f"{path.name} changed while it was read. Wait until it is completely written, then run again.")

    def redact(self, sha256: str, source: Path) -> None:
        """Replace a content by the bytes of `source`. The old bytes are removed, and a note records the new hash.

        If a content is stored by reference, the caller must change the referenced file.
        """
        with translate_write_errors():
            note = {"sha256": sha256_of_file(source), "bytes": source.stat().st_size}
            write_atomically(self._note(sha256), json.dumps(note).encode())
            target = self.path(sha256)
            if target.is_file():
                sink = io.BytesIO()
                with source.open("rb") as file:
                    _compress(file, sink)
                write_atomically(target, sink.getvalue())
            target.with_suffix(".zst.damaged").unlink(missing_ok=True)

    def is_redacted(self, sha256: str) -> bool:
        """Return whether a content was redacted after it was stored. Only its note is read."""
        return self._noted(sha256) is not None

    def _note(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.redacted.json"

    def _noted(self, sha256: str) -> str | None:
        """Return the hash of a content after its redaction; None if it was never redacted."""
        try:
            return json.loads(self._note(sha256).read_bytes())["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def state(self, sha256: str) -> BlobState:
        """Return how a content is stored. All of its bytes are read again."""
        noted = self._noted(sha256)
        if self.path(sha256).is_file():
            actual = self._decompress(sha256)
            return "copy" if actual == sha256 else "redacted" if actual and actual == noted else "damaged"
        try:
            path = Path(json.loads(self.reference_path(sha256).read_bytes())["path"])
            actual = sha256_of_file(path)
            return "reference" if actual == sha256 else "redacted" if actual == noted else "changed"
        except FileNotFoundError:
            return "changed" if self.reference_path(sha256).is_file() else "gone"
        except (OSError, ValueError, KeyError, TypeError):
            return "damaged"

    def checkout(self, sha256: str, target: Path, *, redacted: bool = False) -> Path:
        """Return a plain file with the content: `target`, or the referenced file itself. UserError if there is none.

        redacted: also accept the content after its redaction.
        """
        if not self.path(sha256).is_file():
            referenced = self._referenced(sha256)
            if referenced is None:
                raise UserError(f"the bytes of {target.name} ({sha256[:16]}) are missing: {self._why_gone(sha256)}")
            return referenced
        with translate_write_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                actual = self._decompress(sha256, file)
        if actual != sha256 and not (redacted and self._noted(sha256) == actual):
            target.unlink()
            why = "was redacted (ft erase)" if self._noted(sha256) == actual else "is damaged"
            raise UserError(f"the stored copy of {target.name} {why}: materialize its raw asset again")
        return target

    def _copy(self, path: Path) -> str:
        """Hash and store the file in one pass, so that the hash matches the copy. OSError if it cannot be opened."""
        with path.open("rb") as source, translate_write_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=INCOMING, dir=self.folder)
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    sha256 = _compress(source, file)
                    file.flush()
                    os.fsync(file.fileno())
                self._place(temporary, sha256)
            finally:
                temporary.unlink(missing_ok=True)
        return sha256

    def _place(self, temporary: Path, sha256: str) -> None:
        target = self.path(sha256)
        if target.exists() and self._intact(sha256):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # damaged: kept next to the new copy for diagnosis
            target.rename(target.with_suffix(".zst.damaged"))
        temporary.chmod(0o644)
        temporary.rename(target)
        sync_folder(target.parent)

    def _refer(self, path: Path) -> str:
        sha256 = sha256_of_file(path)
        seen = path.stat()
        note = {"path": str(path.resolve()), "bytes": seen.st_size, "mtime_ns": seen.st_mtime_ns, "sha256": sha256}
        with translate_write_errors():
            write_atomically(self.reference_path(sha256), json.dumps(note, indent=1).encode())
        return sha256

    def _intact(self, sha256: str) -> bool:
        """Return whether the copy exists and matches its hash. It is read only if it changed since the last check."""
        target = self.path(sha256)
        try:
            return (
                self._cache.hashes(target.parent, [target.name], lambda _: self._decompress(sha256))[target.name]
                == sha256
            )
        except OSError:
            return False

    def _referenced(self, sha256: str) -> Path | None:
        """Return the referenced file if it still has the content."""
        try:
            path = Path(json.loads(self.reference_path(sha256).read_bytes())["path"])
            return path if self._cache.hashes(path.parent, [path.name])[path.name] == sha256 else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _why_gone(self, sha256: str) -> str:
        if not self.reference_path(sha256).is_file():
            return "materialize its raw asset again"
        return "the file was too large to copy and was then moved or changed; materialize its raw asset again"

    def _decompress(self, sha256: str, sink: BinaryIO | None = None) -> str:
        """Return the hash of the decompressed copy ('' if it does not decompress), and write its bytes to `sink`."""
        digest = hashlib.sha256()
        try:
            with self.path(sha256).open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
                while chunk := reader.read(CHUNK_BYTES):
                    digest.update(chunk)
                    if sink is not None:
                        sink.write(chunk)
        except zstandard.ZstdError:
            return ""
        return digest.hexdigest()


def _compress(source: BinaryIO, sink: BinaryIO) -> str:
    digest = hashlib.sha256()
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    with compressor.stream_writer(sink, closefd=False) as writer:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int, int]:
    seen = path.stat()
    return seen.st_size, seen.st_mtime_ns, seen.st_ino

"""Raw bytes stored by content: blobs/ab/<sha256>.zst, or a reference if a file is too large to copy."""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import zstandard

from ft_pipeline.errors import UserError
from ft_pipeline.store import journal, journal_lines
from ft_pipeline.store.atomic_files import sync_folder, translate_write_errors, write_atomically
from ft_pipeline.store.checked_json import read_checked
from ft_pipeline.store.hashing import CHUNK_BYTES, sha256_of_file
from ft_pipeline.store.stat_cache import StatCache, stamp_of

BlobState = Literal["copy", "reference", "redacted", "gone", "damaged", "changed"]
"""How a blob is stored. `copy` and `reference` have the bytes of their hash. `redacted`: rows were removed from it
(`ft erase`). `gone`: there is neither a copy nor a reference. `changed`: the referenced file was changed or moved."""
BY_REFERENCE_ABOVE = 512 * 2**20
"""Size in bytes above which a file is stored by reference."""
ZSTD_LEVEL = 3
INCOMING_PREFIX = ".incoming."
"""Prefix of the name of an unfinished copy."""
ADD_ATTEMPTS = 3
"""Number of attempts to read a file that another program writes at the same time."""


class ChangedBlob(UserError):
    """A blob of another store has other bytes than its name says."""


class BlobStore:
    """Compressed copies of files. Equal bytes are stored once, under any name. A copy is complete or absent.

    A blob is identified by the SHA-256 of its bytes, also after its redaction.
    """

    def __init__(self, root: Path, by_reference_above: int = BY_REFERENCE_ABOVE) -> None:
        """by_reference_above: bytes. A larger file is not copied; its path, size, mtime and hash are recorded."""
        self.folder = root / "blobs"
        self.by_reference_above = by_reference_above
        self._cache = StatCache(root)

    def path(self, sha256: str) -> Path:
        """Return where the compressed copy is, if there is one."""
        return self.folder / sha256[:2] / f"{sha256}.zst"

    def reference_path(self, sha256: str) -> Path:
        """Return where the reference is, if there is one."""
        return self.folder / sha256[:2] / f"{sha256}.reference.json"

    def available(self, sha256s: Iterable[str]) -> set[str]:
        """Return the hashes whose bytes are there: a copy that decompresses to the hash, or a valid reference.

        The stat cache is read once per folder of copies.
        """
        wanted = set(sha256s)
        intact = self._intact_copies(wanted)
        return intact | {sha256 for sha256 in wanted - intact if self._referenced_file(sha256) is not None}

    def add(self, path: Path) -> str:
        """Store the bytes of `path` and return their hex SHA-256. UserError while another program writes the file."""
        for _ in range(ADD_ATTEMPTS):
            before = stamp_of(path)
            size = before[0]
            sha256 = self._add_reference(path) if size > self.by_reference_above else self._add_copy(path)
            if stamp_of(path) == before:
                return sha256
        raise UserError(f"{path.name} changed while it was read. Wait until it is completely written, then run again.")

    def redact(self, sha256: str, source: Path) -> None:
        """Replace a blob's bytes by those of `source`. The old bytes are removed, and a note records the new hash.

        If the blob is stored by reference, the caller must change the referenced file.
        """
        with translate_write_errors():
            note = {"sha256": sha256_of_file(source), "bytes": source.stat().st_size}
            path, content = self._redaction_note(sha256), json.dumps(note).encode()
            journal.write_signed(self.folder.parent, journal_lines.REDACTION, path, content)
            target = self.path(sha256)
            if target.is_file():
                sink = io.BytesIO()
                with source.open("rb") as file:
                    _compress(file, sink)
                write_atomically(target, sink.getvalue())
            _damaged_path(target).unlink(missing_ok=True)

    def adopt(self, sha256: str, source: Path, *, compressed: bool) -> None:
        """Store a blob of another store: `source` is its compressed copy, or has its bytes. It replaces what is here.

        ChangedBlob if its bytes are not those of that hash, or those that a redaction left.
        """
        with translate_write_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=INCOMING_PREFIX, dir=self.folder)
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file, source.open("rb") as content:
                    shutil.copyfileobj(content, file) if compressed else _compress(content, file)
                    file.flush()
                    os.fsync(file.fileno())
                if decompressed_sha256(temporary) != (self._redacted_sha256(sha256) or sha256):
                    raise ChangedBlob(
                        f"The copy of the raw file {sha256[:16]} was changed. Restore it at the other side."
                    )
                temporary.chmod(0o644)
                self.path(sha256).parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(self.path(sha256))
                sync_folder(self.path(sha256).parent)
            finally:
                temporary.unlink(missing_ok=True)
        self.reference_path(sha256).unlink(missing_ok=True)

    def referenced_file(self, sha256: str) -> Path | None:
        """Return the file that a blob without a copy refers to, if its bytes are those of the blob, or those that a
        redaction left."""
        return self._referenced_file(sha256) or self._redacted_file(sha256)

    def stored(self) -> set[str]:
        """Return the SHA-256 of every blob, whether a snapshot lists it or not."""
        names = [path.name for pattern in ("*.zst", "*.reference.json") for path in self.folder.glob(f"??/{pattern}")]
        return {name.partition(".")[0] for name in names}

    def is_redacted(self, sha256: str) -> bool:
        """Return whether a blob was redacted after it was stored. Only its note is read."""
        return self._redacted_sha256(sha256) is not None

    def _redaction_note(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.redacted.json"

    def _redacted_sha256(self, sha256: str) -> str | None:
        """Return the hash of a blob's bytes after its redaction; None if it was never redacted."""
        try:
            return read_checked(self._redaction_note(sha256), dict[str, Any])["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def state(self, sha256: str) -> BlobState:
        """Return how a blob is stored. All of its bytes are read again."""
        return self._state_of_copy(sha256) if self.path(sha256).is_file() else self._state_of_reference(sha256)

    def _state_of_copy(self, sha256: str) -> BlobState:
        try:
            actual = self._decompress(sha256)
        except OSError:
            return "damaged"
        if actual == sha256:
            return "copy"
        return "redacted" if actual and actual == self._redacted_sha256(sha256) else "damaged"

    def _state_of_reference(self, sha256: str) -> BlobState:
        try:
            actual = sha256_of_file(self._path_in_reference(sha256))
        except FileNotFoundError:
            return "changed" if self.reference_path(sha256).is_file() else "gone"
        except (OSError, ValueError, KeyError, TypeError):
            return "damaged"
        if actual == sha256:
            return "reference"
        return "redacted" if actual == self._redacted_sha256(sha256) else "changed"

    def checkout(self, sha256: str, target: Path, *, allow_redacted: bool = False) -> Path:
        """Return a plain file with the bytes: `target`, or the referenced file itself.

        allow_redacted: also accept the bytes after a redaction. UserError if the blob is missing or damaged.
        """
        if not self.path(sha256).is_file():
            referenced = self._referenced_file(sha256) or (self._redacted_file(sha256) if allow_redacted else None)
            if referenced is None:
                raise UserError(f"the bytes of {target.name} ({sha256[:16]}) are missing: {self._why_missing(sha256)}")
            return referenced
        with translate_write_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                actual = self._decompress(sha256, file)
        if actual == sha256:
            return target
        is_redacted = self._redacted_sha256(sha256) == actual
        if is_redacted and allow_redacted:
            return target
        target.unlink()
        problem = "was redacted (ft erase)" if is_redacted else "is damaged"
        raise UserError(f"the stored copy of {target.name} {problem}: materialize its raw asset again")

    @contextmanager
    def reading(self, sha256: str, target: Path) -> Iterator[Path]:
        """Yield a plain file with the bytes, as `checkout` does. `target` is removed at the end.

        UserError at the end if it is the referenced file itself, and someone changed it meanwhile.
        """
        path = self.checkout(sha256, target)
        if path == target:
            yield path
            path.unlink()
            return
        before = stamp_of(path)
        yield path
        try:
            is_unchanged = stamp_of(path) == before and sha256_of_file(path) == sha256
        except OSError:
            is_unchanged = False
        if not is_unchanged:
            raise UserError(
                f"{target.name} changed while it was read. Wait until it is completely written, then materialize its "
                "raw asset again."
            )

    def _add_copy(self, path: Path) -> str:
        """Hash and store the file in one pass, so that the hash matches the copy. OSError if it cannot be opened."""
        with path.open("rb") as source, translate_write_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=INCOMING_PREFIX, dir=self.folder)
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    sha256 = _compress(source, file)
                    file.flush()
                    os.fsync(file.fileno())
                self._move_into_place(temporary, sha256)
            finally:
                temporary.unlink(missing_ok=True)
        return sha256

    def _move_into_place(self, temporary: Path, sha256: str) -> None:
        """Rename a new copy to its place, unless there is an intact copy. A damaged copy is kept for diagnosis."""
        target = self.path(sha256)
        if target.exists() and self._intact_copies([sha256]):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rename(_damaged_path(target))
        temporary.chmod(0o644)
        temporary.rename(target)
        sync_folder(target.parent)

    def _add_reference(self, path: Path) -> str:
        sha256 = sha256_of_file(path)
        stat = path.stat()
        reference = {"path": str(path.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}
        with translate_write_errors():
            write_atomically(self.reference_path(sha256), json.dumps(reference, indent=1).encode())
        return sha256

    def _intact_copies(self, sha256s: Iterable[str]) -> set[str]:
        """Return those hashes whose copy exists and matches. It is read only if it changed since the last check."""
        names_by_folder: dict[Path, list[str]] = {}
        for sha256 in sha256s:
            target = self.path(sha256)
            names_by_folder.setdefault(target.parent, []).append(target.name)
        intact = set()
        for folder, names in names_by_folder.items():
            hashes = self._cache.hashes(folder, names, lambda copy: self._decompress(copy.stem), failed={})
            intact |= {sha256 for name, sha256 in hashes.items() if sha256 == Path(name).stem}
        return intact

    def _referenced_file(self, sha256: str) -> Path | None:
        """Return the referenced file if it still has the bytes of the hash."""
        try:
            path = self._path_in_reference(sha256)
            return path if self._cache.hashes(path.parent, [path.name])[path.name] == sha256 else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _redacted_file(self, sha256: str) -> Path | None:
        """Return the referenced file if it has the bytes that a redaction left."""
        path = self._path_in_reference(sha256) if self.reference_path(sha256).is_file() else Path()
        return path if path.is_file() and sha256_of_file(path) == self._redacted_sha256(sha256) else None

    def _path_in_reference(self, sha256: str) -> Path:
        """Return the referenced file. OSError, ValueError, KeyError or TypeError if there is no regular one."""
        path = Path(read_checked(self.reference_path(sha256), dict[str, Any])["path"])
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a regular file")
        return path

    def _why_missing(self, sha256: str) -> str:
        if not self.reference_path(sha256).is_file():
            return "materialize its raw asset again"
        return "the file was too large to copy and was then moved or changed; materialize its raw asset again"

    def _decompress(self, sha256: str, sink: BinaryIO | None = None) -> str:
        """Return the hash of the decompressed copy ('' if it does not decompress), and write its bytes to `sink`."""
        return decompressed_sha256(self.path(sha256), sink)


def _compress(source: BinaryIO, sink: BinaryIO) -> str:
    """Compress `source` into `sink` and return the hash of the uncompressed bytes."""
    digest = hashlib.sha256()
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    with compressor.stream_writer(sink, closefd=False) as writer:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def decompressed_sha256(path: Path, sink: BinaryIO | None = None) -> str:
    """Return the hash of a decompressed file ('' if it does not decompress), and write its bytes to `sink`."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            while chunk := reader.read(CHUNK_BYTES):
                digest.update(chunk)
                if sink is not None:
                    sink.write(chunk)
    except zstandard.ZstdError:
        return ""
    return digest.hexdigest()


def _damaged_path(copy: Path) -> Path:
    """Return where a damaged copy is kept after it was replaced."""
    return copy.with_suffix(".zst.damaged")

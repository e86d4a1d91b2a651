"""Search of the user's own files for erased texts: plain, in UTF-16, in Parquet, in compressed files and archives."""

import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ft_pipeline.store.text_redaction import ErasedTexts
from ft_pipeline.tables.reading.compressed import codec_of, expanded, max_expanded_bytes
from ft_pipeline.tables.reading.containers import LZMA_HEADER_BYTES, is_lzma
from ft_pipeline.tables.reason_codes import Refused

MAX_DEPTH = 3
"""How often a text may be packed into another file."""
_NOT_READ = {b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "RAR", b"LZIP": "lzip", b"\x04\x22\x4d\x18": "lz4"}
"""How files begin that are packed in a way that is not read."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, pa.ArrowException)
"""Errors of an archive that is damaged, encrypted or packed in a way that is not read."""


class NotSearched(Exception):
    """A file could not be searched to its end. The message says why."""


def find_text(path: Path, erased: ErasedTexts, work: Path) -> bool:
    """Return whether a file contains a long erased text, also packed. Raises NotSearched.

    work: a folder, into which packed files are expanded, one at a time.
    """
    return _Search(erased, work, max_expanded_bytes(path.stat().st_size)).finds(path, MAX_DEPTH)


@dataclass
class _Search:
    """The search of one file."""

    erased: ErasedTexts
    work: Path
    left: int
    """How many bytes may still be expanded."""

    def finds(self, path: Path, depth: int) -> bool:
        if self.erased.is_in_file(path):
            return True
        with path.open("rb") as file:
            head = file.read(LZMA_HEADER_BYTES)
        try:
            if head.startswith(b"PAR1"):
                return self.erased.is_in_table(path)
            if head.startswith(b"PK"):
                return self._finds_in_archive(path, depth)
            if codec_of(path) is not None:
                return self._finds_in_stream(path, depth)
        except _DAMAGED as error:
            raise NotSearched(f"it cannot be unpacked: {error}") from error
        if kind := _packed_with(head):
            raise NotSearched(f"it is packed with {kind}")
        return False

    def _finds_in_stream(self, path: Path, depth: int) -> bool:
        try:
            with expanded(path, self.work) as plain:
                self._spend(plain.stat().st_size)
                return self.finds(plain, _deeper(depth))
        except Refused as error:
            raise NotSearched(str(error)) from error

    def _finds_in_archive(self, path: Path, depth: int) -> bool:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                self._spend(member.file_size)  # no more than that is read, whatever the member expands to
                with archive.open(member) as packed, tempfile.NamedTemporaryFile(dir=self.work) as plain:
                    shutil.copyfileobj(packed, plain)
                    plain.flush()
                    if self.finds(Path(plain.name), _deeper(depth)):
                        return True
        return False

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise NotSearched("it expands to too many bytes")


def _packed_with(head: bytes) -> str | None:
    """Return the program that packed a file that is not read, by its beginning."""
    if is_lzma(head):
        return "lzma"
    return next((kind for magic, kind in _NOT_READ.items() if head.startswith(magic)), None)


def _deeper(depth: int) -> int:
    if depth == 0:
        raise NotSearched(f"it is packed more than {MAX_DEPTH} times")
    return depth - 1

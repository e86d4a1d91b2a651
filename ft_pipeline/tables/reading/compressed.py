"""Compressed raw files: gzip, zstd and bzip2, recognized by their content, are expanded into a plain file.

A plain file is needed because arrays and Parquet are not read from front to back. Only a piece of it is in memory. A
stream that is cut off or damaged is refused before its first row is read, so that a file is never used in part.
"""

import bz2
import gzip
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.tables.reason_codes import Refused

MAX_EXPANDED_BYTES = 64 << 30
"""Maximum size of the file inside a compressed file."""
MAX_RATIO = 200
"""Maximum expanded size in proportion to the compressed file. Rows of text rarely reach 50."""
MIN_LIMIT_BYTES = 1 << 30
"""MAX_RATIO applies above this expanded size: a small file may have many equal rows."""
ZSTD_LEVEL = 3
_PIECE_BYTES = 1 << 20
_ZSTD_READ_BYTES = 4 << 10
"""A zstd decoder returns all that its input expands to. That is at most 128 KiB per 4 bytes, so 128 MiB."""
_SKIPPABLE_ZSTD_FRAMES = tuple(bytes([number]) + b"\x2a\x4d\x18" for number in range(0x50, 0x60))
"""pzstd begins its files with such a frame."""


@dataclass(frozen=True)
class Codec:
    """A kind of compression that raw files may have."""

    name: str
    magics: tuple[bytes, ...]
    """How its content may begin."""
    expand: Callable[[BinaryIO], Iterator[bytes]]
    """Yields the expanded bytes. EOFError if the stream is cut off, OSError, zlib.error or ZstdError if damaged."""
    compress: Callable[[BinaryIO, BinaryIO], None]
    """Compresses the first file into the second one. Equal bytes become equal bytes."""


def codec_of(path: Path) -> Codec | None:
    """Return the compression of a file; None if it has none of the known ones."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((codec for codec in CODECS if head.startswith(codec.magics)), None)


@contextmanager
def expanded(path: Path, folder: Path) -> Iterator[Path]:
    """Yield a plain file with the content: `path` itself, or a temporary file in `folder` if `path` is compressed.

    Raises Refused (compressed) if the stream is cut off, damaged or too large, and UserError if the disk is full.
    """
    codec = _codec_of_readable(path)
    if codec is None:
        yield path
        return
    with translate_write_errors():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="expanded-") as plain:
            for piece in _pieces(path, codec):
                plain.write(piece)
            plain.flush()
            yield Path(plain.name)


def _codec_of_readable(path: Path) -> Codec | None:
    try:
        return codec_of(path)
    except OSError as error:
        raise _unreadable(error) from None


def begins_with(path: Path, magic: bytes) -> bool:
    """Return whether the content of a file, expanded if it is compressed, begins with these bytes."""
    codec = codec_of(path)
    if codec is None:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    head = b""
    for piece in _pieces(path, codec):
        head += piece
        if len(head) >= len(magic):
            break
    return head.startswith(magic)


def max_expanded_bytes(compressed: int) -> int:
    """Return the size to which a file of `compressed` bytes may expand."""
    return min(MAX_EXPANDED_BYTES, max(MIN_LIMIT_BYTES, MAX_RATIO * compressed))


def _pieces(path: Path, codec: Codec) -> Iterator[bytes]:
    """Yield the content of a compressed file. Raises Refused if it is cut off, damaged or too large."""
    compressed = path.stat().st_size
    limit, size = max_expanded_bytes(compressed), 0
    try:
        with path.open("rb") as file:
            for piece in codec.expand(file):
                size += len(piece)
                if size > limit:
                    raise _too_large(codec, compressed, limit)
                yield piece
    except EOFError:
        raise Refused("compressed", f"the {codec.name} stream is cut off; copy or download the file again") from None
    except OSError as error:
        raise (_unreadable(error) if error.errno else _damaged(codec)) from None
    except (zlib.error, zstandard.ZstdError):
        raise _damaged(codec) from None


def _too_large(codec: Codec, compressed: int, limit: int) -> Refused:
    return Refused(
        "compressed",
        f"the {codec.name} stream of {compressed:,} bytes expands to more than {limit:,} bytes; unpack it, check what "
        "is inside, and put the file itself here",
    )


def _damaged(codec: Codec) -> Refused:
    return Refused("compressed", f"the {codec.name} stream is damaged; compress the file again, or put it here as is")


def _unreadable(error: OSError) -> Refused:
    return Refused("not_found", f"the file cannot be read to its end ({error.strerror})")


def _expand_gzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file, mode="rb") as reader:
        while piece := reader.read(_PIECE_BYTES):
            yield piece


def _expand_bzip2(file: BinaryIO) -> Iterator[bytes]:
    """Unlike bz2.BZ2File, accept only streams after the first one, and no other bytes: they may be a damaged one."""
    decoder, data = bz2.BZ2Decompressor(), b""
    while True:
        if decoder.eof:
            data = decoder.unused_data or file.read(_PIECE_BYTES)
            if not data:
                return
            decoder = bz2.BZ2Decompressor()
        elif decoder.needs_input:
            data = file.read(_PIECE_BYTES)
            if not data:
                raise EOFError
        yield decoder.decompress(data, _PIECE_BYTES)
        data = b""


def _expand_zstd(file: BinaryIO) -> Iterator[bytes]:
    """Unlike zstandard's stream_reader, read every frame, and report a frame that is cut off."""
    decompressor = zstandard.ZstdDecompressor()
    decoder, data = decompressor.decompressobj(), file.read(_ZSTD_READ_BYTES)
    while data:
        yield decoder.decompress(data)
        data = decoder.unused_data if decoder.eof else b""
        data = data or file.read(_ZSTD_READ_BYTES)
        if decoder.eof and data:
            decoder = decompressor.decompressobj()
    if not decoder.eof:
        raise EOFError


def _compress_gzip(source: BinaryIO, target: BinaryIO) -> None:
    with gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0) as writer:
        while piece := source.read(_PIECE_BYTES):
            writer.write(piece)


def _compress_bzip2(source: BinaryIO, target: BinaryIO) -> None:
    compressor = bz2.BZ2Compressor()
    while piece := source.read(_PIECE_BYTES):
        target.write(compressor.compress(piece))
    target.write(compressor.flush())


def _compress_zstd(source: BinaryIO, target: BinaryIO) -> None:
    size = source.seek(0, os.SEEK_END)  # readers of the whole frame at once want its size in the header
    source.seek(0)
    zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).copy_stream(source, target, size=size)


CODECS = (
    Codec("gzip", (b"\x1f\x8b",), _expand_gzip, _compress_gzip),
    Codec("zstd", (b"\x28\xb5\x2f\xfd", *_SKIPPABLE_ZSTD_FRAMES), _expand_zstd, _compress_zstd),
    Codec("bzip2", (b"BZh",), _expand_bzip2, _compress_bzip2),
)

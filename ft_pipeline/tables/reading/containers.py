"""Detects the container of a raw file, refuses unreadable files, and reads the others into batches of rows.

The content distinguishes JSONL from a JSON array; the suffix identifies CSV and Parquet. Files outside the data folder
are not opened, and no container is guessed: an unknown one is refused with a code of FILE_CODES. compressed.py expands
gzip, zstd and bzip2 before; what is still compressed here is an archive, or was compressed twice.
"""

import errno
import stat
from collections.abc import Iterator
from pathlib import Path

from ft_pipeline.tables.reading import json_reader, tabular_reader
from ft_pipeline.tables.reading.batches import BOM, HEAD_BYTES, JSON_SPACE, Batch
from ft_pipeline.tables.reading.json_parser import parse_line
from ft_pipeline.tables.reason_codes import Refused

_UTF_BOMS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
)
LZMA_HEADER_BYTES = 13
_LZMA_PROPERTIES, _LZMA_MIN_DICTIONARY, _LZMA_MAX_BYTES = 9 * 5 * 5, 1 << 12, 1 << 38
"""What the header of a .lzma file, which has no mark, may contain."""


def check_path(path: Path, data_dir: Path) -> Path:
    """Return the real path of a readable file inside `data_dir`.

    Raises Refused: not_found, not_a_file, path_outside_data_dir.
    """
    try:
        real, root = path.resolve(), data_dir.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ELOOP:
            raise Refused("not_found", "the path cannot be followed: a link leads back to itself") from None
        raise Refused("not_found", "there is no such file: the path cannot be followed") from None
    if not real.is_relative_to(root):
        raise Refused("path_outside_data_dir", "the path leads out of the data folder; copy the file into it")
    try:
        mode = real.stat().st_mode
    except (OSError, ValueError):
        raise Refused("not_found", "there is no such file") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise Refused("not_a_file", f"the path is {kind}; name a .jsonl, .json, .csv or .parquet file")
    try:
        with real.open("rb"):
            return real
    except OSError:
        raise Refused("not_found", "the file cannot be opened; check its permissions") from None


def read_batches(path: Path, suffix: str, *, documents: bool = False) -> Iterator[Batch]:
    """Yield the rows of an expanded file that check_path accepts, in order.

    `suffix` is that of the name the user gave it, without that of a compression (sources/file_names.py).

    documents: one JSON object over several lines is a row, too.
    Refused may be raised late (an array that is cut off at its end). The caller must then discard the earlier rows.
    """
    try:
        yield from _batches_of(path, suffix, documents)
    except OSError as error:
        raise Refused("not_found", f"the file cannot be read to its end ({error.strerror})") from None


def _batches_of(path: Path, suffix: str, documents: bool) -> Iterator[Batch]:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    _refuse_unreadable(head)
    if not head:
        raise Refused("empty_file", "no rows")
    if suffix == ".parquet" or head.startswith(b"PAR1"):
        if suffix != ".parquet":
            raise Refused("not_json", "the content is Parquet; rename the file to .parquet")
        return tabular_reader.parquet_batches(path)
    if not head.removeprefix(BOM).strip(JSON_SPACE) and path.stat().st_size <= HEAD_BYTES:
        raise Refused("empty_file", "no rows")
    if suffix == ".csv" and not _begins_as_json(head):
        return tabular_reader.csv_batches(path)
    return json_reader.json_batches(path, documents=documents)


def _begins_as_json(head: bytes) -> bool:
    first = head.removeprefix(BOM).lstrip(JSON_SPACE).split(b"\n", 1)[0]
    return first[:1] == b"[" or (first[:1] == b"{" and isinstance(parse_line(first), dict))


def _refuse_unreadable(head: bytes) -> None:
    for magic, name in _MAGIC:
        if head.startswith(magic):
            raise Refused("compressed", f"the content is a {name} archive; unpack it and put the file itself here")
    if is_lzma(head):
        raise Refused("compressed", "the content is an lzma stream; unpack it and put the file itself here")
    if head[257:262] == b"ustar":
        raise Refused("compressed", "the content is a tar archive; unpack it and put the file itself here")
    encoding = next((name for bom, name in _UTF_BOMS if head.startswith(bom)), None) or _utf_by_zeros(head)
    if encoding:
        raise Refused(
            "not_utf8", f"the content is {encoding}, not UTF-8; convert it: iconv -f {encoding} -t UTF-8 IN > OUT"
        )


def is_lzma(head: bytes) -> bool:
    """Return whether this is the header of a .lzma file: properties, size of the dictionary, size of the content."""
    properties, dictionary, size = head[:1], int.from_bytes(head[1:5], "little"), head[5:LZMA_HEADER_BYTES]
    is_size = len(size) == 8 and (size == b"\xff" * 8 or int.from_bytes(size, "little") < _LZMA_MAX_BYTES)
    # Programs write 2^n, or 2^n + 2^(n-1). No text begins like that.
    is_dictionary = dictionary >= _LZMA_MIN_DICTIONARY and f"{dictionary:b}".rstrip("0") in ("1", "11")
    return is_size and is_dictionary and properties[0] < _LZMA_PROPERTIES


def _utf_by_zeros(head: bytes) -> str | None:
    """Detect UTF-16 and UTF-32 without a byte-order mark.

    In Latin text, every second byte (UTF-16) or three of four bytes (UTF-32) are zero.
    """
    start = head[:64]
    if len(start) < 4 or start.startswith(b"PAR1"):
        return None
    zeros = [start[offset::4].count(0) > len(start[offset::4]) * 0.7 for offset in range(4)]
    if zeros in ([True, True, True, False], [False, True, True, True]):
        return "UTF-32"
    if zeros in ([True, False, True, False], [False, True, False, True]):
        return "UTF-16"
    return None

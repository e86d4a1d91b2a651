"""Search every file of a project for a text, in whatever form it is stored. A file of an unknown kind is an error.

Not searched: pixels of plots, and tokens (see `decoded_tokens`).
"""

import contextlib
import gzip
import html
import io
import json
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from ft_pipeline.erasure.file_kinds import treatment_of
from ft_pipeline.store.manifest import WEIGHT_KINDS
from ft_pipeline.store.text_redaction import ErasedTexts, UnknownFile

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_CHARACTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
ESCAPE_LEVELS = 3
"""JSON in a JSON string in a JSON string: Dagster's events contain that."""


def traces(root: Path, *texts: str) -> list[str]:
    """Relative paths of the files that contain one of the texts. AssertionError for a file that it cannot read."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and any(text in form for form in _forms_in(path) for text in texts)
    )


def kinds_of(paths: Collection[str]) -> set[str]:
    """What kinds of files these are: their paths without hashes and ids."""
    return {re.sub(r"(^|/)[0-9a-f-]{16,}(?=[/.]|$)|/[0-9a-f]{2}(?=/)", "", path) for path in paths}


def unknown_files(root: Path, scratch: Path) -> list[Path]:
    """The files of a project that `ft erase` does not know, or from which it cannot remove a text."""
    unknown = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        treatment = treatment_of(path.relative_to(root).as_posix())
        try:
            if treatment == "artifact" and path.parts[path.parts.index("artifacts") + 1] not in WEIGHT_KINDS:
                ErasedTexts({"-": "-"}).redact_file(path, scratch / "redacted")
            known = treatment != "unknown"
        except UnknownFile:
            known = False
        unknown += [] if known else [path]
    return unknown


def decoded_tokens(root: Path) -> str:
    """The tokens of all training data, and of a teacher's answers, as text."""
    from tokenizers import Tokenizer  # transformers would import PyTorch

    (tokenizer_file, *_) = (root / "data" / "store" / "artifacts" / "base_model").glob("*/*/tokenizer.json")
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    rows = [
        row
        for kind in ("training_data", "teacher_distributions")
        for path in (root / "data" / "store" / "artifacts" / kind).glob("*/*/*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    return "\n".join(
        tokenizer.decode(row[name], skip_special_tokens=False)
        for row in rows
        for name in row
        if name.endswith(("input_ids", "target_ids"))
    )


def _forms_in(path: Path) -> Iterator[str]:
    """All texts in a file, plain and without the escapes of JSON, Python or HTML."""
    text = "\0".join(_read(path.name, path))
    yield text
    yield html.unescape(text)
    for _ in range(ESCAPE_LEVELS):
        if "\\" not in text:
            return
        text = _ESCAPE.sub(_character, text)
        yield text


def _character(match: re.Match[str]) -> str:
    escape = match[1]
    return chr(int(escape[1:], 16)) if len(escape) > 1 else _CHARACTERS.get(escape, escape)


def _read(name: str, path: Path) -> Iterator[str]:
    suffix = Path(name).suffix if not name.startswith(".") else name
    assert suffix in READERS, f"{path}: there is no way to search files like {suffix!r}"
    yield from READERS[suffix](path)


def _plain(path: Path) -> Iterator[str]:
    yield path.read_bytes().decode("utf-8", "replace")


def _parquet(path: Path | io.BytesIO) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        yield str(file.metadata.metadata)
        for group in range(file.num_row_groups):
            for column in range(file.metadata.num_columns):
                statistics = file.metadata.row_group(group).column(column).statistics
                if statistics is not None and statistics.has_min_max:
                    yield f"{statistics.min!r}\n{statistics.max!r}"
        yield from _strings(file.read().to_pylist())


def _compressed(path: Path) -> Iterator[str]:
    """A kept copy is compressed, and so may be the raw file in it."""
    content = path.read_bytes()
    while content.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        is_gzip = content.startswith(b"\x1f")
        content = gzip.decompress(content) if is_gzip else zstandard.ZstdDecompressor().stream_reader(content).read()
    if content.startswith(b"PAR1"):
        yield from _parquet(io.BytesIO(content))
    else:
        yield content.decode("utf-8", "replace")


def _arrow(path: Path) -> Iterator[str]:
    yield from _plain(path)
    try:
        with pa.ipc.open_file(path) as file:
            yield from _strings(file.read_all().to_pylist())
    except pa.ArrowInvalid:
        with path.open("rb") as stream, pa.ipc.open_stream(stream) as file:
            yield from _strings(file.read_all().to_pylist())


def _sqlite(path: Path) -> Iterator[str]:
    yield from _plain(path)  # free pages, too
    with closing(sqlite3.connect(path)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield from (cell if isinstance(cell, str) else str(cell) for cell in row)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from map(str, value)
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _json(path: Path) -> Iterator[str]:
    content = path.read_bytes().decode("utf-8", "replace")
    yield content
    for document in content.split("\n") if path.suffix == ".jsonl" else [content]:
        with contextlib.suppress(ValueError):  # a broken line of a raw file is only searched as plain text
            yield from _strings(json.loads(document))


_PLAIN_SUFFIXES = (
    ".txt",
    ".md",
    ".html",
    ".yaml",
    ".toml",
    ".csv",
    ".log",
    ".out",
    ".err",
    ".sql",
    ".jinja",
    ".complete",
)
READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    **dict.fromkeys(_PLAIN_SUFFIXES, _plain),
    **dict.fromkeys(("", ".safetensors", ".u64", ".pub"), _plain),  # locks; weights; hashes; public keys
    **dict.fromkeys((".json", ".jsonl"), _json),
    ".db": _sqlite,
    ".parquet": _parquet,
    **dict.fromkeys((".gz", ".zst"), _compressed),
    ".arrow": _arrow,
}
"""How to read the files with a suffix."""

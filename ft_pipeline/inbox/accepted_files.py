"""The files of data/raw/traces that accepted calls are appended to: `accepted-YYYY-MM-DD.jsonl`."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically
from ft_pipeline.tables.reading.json_parser import parse_line

PATTERN = "accepted-*.jsonl"


def accepted_calls(folder: Path) -> dict[str, Path]:
    """Return the calls in the files, by id, each with its file. A call that was erased is not among them."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(PATTERN)):
        for line in path.read_bytes().splitlines():
            document = parse_line(line)
            if isinstance(document, dict) and "request" in document:
                found.setdefault(str(document.get("id") or ""), path)
    return found


def append_calls(folder: Path, lines_by_call: Mapping[str, Iterable[bytes]]) -> list[str]:
    """Append the lines of calls (the call, its feedback) to the file of today, and return the names of the files.

    A call that is in a file already gets its new feedback there, since a file is read on its own. No line is written
    twice. A file has all of its new lines or none, even after a power cut.
    """
    today = folder / f"accepted-{datetime.now(UTC):%Y-%m-%d}.jsonl"
    known = accepted_calls(folder)
    new_lines: dict[Path, list[bytes]] = {}
    for identity, lines in lines_by_call.items():
        call, *feedback = lines
        new_lines.setdefault(known.get(identity, today), []).extend(
            feedback if identity in known else [call, *feedback]
        )
    for path, lines in new_lines.items():
        _append(path, lines)
    return [path.name for path in new_lines]


def _append(path: Path, lines: Iterable[bytes]) -> None:
    before = path.read_bytes() if path.is_file() else b""
    present = set(before.splitlines())
    missing = [line for line in dict.fromkeys(lines) if line not in present]
    if missing:
        start = before if before.endswith(b"\n") or not before else before + b"\n"
        with translate_write_errors():
            write_atomically(path, start + b"".join(line + b"\n" for line in missing))

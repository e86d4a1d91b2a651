"""Pairs to rate in a spreadsheet, and the verdicts in it. The file does not say which model gave which answer."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.ratings.pairs import CHOICES, Match, Pair
from ft_pipeline.ratings.raters import clean_note, describe_masked
from ft_pipeline.ratings.rating_ledger import Verdict
from ft_pipeline.store.atomic_files import create_atomically, translate_write_errors

COLUMNS = ("item", "question", "answer_1", "answer_2", "verdict", "note")
NEEDED = ("item", "answer_1", "answer_2", "verdict")
"""Columns without which a file cannot be read."""
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet may take a cell that begins so for a formula."""
_MAX_CELL = 1 << 24
_SHOWN = 40
"""Characters of a cell in a message."""


@dataclass
class ReadResult:
    """What was read from a file."""

    recorded: int = 0
    unchanged: int = 0
    """Verdicts that were recorded before."""
    empty: int = 0
    """Rows without a verdict."""
    faults: list[str] = field(default_factory=list)
    """A sentence for each row that was not used."""
    notes: list[str] = field(default_factory=list)


def write_pairs(match: Match, rater: str, number: int, path: Path) -> int:
    """Write the pairs that a rater has not rated yet to a new file. Return their number. UserError if it exists."""
    ratings = match.ratings()
    rated = {rating.item for rating in ratings if rating.rater == rater}
    pairs = [pair for pair in match.pairs_for(rater, number, ratings) if pair.item not in rated]
    if not pairs:
        raise UserError(f"{rater} has rated all {number} pairs. Choose a larger -n, or another --rater.")
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for pair in pairs:
        answers = [pair.answers[match.name_at(side, pair, rater)] for side in (1, 2)]
        writer.writerow([pair.item, *map(_escaped, (pair.question, *answers)), "", ""])
    with translate_write_errors():
        # The byte order mark tells Excel that the file is UTF-8.
        if not create_atomically(path, text.getvalue().encode("utf-8-sig", "replace")):
            raise UserError(f"{path} exists, and may contain verdicts. Name a new file.")
    return len(pairs)


def read_verdicts(match: Match, rater: str, path: Path) -> ReadResult:
    """Record the verdicts in a file. Good rows are recorded, whatever is wrong with others.

    UserError if the file has no such rows at all.
    """
    result = ReadResult()
    before = {rating.item: rating for rating in match.ratings() if rating.rater == rater}
    seen: dict[str, int] = {}
    for number, cells in _rows(path, result):
        try:
            read = _read_row(match, rater, cells)
            if read is None:
                result.empty += 1
                continue
            pair, verdict, note, kinds = read
            if (first := seen.setdefault(pair.item, number)) != number:
                raise UserError(f"Its pair is also in row {first}, which was used. Remove one of them.")
        except UserError as error:
            result.faults.append(f"Row {number}: {error}")
            continue
        if kinds:
            result.notes.append(f"Row {number}: {describe_masked(kinds)}")
        last = before.get(pair.item)
        if last is not None and (last.verdict, last.note) == (verdict, note):
            result.unchanged += 1
        else:
            match.rate(pair, rater, verdict, note=note)
            result.recorded += 1
    return result


def _read_row(match: Match, rater: str, cells: Mapping[str, str]) -> tuple[Pair, Verdict, str | None, list[str]] | None:
    """Return what a row says; None if it has no verdict. UserError if it cannot be used."""
    if not cells["verdict"].strip():
        return None
    pair = match.by_item.get(cells["item"].strip())
    if pair is None:
        raise UserError(
            f"The item {_short(cells['item'])} is not one of {match.candidate} and {match.rival}. Name the pair that "
            "the file was written for, or write it again with --csv."
        )
    written = [_plain(pair.answers[match.name_at(side, pair, rater)]) for side in (1, 2)]
    found = [_plain(cells[column]) for column in ("answer_1", "answer_2")]
    if found != written:
        if found == written[::-1]:
            raise UserError("Its answers are on the sides of another rater. Name the one it was written for: --rater")
        raise UserError(
            "An answer was changed, or is of another pair of models. Write the pairs again with --csv, and keep the "
            "answers as they are (in Excel: save as CSV UTF-8)."
        )
    verdict = match.verdict_of(cells["verdict"], pair, rater)
    if verdict is None:
        raise UserError(f"The verdict {_short(cells['verdict'])} is not one. Write {CHOICES}.")
    return pair, verdict, *clean_note(_plain(cells.get("note", "")))


def _rows(path: Path, result: ReadResult) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (number in a spreadsheet, cell by column) of each row. UserError if the file is no such table."""
    text = _decoded(path)
    lines = text.split("\n")
    skipped = 1 if lines[0].lower().startswith("sep=") else 0  # which Excel reads as the separator
    header, delimiter = _header(lines[skipped], path)
    csv.field_size_limit(_MAX_CELL)
    reader = csv.reader(io.StringIO("\n".join(lines[skipped + 1 :]), newline=""), delimiter=delimiter)
    if unknown := [name for name in header if name and name not in COLUMNS]:
        result.notes.append(f"Not read: the columns {', '.join(map(_short, unknown))}.")
    number = skipped + 1
    try:
        for values in reader:
            number += 1
            if any(value.strip() for value in values):
                yield number, dict(zip(header, [*values, *[""] * (len(header) - len(values))], strict=False))
    except csv.Error as error:
        result.faults.append(
            f"Row {number + 1} and those after it cannot be read ({error}). Save the file as CSV again."
        )


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({(error.strerror or '').lower()}). Name the file of --csv.") from None
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(f"{path} is a workbook, not CSV. Save it as CSV UTF-8, and read that file.")
    encodings = ("utf-16",) if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        try:
            return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue
    raise UserError(f"{path} is not text. Save it as CSV UTF-8, and read that file.")


def _header(line: str, path: Path) -> tuple[list[str], str]:
    """Return (names of the columns, separator). UserError if a needed column is missing."""
    headers = {mark: [name.strip().lower() for name in next(csv.reader([line], delimiter=mark), [])] for mark in ",;\t"}
    mark = max(headers, key=lambda mark: len(set(headers[mark]) & set(COLUMNS)))
    if missing := [name for name in NEEDED if name not in headers[mark]]:
        raise UserError(
            f"{path} has no column {', '.join(missing)} in its first row. Write the pairs with --csv, and fill in the "
            "column verdict."
        )
    return headers[mark], mark


def _escaped(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _plain(text: str) -> str:
    """Return a text without the marks of a spreadsheet, so that what it saved is compared with what was written."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return (text[1:] if text[:1] == "'" and text[1:].startswith(_FORMULA_STARTS) else text).strip()


def _short(text: str) -> str:
    shown = " ".join(text.split())
    return repr(shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…")

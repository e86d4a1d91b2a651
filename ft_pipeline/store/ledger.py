"""Numbered, append-only records: `FOLDER/000001.json`, `000002.json`, … Each contains the hash of the one before it.

A record is never changed or removed. An edited record breaks the chain, because the next one has its old hash.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from ft_pipeline.errors import UserError
from ft_pipeline.store import journal
from ft_pipeline.store.atomic_files import create_atomically, translate_write_errors
from ft_pipeline.store.checked_json import read_checked
from ft_pipeline.store.hashing import sha256_of_file

PREVIOUS_HASH_KEY = "previous_sha256"
"""Key of a record: the SHA-256 of the previous record's file; None for the first."""
Record = TypeVar("Record")
RECORD_NAME = re.compile(r"^(?!000000)([0-9]{6}|[1-9][0-9]{6,})\.json$")


@dataclass(frozen=True)
class LedgerFault:
    """A record that is missing, or is not as it was written."""

    kind: Literal["missing_record", "edited_record"]
    number: int
    message: str


@dataclass(frozen=True)
class Ledger(Generic[Record]):
    """The records in one folder of a store. The store's journal signs each of them."""

    folder: Path
    number_key: str
    """Key of a record's own number."""
    shape: Any = dict[str, Any]
    """The type of a record's file (checked_json.py). A file of another type cannot be read."""
    record: Callable[..., Record] = dict  # type: ignore[assignment]
    """What a record is made of, from the keys of its file."""
    called: str = "The ledger"
    """Its name in an error."""
    loss: str = ""
    """The end of that error: what is unknown without the ledger."""

    def path(self, number: int) -> Path:
        """Return the file of a record, whether it exists or not."""
        return self.folder / f"{number:06d}.json"

    def name(self, number: int) -> str:
        """Return what a record is called in messages: its folder and file."""
        return f"{self.folder.name}/{self.path(number).name}"

    def paths(self) -> list[Path]:
        """Return the files of all records, oldest first."""
        paths = [path for path in self.folder.glob("*.json") if RECORD_NAME.match(path.name) and path.is_file()]
        return sorted(paths, key=lambda path: int(path.stem))

    def next_number(self) -> int:
        """Return the number after that of the last record."""
        paths = self.paths()
        return int(paths[-1].stem) + 1 if paths else 1

    def require(self, faults: Iterable[LedgerFault]) -> None:
        """Raise UserError for the first of some faults; it names the file."""
        for fault in faults:
            restore = f"Restore {self.folder} from a backup{self.loss}."
            raise UserError(f"{self.called} is damaged: {self.name(fault.number)} {fault.message}. {restore}")

    def read(self) -> list[Record]:
        """Return all records, oldest first. Raises UserError, which names the file, if one cannot be read, or has the
        number of another."""
        records = []
        for path in self.paths():
            fields = self._read(path)
            if fields.get(self.number_key) != int(path.stem):
                raise self._unreadable(path, "has the number of another one")
            records.append(self._made(path, fields))
        return records

    def append(self, record: Mapping[str, Any]) -> Record | None:
        """Write the record under its number, completely or not at all, and return it with the hash of the one before.

        Return None if the number is taken. The caller then decides again, knowing the record that took it.
        """
        number = record[self.number_key]
        path, previous = self.path(number), self.path(number - 1)
        with journal.changing(self.folder.parent) as sign, translate_write_errors():
            if path.exists():
                return None
            journal.require_unsigned(self.folder.parent, path)
            chained = {**record, PREVIOUS_HASH_KEY: sha256_of_file(previous) if previous.is_file() else None}
            content = json.dumps(chained, ensure_ascii=False, indent=2).encode()
            journal.sign_content(sign, self.folder.parent, self.folder.name, path, content)
            return self._made(path, chained) if create_atomically(path, content) else None

    def faults(self, last: int = 0) -> Iterator[LedgerFault]:
        """Yield gaps, unreadable records, and records whose number or hash differs from what was written.

        last: the highest number that is known from other files, so that removed records at the end are found too.
        """
        paths = {int(path.stem): path for path in self.paths()}
        for before, number in pairwise([0, *paths]):
            yield from self._check_gap(before, number)
            yield from self._check_record(number, paths)
        yield from self._check_gap(max(paths, default=0), last + 1)

    def _check_gap(self, before: int, number: int) -> Iterator[LedgerFault]:
        """Yield one fault if records between two numbers are missing: there may be billions, if one was planted."""
        others = f", as are the others before {self.path(number).name}" if number > before + 2 else ""
        if number > before + 1:
            message = f"is missing{others}, although records are never removed"
            yield LedgerFault("missing_record", before + 1, message)

    def _check_record(self, number: int, paths: Mapping[int, Path]) -> Iterator[LedgerFault]:
        try:
            record = self._read(paths[number])
            previous_sha256, number_in_record = record.get(PREVIOUS_HASH_KEY), record[self.number_key]
        except (UserError, KeyError):
            yield LedgerFault("edited_record", number, "cannot be read as a record")
            return
        if number_in_record != number:
            yield LedgerFault("edited_record", number, f"contains the record number {number_in_record}")
        previous = paths.get(number - 1)
        if previous_sha256 and previous is not None and previous_sha256 != _hash_of(previous):
            message = f"does not match its hash in {self.name(number)}: it was edited"
            yield LedgerFault("edited_record", number - 1, message)

    def _made(self, path: Path, fields: Mapping[str, Any]) -> Record:
        try:
            return self.record(**fields)
        except TypeError as error:
            raise self._unreadable(path, f"cannot be read ({error})") from error

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            record: dict[str, Any] = read_checked(path, self.shape)
            return record
        except (OSError, ValueError) as error:
            raise self._unreadable(path, f"cannot be read ({error})") from error

    def _unreadable(self, path: Path, why: str) -> UserError:
        return UserError(f"The record {self.name(int(path.stem))} {why}. Restore it from a backup.")


def _hash_of(path: Path) -> str | None:
    """Return the hash of a record's file; None if it cannot be read."""
    try:
        return sha256_of_file(path)
    except OSError:
        return None

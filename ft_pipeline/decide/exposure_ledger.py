"""The ledger of exposure: every test of candidates on the test rows, as numbered records in `exposures`.

An entry (`000001.json`) is written before anybody sees a result of its tests, and `000001.result.json` after it. An
entry without results (the process was killed) counts: its tests are decided again, from the same comparison and at the
same level, and not counted again. The ids of the test rows are kept once, in `exposures/rows/<digest>.txt`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.errors import UserError
from ft_pipeline.store import journal
from ft_pipeline.store.atomic_files import create_atomically, translate_write_errors
from ft_pipeline.store.checked_json import Digest, Number, read_checked
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.ledger import PREVIOUS_HASH_KEY, Ledger, LedgerFault
from ft_pipeline.store.provenance import user_name

EVIDENCE_KEY = "exposure"
"""Key of a champion's evidence: the number of the last entry that was written before it was moved."""
FIELDS = frozenset({"decision_key", "standing", "candidates", "contenders", "rows"})
"""Keys that every entry has."""


@dataclass(frozen=True)
class NewEntry:
    """The tests of one decision, before they are decided."""

    comparison: str
    """Fingerprint of the comparison."""
    decision_key: str
    candidates: Sequence[Mapping[str, Any]]
    """Those whose tests are new: name, fingerprint, kind, experiment, settings_hash, base_model, rivals, key, level."""
    contenders: Sequence[str]
    """The settings_hash of every candidate, tested or not."""
    champion: str | None
    """Fingerprint of the champion."""
    standing: int | None
    """Number of its record."""
    metric: str
    rules: str
    test_ids: Sequence[str]
    e_before: float
    screen: Mapping[str, float]
    """By row name, the lead on the validation rows in standard errors."""


@dataclass(frozen=True)
class _Test:
    key: str = ""
    level: float = 0.0


@dataclass(frozen=True)
class _EntryShape:
    """The types of what is read of an entry. FIELDS says which of it there must be."""

    sequence: Number
    previous_sha256: str | None = None
    decision_key: str = ""
    standing: Number | None = None
    candidates: list[_Test] = field(default_factory=list)
    contenders: list[str] = field(default_factory=list)
    rows: Digest = "0" * 64


def ledger(store: Path) -> Ledger[dict[str, Any]]:
    """Return the ledger under the store folder `store`."""
    return Ledger(store / "exposures", "sequence", _EntryShape)


def digest_of_rows(test_ids: Iterable[str]) -> str:
    """Return the digest of the ids of test conversations."""
    return hashlib.sha256("\n".join(sorted(test_ids)).encode()).hexdigest()


def is_own(entry: Mapping[str, Any], decision_key: str, standing: int | None) -> bool:
    """Return whether an entry is of a decision. standing: the number of the record of the champion to beat."""
    return (entry["decision_key"], entry["standing"]) == (decision_key, standing)


def last_entry_before(store: Path, decision_key: str, standing: int | None) -> int:
    """Return the number of the last entry that is not of this decision; 0 if there is none. Arguments as in is_own."""
    others = [entry["sequence"] for entry in read_entries(store) if not is_own(entry, decision_key, standing)]
    return max(others, default=0)


def read_entries(store: Path, known: int = 0) -> list[dict[str, Any]]:
    """Return all entries, oldest first. known: the highest number that other files name.

    Raises UserError if one is missing, was edited or cannot be read: the count would be too low.
    """
    for fault in find_faults(store, known):
        raise UserError(
            f"The ledger of tests is damaged: exposures/{fault.number:06d}.json {fault.message}. Restore "
            f"{ledger(store).folder} from a backup: without it, nobody knows how often the test rows were used."
        )
    return ledger(store).read()


def read_exposure(
    store: Path,
    test_ids: Sequence[str],
    records: Sequence[ChampionRecord],
    *,
    own: tuple[str, int | None] | None = None,
    known: int = 0,
    test_share: float = 0.0,
) -> Exposure:
    """Return how exposed the test conversations are.

    records: those of the champions, which say when the count began. own: decision key and standing of the decision for
    which it is asked: its own tests do not count before it. known, errors: as in read_entries.
    """
    known = max([known, *(record.evidence.get(EVIDENCE_KEY, 0) for record in records)])
    now, entries = set(test_ids), read_entries(store, known)
    begin = _count_begins(records)
    counted = [entry for entry in entries if begin < entry["sequence"]]
    of_own = [entry for entry in counted if own is not None and is_own(entry, *own)]
    earlier = [entry for entry in counted if entry not in of_own]
    count = sum(len(entry["candidates"]) * _overlap(store, entry, now) for entry in earlier)
    levels = {test["key"]: test["level"] for entry in entries for test in entry["candidates"]}
    tests = sum(len(entry["candidates"]) for entry in of_own)
    return Exposure(digest_of_rows(test_ids), count, levels, tests, test_share=test_share)


def looks_before(entries: Sequence[Mapping[str, Any]], settings_hash: str) -> int:
    """Return how many decisions had been made when a candidate of these settings first appeared."""
    seen = [number for number, entry in enumerate(entries) if settings_hash in entry["contenders"]]
    return min(seen, default=len(entries))


def on_these_rows(store: Path, entries: Sequence[dict[str, Any]], test_ids: Iterable[str]) -> list[dict[str, Any]]:
    """Return the entries of which some test conversation is still one."""
    now = set(test_ids)
    return [entry for entry in entries if _overlap(store, entry, now)]


def write_entry(store: Path, entry: NewEntry, number: int | None = None) -> int | None:
    """Append the entry, and return its number. The ids of the rows are written first.

    number: the one that it must get; default: the next one. None is returned if another process took it: then the
    decision did not know that process's tests, and must be made again.
    """
    digest = digest_of_rows(entry.test_ids)
    rows = _rows_path(store, digest)
    if not rows.is_file():
        rows.parent.mkdir(parents=True, exist_ok=True)
        with translate_write_errors():
            create_atomically(rows, ("\n".join(sorted(entry.test_ids)) + "\n").encode())
    sequence = ledger(store).next_number() if number is None else number
    record = {
        "sequence": sequence,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": user_name(),
        **{key: value for key, value in vars(entry).items() if key != "test_ids"},
        "rows": digest,
        "conversations": len(entry.test_ids),
    }
    return sequence if ledger(store).append(record) is not None else None


def write_result(store: Path, number: int, results: Mapping[str, Any], moved: str | None) -> None:
    """Write the results of an entry, by row name, and what became champion. A result that is there stays."""
    entry = ledger(store).path(number)
    document = {"entry_sha256": sha256_of_file(entry), "results": dict(results), "moved": moved}
    path, content = entry.with_suffix(".result.json"), json.dumps(document, indent=2).encode()
    with journal.changing(store) as sign, translate_write_errors():
        if not path.exists():
            journal.sign_content(sign, store, path.parent.name, path, content)
            create_atomically(path, content)


def rows_of(store: Path, entries: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Return the ids of the test conversations of entries, by the digest that they name. Errors as in read_exposure."""
    return {entry["rows"]: _read_rows(store, entry) for entry in entries}


def damaged_rows(store: Path) -> list[str]:
    """Return the names of files with ids of test conversations that are missing, or that do not match their digest."""
    names = []
    for digest in sorted({entry["rows"] for entry in ledger(store).read()}):
        path = _rows_path(store, digest)
        if digest_of_rows(_ids_in(path)) != digest:
            names.append(f"exposures/rows/{path.name}")
    return names


def _overlap(store: Path, entry: Mapping[str, Any], now: set[str]) -> float:
    """Return the share of the present test conversations that were part of an entry's tests."""
    return len(now & _read_rows(store, entry)) / len(now) if now else 0.0


def _read_rows(store: Path, entry: Mapping[str, Any]) -> set[str]:
    path = _rows_path(store, entry["rows"])
    ids = _ids_in(path)
    if digest_of_rows(ids) != entry["rows"]:
        raise UserError(
            f"The test rows of exposures/{entry['sequence']:06d}.json are missing or were edited ({path.name}). "
            f"Restore the folder {path.parent} from a backup."
        )
    return set(ids)


def _ids_in(path: Path) -> list[str]:
    """Return the ids in a file; none if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").split() if path.is_file() else []
    except (OSError, UnicodeDecodeError):
        return []


def _rows_path(store: Path, digest: str) -> Path:
    return ledger(store).folder / "rows" / f"{digest}.txt"


def find_faults(store: Path, last: int = 0) -> Iterator[LedgerFault]:
    """Yield entries that are missing, or that are not as they were written. last: see Ledger.faults."""
    book = ledger(store)
    results = {int(path.name[:6]): path for path in book.folder.glob("[0-9][0-9][0-9][0-9][0-9][0-9].result.json")}
    numbers = {int(path.stem) for path in book.paths()}
    faults = list(book.faults(last))
    for number in sorted(results.keys() - numbers):
        message = f"is missing, although there is {results[number].name}"
        faults.append(LedgerFault("missing_record", number, message))
    yield from faults
    if faults:
        return
    for entry in book.read():
        number = entry["sequence"]
        if missing := FIELDS - entry.keys():
            yield LedgerFault("edited_record", number, f"has no {min(missing)}")
        elif number > 1 and entry.get(PREVIOUS_HASH_KEY) is None:
            yield LedgerFault("edited_record", number, "does not contain the hash of the entry before it")
        elif number in results and _recorded_hash(results[number]) != sha256_of_file(book.path(number)):
            name = results[number].name
            yield LedgerFault("edited_record", number, f"does not match its hash in {name}: it was edited")


def _recorded_hash(result: Path) -> str | None:
    """Return the hash of the entry that a result file names; None if it cannot be read."""
    try:
        return str(read_checked(result, dict[str, Any])["entry_sha256"])
    except (OSError, ValueError, KeyError):
        return None


def _count_begins(records: Sequence[ChampionRecord]) -> int:
    """Return the number of the last entry that does not count: the rules moved the present champion after it.

    A rollback brings back the count of the champion that it restores. A move by a person does not start it anew, nor
    does one that beat only what a person had forced, or a champion that could not be compared.
    """
    by_number = {record.sequence: record for record in records}
    record = records[-1] if records else None
    while record is not None:
        previous = by_number.get(record.sequence - 1)
        if record.restores is not None:
            record = by_number.get(record.restores)
        elif record.by_hand or record.forced or not _beat_a_champion(record, previous, by_number):
            record = previous
        else:
            return int(record.evidence.get(EVIDENCE_KEY, 0))
    return 0


def _beat_a_champion(
    record: ChampionRecord, previous: ChampionRecord | None, by_number: Mapping[int, ChampionRecord]
) -> bool:
    """Return whether a move of the rules was against a champion that nobody had forced, or against none."""
    if not record.evidence.get("champion_compared", True):
        return False
    if previous is not None and previous.restores is not None:
        previous = by_number.get(previous.restores)
    return previous is None or not previous.forced

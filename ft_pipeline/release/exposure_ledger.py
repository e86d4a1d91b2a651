"""The ledger of exposure: every test of candidates on the test rows, as numbered records in `exposures`.

An entry (`000001.json`) is written before anybody sees a result of its tests, and `000001.result.json` after it. An
entry without results (the process was killed) counts: its tests are decided again, from the same comparison and at the
same level, and not counted again. The ids of the test rows are kept once, in `exposures/rows/<digest>.txt`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.release.champion import ChampionRecord
from ft_pipeline.release.exposure import Exposure
from ft_pipeline.store.atomic_files import create_atomically, translate_write_errors
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.ledger import Ledger, LedgerFault
from ft_pipeline.store.provenance import user_name

EVIDENCE_KEY = "exposure"
"""Key of a champion's evidence: the number of the last entry that was written before the rules moved it."""


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


def ledger(store: Path) -> Ledger:
    """Return the ledger under the store folder `store`."""
    return Ledger(store / "exposures", "sequence")


def digest_of_rows(test_ids: Iterable[str]) -> str:
    """Return the digest of the ids of test conversations."""
    return hashlib.sha256("\n".join(sorted(test_ids)).encode()).hexdigest()


def last_entry_before(store: Path, decision_key: str, standing: int | None) -> int:
    """Return the number of the last entry that is not of this decision; 0 if there is none.

    standing: the number of the record of the champion that it is made against.
    """
    own = (decision_key, standing)
    others = [entry["sequence"] for entry in ledger(store).read() if (entry["decision_key"], entry["standing"]) != own]
    return max(others, default=0)


def read_exposure(
    store: Path,
    test_ids: Sequence[str],
    records: Sequence[ChampionRecord],
    *,
    last: int | None = None,
    test_share: float = 0.0,
) -> Exposure:
    """Return how exposed the test conversations are.

    records: those of the champions, which say when the count began. last: the last entry that counts; default: all.
    Raises UserError if an entry is missing or was edited.
    """
    _require_complete(store, records)
    now, entries = set(test_ids), ledger(store).read()
    begin = _count_begins(records)
    counted = [entry for entry in entries if begin < entry["sequence"] <= (last if last is not None else len(entries))]
    count = sum(len(entry["candidates"]) * _overlap(store, entry, now) for entry in counted)
    levels = {test["key"]: test["level"] for entry in entries for test in entry["candidates"]}
    return Exposure(digest_of_rows(test_ids), count, levels, test_share=test_share)


def looks_before(entries: Sequence[Mapping[str, Any]], settings_hash: str) -> int:
    """Return how many decisions had been made when a candidate of these settings first appeared."""
    seen = [number for number, entry in enumerate(entries) if settings_hash in entry["contenders"]]
    return min(seen, default=len(entries))


def write_entry(store: Path, entry: NewEntry, number: int | None = None) -> int | None:
    """Append the entry, and return its number. The ids of the rows are written first.

    number: the one that it must get; default: the next one. None is returned if another process took it: then the
    decision did not know that process's tests, and must be made again.
    """
    digest = digest_of_rows(entry.test_ids)
    rows = ledger(store).folder / "rows" / f"{digest}.txt"
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
    with translate_write_errors():
        create_atomically(entry.with_suffix(".result.json"), json.dumps(document, indent=2).encode())


def rows_of(store: Path, entries: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Return the ids of the test conversations of entries, by the digest that they name. Errors as in read_exposure."""
    return {entry["rows"]: _read_rows(store, entry) for entry in entries}


def _overlap(store: Path, entry: Mapping[str, Any], now: set[str]) -> float:
    """Return the share of the present test conversations that were part of an entry's tests."""
    return len(now & _read_rows(store, entry)) / len(now) if now else 0.0


def _read_rows(store: Path, entry: Mapping[str, Any]) -> set[str]:
    path = ledger(store).folder / "rows" / f"{entry['rows']}.txt"
    try:
        return set(path.read_text(encoding="utf-8").split())
    except OSError as error:
        raise UserError(
            f"The test rows of exposures/{entry['sequence']:06d}.json cannot be read ({path.name}). Restore the folder "
            f"{path.parent} from a backup."
        ) from error


def find_faults(store: Path, last: int = 0) -> Iterator[LedgerFault]:
    """Yield entries that are missing, or that are not as they were written. last: see Ledger.faults."""
    book = ledger(store)
    results = {int(path.name.partition(".")[0]): path for path in book.folder.glob("*.result.json")}
    yield from book.faults(max([last, *results]))
    for number, path in sorted(results.items()):
        entry = book.path(number)
        if entry.is_file() and json.loads(path.read_bytes()).get("entry_sha256") != sha256_of_file(entry):
            yield LedgerFault("edited_record", number, f"does not match its hash in {path.name}: it was edited")


def _require_complete(store: Path, records: Sequence[ChampionRecord]) -> None:
    """Raise UserError if an entry is missing: the count would be too low."""
    known = max((record.evidence.get(EVIDENCE_KEY, 0) for record in records), default=0)
    for fault in find_faults(store, known):
        raise UserError(
            f"The ledger of tests is damaged: exposures/{fault.number:06d}.json {fault.message}. Restore "
            f"{ledger(store).folder} from a backup: without it, nobody knows how often the test rows were used."
        )


def _count_begins(records: Sequence[ChampionRecord]) -> int:
    """Return the number of the last entry that does not count: the rules moved the present champion after it.

    A rollback brings back the count of the champion that it restores. A move by a person does not start it anew.
    """
    by_number = {record.sequence: record for record in records}
    record = records[-1] if records else None
    while record is not None:
        if record.restores is not None:
            record = by_number.get(record.restores)
        elif record.by_hand or record.forced:
            record = by_number.get(record.sequence - 1)
        else:
            return int(record.evidence.get(EVIDENCE_KEY, 0))
    return 0

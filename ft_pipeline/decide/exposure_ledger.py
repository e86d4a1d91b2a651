"""The ledger of looks: every model under a prompt whose test scores were written, as numbered records in `exposures`.

An entry (`000001.json`) is written when scores are, and when a comparison shows them for the first time. A model that
is looked at again, on the same rows and by the same rules, is no new look. The ids of the test rows are kept once, in
`exposures/rows/<digest>.txt`. Entries of older versions hold the tests of a decision; each test counts as a look.

What counts is what may be released: tuned models, prompts and classifiers. Fixed rivals (the plain base model, the
constant answer, a contender, a teacher) do not: nobody chooses among them, and more of them make nothing else likelier
to pass. The two forms of one training, adapter and merged model, are one look: they answer the same up to rounding.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.errors import UserError
from ft_pipeline.store.atomic_files import create_atomically, translate_write_errors
from ft_pipeline.store.checked_json import Digest, Number, read_checked
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.ledger import PREVIOUS_HASH_KEY, Ledger, LedgerFault
from ft_pipeline.store.provenance import user_name

EVIDENCE_KEY = "exposure"
"""Key of a champion's evidence: the number of the last entry that was written before it was moved."""
FIELDS = frozenset({"looks", "compared", "settings", "rows"})
"""Keys that every entry has."""
OLD_FIELDS = frozenset({"decision_key", "standing", "candidates", "contenders", "rows"})
"""Keys of an entry of the versions before looks, which has `candidates`."""
_NOT_TUNED = ("prompt", "classifier")
"""Kinds of the candidates of older entries."""


@dataclass(frozen=True)
class Look:
    """A model under a prompt that was looked at."""

    identity: str
    """Of what was scored, the rows, the settings that a decision reads, and the ratings that decide, if any."""
    name: str = ""
    settings_hash: str = ""
    """Hash of the settings that it was made with, whatever its data."""
    is_tuned: bool = True


@dataclass(frozen=True)
class Entry:
    """An entry of the ledger."""

    sequence: int
    looks: Sequence[Look]
    compared: str
    """Decision key of the comparison that first showed them. Empty: their scores were written."""
    settings: Mapping[str, Any]
    """What a decision read at that time, by the name of the setting. Empty in entries of older versions."""
    rows: str
    """Digest of the ids of the test conversations."""
    ids: Set[str] = frozenset()
    """These ids."""
    contenders: Sequence[str] = ()
    """In entries of older versions: the settings_hash of every candidate, tested or not."""
    time: str = ""
    by: str | None = None

    @property
    def designs(self) -> Set[str]:
        """The settings of the models that it knows of."""
        return {look.settings_hash for look in self.looks} | set(self.contenders)


@dataclass(frozen=True)
class _Test:
    key: str = ""
    name: str = ""
    settings_hash: str = ""
    kind: str = ""


@dataclass(frozen=True)
class _EntryShape:
    """The types of what is read of an entry, also of an older one."""

    sequence: Number
    previous_sha256: str | None = None
    looks: list[Look] = field(default_factory=list)
    candidates: list[_Test] = field(default_factory=list)
    contenders: list[str] = field(default_factory=list)
    compared: str = ""
    decision_key: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    rows: Digest = "0" * 64


def ledger(store: Path) -> Ledger[dict[str, Any]]:
    """Return the ledger under the store folder `store`."""
    loss = ": without it, nobody knows how often the test rows were used"
    return Ledger(store / "exposures", "sequence", _EntryShape, called="The ledger of looks", loss=loss)


def digest_of_rows(test_ids: Iterable[str]) -> str:
    """Return the digest of the ids of test conversations."""
    return hashlib.sha256("\n".join(sorted(test_ids)).encode()).hexdigest()


def last_entry_before(store: Path, decision_key: str) -> int:
    """Return the number of the last entry that is not of this comparison; 0 if there is none."""
    return max((entry.sequence for entry in read_entries(store) if entry.compared != decision_key), default=0)


def read_entries(store: Path, known: int = 0) -> list[Entry]:
    """Return all entries, oldest first. known: the highest number that other files name.

    Raises UserError if one is missing, was edited or cannot be read: the count would be too low.
    """
    book, found = ledger(store), dict[str, Set[str]]()
    book.require(find_faults(store, known))
    return [_made(store, record, found) for record in book.read()]


def counted(entries: Sequence[Entry], records: Sequence[ChampionRecord]) -> list[Entry]:
    """Return the entries that count. records: those of the champions, which say when the count began."""
    begin = _count_begins(records)
    return [entry for entry in entries if begin < entry.sequence]


def named_by(records: Sequence[ChampionRecord]) -> int:
    """Return the highest number of an entry that a champion's record names; 0 if there is none."""
    return max((record.evidence.get(EVIDENCE_KEY, 0) for record in records), default=0)


def read_counted(store: Path, records: Sequence[ChampionRecord]) -> list[Entry]:
    """Return the entries of a store that count (counted). Errors as in read_entries."""
    return counted(read_entries(store, named_by(records)), records)


def write_looks(
    store: Path, looks: Sequence[Look], test_ids: Sequence[str], settings: Mapping[str, Any], compared: str = ""
) -> None:
    """Write those of the looks that are new; nothing if there are none. The ids of the rows are written first.

    compared: decision key of the comparison that shows them: then also those that none has shown before. Another
    process may write at the same time: what it wrote is known before this entry gets its number. Raises UserError if
    the ledger is damaged.
    """
    while True:
        entries = read_entries(store)
        known = {look.identity for entry in entries if entry.compared or not compared for look in entry.looks}
        new = [look for look in looks if look.identity not in known]
        if not new:
            return
        digest = _write_rows(store, test_ids)
        record = {
            "sequence": len(entries) + 1,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "by": user_name(),
            "compared": compared,
            "looks": [asdict(look) for look in new],
            "settings": dict(settings),
            "rows": digest,
            "conversations": len(test_ids),
        }
        if ledger(store).append(record) is not None:
            return


def _write_rows(store: Path, test_ids: Sequence[str]) -> str:
    """Write the ids of test conversations, and return their digest."""
    digest = digest_of_rows(test_ids)
    rows = _rows_path(store, digest)
    if not rows.is_file():
        rows.parent.mkdir(parents=True, exist_ok=True)
        with translate_write_errors():
            create_atomically(rows, ("\n".join(sorted(test_ids)) + "\n").encode())
    return digest


def _made(store: Path, record: Mapping[str, Any], found: dict[str, Set[str]]) -> Entry:
    """Return an entry from its record. The tests of an older one are looks. found: ids by digest, read once."""
    tests = [
        Look(test["key"], test.get("name", ""), test.get("settings_hash", ""), test.get("kind") not in _NOT_TUNED)
        for test in record.get("candidates", ())
    ]
    if record["rows"] not in found:
        found[record["rows"]] = _read_rows(store, record)
    return Entry(
        record["sequence"],
        [*(Look(**look) for look in record.get("looks", ())), *tests],
        record.get("compared", record.get("decision_key", "")),
        record.get("settings", {}),
        record["rows"],
        found[record["rows"]],
        record.get("contenders", ()),
        record.get("time", ""),
        record.get("by"),
    )


def damaged_rows(store: Path) -> list[str]:
    """Return the names of files with ids of test conversations that are missing, or that do not match their digest."""
    names = []
    for digest in sorted({entry["rows"] for entry in ledger(store).read()}):
        path = _rows_path(store, digest)
        if digest_of_rows(_ids_in(path)) != digest:
            names.append(f"exposures/rows/{path.name}")
    return names


def _read_rows(store: Path, entry: Mapping[str, Any]) -> Set[str]:
    path = _rows_path(store, entry["rows"])
    ids = _ids_in(path)
    if digest_of_rows(ids) != entry["rows"]:
        raise UserError(
            f"The test rows of exposures/{entry['sequence']:06d}.json are missing or were edited ({path.name}). "
            f"Restore the folder {path.parent} from a backup."
        )
    return frozenset(ids)


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
        if missing := (FIELDS if "looks" in entry else OLD_FIELDS) - entry.keys():
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

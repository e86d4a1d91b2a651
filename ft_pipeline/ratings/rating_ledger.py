"""The verdicts of people: numbered, hash-chained records in `ratings` of the store, one per verdict.

A record (`000001.json`) has the verdict and never changes. What it says about a row (its id, the hashes of the answers,
the note) is in `rows/<sha256>.json`, whose hash the record has, so that `ft erase` can redact it. Its `salt` keeps the
hash from telling anything afterwards. A pair of models has one more record, with the seed of its order and its sides.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.lineage.findings import CheckedRecords, check_ledger
from ft_pipeline.store.artifact_redaction import redaction_ledger
from ft_pipeline.store.atomic_files import create_atomically, translate_write_errors
from ft_pipeline.store.checked_json import Digest, Number, parse_checked
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.ledger import PREVIOUS_HASH_KEY, Ledger, LedgerFault
from ft_pipeline.store.text_redaction import PLACEHOLDER
from ft_pipeline.tables.excluded_rows import MARKER_START

Verdict = Literal["candidate", "rival", "both_good", "neither"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
ROWS = "rows"
_OF_THE_ROW = ("item", "candidate_answer", "rival_answer", "note")
"""Fields of a rating that `ft erase` may redact."""


@dataclass(frozen=True)
class Rating:
    """A verdict of a person about two answers."""

    time: str
    """UTC, ISO 8601."""
    rater: str
    """Alias."""
    candidate: str
    rival: str
    """Names of the two rows of the comparison, when it was rated."""
    item: str
    """Id of the test item: that of its conversation, and the index of the turn."""
    candidate_answer: str
    rival_answer: str
    """SHA-256 of the text of each answer."""
    candidate_side: int
    """1 or 2: where the candidate's answer was shown."""
    verdict: Verdict
    seconds: float | None
    """How long the pair was shown; None if unknown."""
    note: str | None

    @property
    def group(self) -> str:
        """The id of the conversation."""
        return self.item.rpartition(":")[0]

    @property
    def answers(self) -> frozenset[str]:
        """The hashes of both answers. With the item, they say what was rated, whatever the models are called now."""
        return frozenset((self.candidate_answer, self.rival_answer))


@dataclass(frozen=True)
class _RecordShape:
    """The types of what is read of a record: of a verdict, or of a pair."""

    sequence: Number
    time: str
    previous_sha256: str | None = None
    row: Digest = "0" * 64
    pair: list[str] = field(default_factory=list)
    seed: str = ""


def ledger(store: Path) -> Ledger[dict[str, Any]]:
    """Return the ledger under the store folder `store`."""
    return Ledger(store / "ratings", "sequence", _RecordShape, called="The record of ratings")


def append_rating(store: Path, rating: Rating) -> None:
    """Record a verdict. Two raters at once both get a number."""
    values = asdict(rating)
    of_the_row = {name: values.pop(name) for name in _OF_THE_ROW} | {"salt": secrets.token_hex(16)}
    content = json.dumps(of_the_row, ensure_ascii=False).encode()
    digest = sha256(content).hexdigest()
    with translate_write_errors():
        create_atomically(_row_path(store, digest), content)
    _append(store, {**values, "row": digest})


def seed_of(store: Path, names: tuple[str, str]) -> str:
    """Return the seed of a pair of models, in either order. The first call records it."""
    pair = sorted(names)
    seeds = (record["seed"] for record in ledger(store).read() if record.get("pair") == pair)
    if (seed := next(seeds, None)) is not None:
        return str(seed)
    _append(store, {"time": now(), "pair": pair, "seed": secrets.token_hex(16)})
    return seed_of(store, names)  # that of the first record, if two raters began at once


def read_ratings(store: Path, last: int | None = None) -> list[Rating]:
    """Return the verdicts in order of time, without those about erased rows. last: the number of the last record to
    read, which there must be; default: all.

    Raises UserError if a record is missing, was edited or cannot be read.
    """
    book, ratings = ledger(store), []
    book.require(find_faults(store, last or 0))
    for record in book.read():
        if "row" in record and (last is None or record["sequence"] <= last):
            of_the_row = json.loads(_row_path(store, record["row"]).read_bytes())
            if not of_the_row["item"].startswith(MARKER_START):
                values = {**record, **of_the_row}
                ratings.append(Rating(**{name: values[name] for name in Rating.__dataclass_fields__}))
    return ratings


def newest(ratings: list[Rating]) -> list[Rating]:
    """Return the last verdict of each rater about an item and two answers."""
    return list({(rating.rater, rating.item, rating.answers): rating for rating in ratings}.values())


def content_digest(store: Path) -> tuple[int, str]:
    """Return the number of records, and a hash that changes with every record and every redaction."""
    paths = ledger(store).paths()
    rows = sorted((ledger(store).folder / ROWS).glob("*.json"))
    hashes = [sha256_of_file(path) for path in (*paths[-1:], *rows)]
    return len(paths), sha256(" ".join(hashes).encode()).hexdigest() if hashes else ""


def find_faults(store: Path, known: int = 0) -> Iterator[LedgerFault]:
    """Yield records that are missing, or that are not as they were written. known: how many there must be at least."""
    book = ledger(store)
    faults = list(book.faults(known))
    yield from faults
    if faults:
        return
    for record in book.read():
        number = record["sequence"]
        if number > 1 and record.get(PREVIOUS_HASH_KEY) is None:
            yield LedgerFault("edited_record", number, "does not contain the hash of the record before it")
        elif "row" not in record and not {"pair", "seed"} <= record.keys():
            yield LedgerFault("edited_record", number, "is neither a verdict nor a pair")
        elif "row" in record and (message := _fault_of_row(store, str(record["row"]))):
            yield LedgerFault("edited_record", number, message)


def verified(index: ArtifactIndex) -> CheckedRecords:
    """Check the verdicts. Tables of them say which records there must be."""
    known = max((node.config.get("records", 0) for node in index.all("ratings")), default=0)
    return check_ledger("records_of_ratings", ledger(index.root), find_faults(index.root, known))


def is_row(content: bytes, digest: str) -> bool:
    """Return whether this is the content of `rows/<digest>.json`, as it was written or as `ft erase` redacted it."""
    if sha256(content).hexdigest() == digest:
        return True
    try:
        values = parse_checked(content, dict[str, Any])
        texts = [values[name] for name in _OF_THE_ROW]
    except (ValueError, KeyError):
        return False
    return str(texts[0]).startswith(MARKER_START) or PLACEHOLDER in str(texts[-1])


def _fault_of_row(store: Path, digest: str) -> str | None:
    path = _row_path(store, digest)
    if not path.is_file():
        return f"refers to {ROWS}/{path.name}, which is missing"
    try:
        content = path.read_bytes()
    except OSError:
        return f"refers to {ROWS}/{path.name}, which cannot be read"
    if sha256(content).hexdigest() == digest or (redaction_ledger(store).paths() and is_row(content, digest)):
        return None
    return f"refers to {ROWS}/{path.name}, which was edited"


def _append(store: Path, record: Mapping[str, Any]) -> None:
    """Append a record under the next number that is free."""
    book = ledger(store)
    while book.append({"sequence": book.next_number(), **record}) is None:
        continue  # another rater took the number


def _row_path(store: Path, digest: str) -> Path:
    return ledger(store).folder / ROWS / f"{digest}.json"


def now() -> str:
    """Return the time of a record."""
    return datetime.now(UTC).isoformat(timespec="seconds")

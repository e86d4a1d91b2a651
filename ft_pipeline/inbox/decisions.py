"""The record of decisions: who accepted or rejected which proposal, when and why. Numbered records in `inbox`.

A record is never changed or removed. It has ids of calls and no texts but the reason, which `ft erase` searches.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ft_pipeline.errors import UserError
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.lineage.findings import CheckedRecords, check_ledger
from ft_pipeline.store.checked_json import Number
from ft_pipeline.store.ledger import Ledger
from ft_pipeline.store.provenance import user_name

Outcome = Literal["accepted", "rejected"]


@dataclass(frozen=True)
class Decision:
    """The last decision about a call."""

    outcome: Outcome
    version: tuple[int, int]
    """Which feedback it is about (LoggedFeedback.version)."""
    time: str
    by: str
    was_accepted: bool
    """Whether this or an earlier decision accepted the call."""

    def describe(self) -> str:
        """Return what was decided, when and by whom."""
        return f"{self.outcome} on {self.time[:10]} by {self.by}"


@dataclass(frozen=True)
class _Call:
    id: str
    time: int
    lines: int


@dataclass(frozen=True)
class _RecordShape:
    sequence: Number
    time: str
    by: str
    decision: Outcome
    calls: list[_Call]
    previous_sha256: str | None = None


def ledger(store: Path) -> Ledger[dict[str, Any]]:
    """Return the ledger under the store folder `store`."""
    return Ledger(store / "inbox", "sequence", _RecordShape, called="The record of the inbox")


def read_decisions(store: Path) -> dict[str, Decision]:
    """Return the last decision about each call. Raises UserError if a record is missing, or was edited."""
    book = ledger(store)
    book.require(book.faults())
    decisions: dict[str, Decision] = {}
    for entry in book.read():
        for call in entry["calls"]:
            before = decisions.get(call["id"])
            is_accepted = entry["decision"] == "accepted" or (before is not None and before.was_accepted)
            decisions[call["id"]] = Decision(
                entry["decision"], (call["time"], call["lines"]), entry["time"], entry["by"], is_accepted
            )
    return decisions


def record(
    store: Path, outcome: Outcome, calls: Mapping[str, tuple[int, int]], reason: str, files: Iterable[str]
) -> None:
    """Append a decision. calls: id → which feedback it is about. files: those in data/raw that got the calls.

    Call it with the lock of the inbox held, so that the next number is free.
    """
    book = ledger(store)
    entry: dict[str, Any] = {
        "sequence": book.next_number(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": user_name(),
        "decision": outcome,
        "reason": reason,
        "files": sorted(files),
        "calls": [{"id": identity, "time": time, "lines": lines} for identity, (time, lines) in calls.items()],
    }
    if book.append(entry) is None:
        raise UserError("Another process decided at the same time. Run the command again.")


def verified(index: ArtifactIndex) -> CheckedRecords:
    """Check the records of which served answers were accepted as data."""
    book = ledger(index.root)
    return check_ledger("inbox_records", book, book.faults())

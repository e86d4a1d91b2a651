"""Findings of an audit: differences between the store and its records, each with a code and a place."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ft_pipeline.store.ledger import Ledger, LedgerFault
from ft_pipeline.store.signature_check import FaultCode

FindingCode = Literal[
    FaultCode,
    "missing_manifest",
    "broken_link",
    "missing_file",
    "changed_file",
    "extra_file",
    "missing_raw_file",
    "unrecorded_redaction",
    "event_without_artifact",
    "event_disagrees",
]


@dataclass(frozen=True)
class Finding:
    """One difference between the store and its records."""

    code: FindingCode
    where: str
    """The artifact, raw file or record: `adapter[qlora] 9a385fb20bec`, `champion/000001.json`."""
    message: str

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "where": self.where, "message": self.message}

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class CheckedRecords(NamedTuple):
    """What was found in a ledger."""

    counted_as: str
    records: int
    findings: list[Finding]


def check_ledger(counted_as: str, book: Ledger[Any], faults: Iterable[LedgerFault]) -> CheckedRecords:
    """Return the faults of a ledger as findings."""
    findings = [Finding(fault.kind, book.name(fault.number), fault.message) for fault in faults]
    return CheckedRecords(counted_as, len(book.paths()), findings)

"""Findings of an audit: differences between the store and its records, each with a code and a place."""

from dataclasses import dataclass
from typing import Literal

FindingCode = Literal[
    "missing_artifact",
    "missing_manifest",
    "edited_manifest",
    "broken_link",
    "missing_file",
    "changed_file",
    "extra_file",
    "linked_folder",
    "missing_raw_file",
    "changed_raw_file",
    "edited_pointer",
    "edited_record",
    "missing_record",
    "unrecorded_redaction",
    "unsigned_file",
    "edited_journal",
    "missing_journal",
    "wrong_key",
    "dropped_changes",
    "rewritten_changes",
    "back_dated",
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

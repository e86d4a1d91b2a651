"""Row counts, checks and warnings per file and table: plain data that the Dagster layer and the command line show."""

from dataclasses import asdict, dataclass, field
from typing import Any

FIRST_ROWS = 5
"""Number of rows named in a message or a summary."""


@dataclass(frozen=True)
class CheckResult:
    """Result of one check that a table must pass before later steps may use it."""

    passed: bool
    message: str
    value: float = 0
    """The number behind the result, such as a share or a count."""


@dataclass(frozen=True)
class RowWarning:
    """A warning about rows. They are still used, unless it says that they are set aside."""

    code: str
    message: str
    rows: list[int] = field(default_factory=list)
    file: str = ""


@dataclass
class FileAccount:
    """Row counts of one file: read = accepted + quarantined + duplicates."""

    file: str
    sha256: str = ""
    status: str = "accepted"
    """accepted or refused."""
    read: int = 0
    accepted: int = 0
    quarantined: int = 0
    duplicates: int = 0
    error_code: str | None = None
    error_message: str | None = None
    max_quarantined: float | None = None
    """Maximum quarantined share of this file, from its sidecar; None if the sidecar does not set it."""
    split: str | None = None
    """`test` for a golden test file."""
    allow: list[str] = field(default_factory=list)
    """Codes that the file's sidecar allows."""
    reasons: dict[str, list[int]] = field(default_factory=dict)
    """Code → numbers of the rows set aside for it, ascending."""

    @property
    def balanced(self) -> bool:
        """Whether every row read is accounted for."""
        return self.read == self.accepted + self.quarantined + self.duplicates


@dataclass
class TableReport:
    """Row counts, checks and warnings of one table."""

    data_format: str
    files: list[FileAccount]
    checks: dict[str, CheckResult]
    """Keys: all_files_readable, rows_accounted_for, quarantined_share, some_rows_accepted, matches_schema."""
    warnings: list[RowWarning]
    preview: list[dict[str, Any]]
    """The first accepted rows, with long texts shortened."""
    rows_hash: str
    """SHA-256 over the ids of the accepted rows with their files and row numbers, in order."""
    languages: dict[str, Any]
    """rows, sampled, counts (ISO 639 code → sampled rows), see `Languages`."""
    files_from_cache: int = 0
    """Number of unchanged files whose result came from the cache."""

    @property
    def read(self) -> int:
        return sum(file.read for file in self.files)

    @property
    def accepted(self) -> int:
        return sum(file.accepted for file in self.files)

    @property
    def quarantined(self) -> int:
        return sum(file.quarantined for file in self.files)

    @property
    def duplicates(self) -> int:
        return sum(file.duplicates for file in self.files)

    @property
    def reasons(self) -> dict[str, int]:
        """Code → number of rows, most frequent first."""
        counts: dict[str, int] = {}
        for file in self.files:
            for code, rows in file.reasons.items():
                counts[code] = counts.get(code, 0) + len(rows)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, with only the first rows of each reason and warning."""
        files = []
        for file in self.files:
            entry = asdict(file)
            entry["reasons"] = {
                code: {"count": len(rows), "first_rows": rows[:FIRST_ROWS]} for code, rows in file.reasons.items()
            }
            files.append(entry)
        totals = {name: getattr(self, name) for name in ("read", "accepted", "quarantined", "duplicates")}
        return {
            "format": self.data_format,
            **totals,
            "reasons": self.reasons,
            "files": files,
            "checks": {name: asdict(check) for name, check in self.checks.items()},
            "warnings": [
                {**asdict(item), "rows": item.rows[:FIRST_ROWS], "count": len(item.rows)} for item in self.warnings
            ],
            "rows_hash": self.rows_hash,
            "languages": self.languages,
            "files_read": len(self.files) - self.files_from_cache,
            "files_from_cache": self.files_from_cache,
        }


@dataclass
class FileReport:
    """Result of validating one file (`ft validate`)."""

    account: FileAccount
    data_format: str
    warnings: list[RowWarning]

    @property
    def refused(self) -> bool:
        return self.account.status == "refused"

    def to_json(self) -> dict[str, Any]:
        """Return the document of `ft validate --json`."""
        account = self.account
        error = {"code": account.error_code, "message": account.error_message} if self.refused else None
        return {
            "file": account.file,
            "format": self.data_format,
            "status": account.status,
            "read": account.read,
            "accepted": account.accepted,
            "quarantined": account.quarantined,
            "duplicates": account.duplicates,
            "reasons": account.reasons,
            "warnings": [{"code": item.code, "rows": item.rows, "message": item.message} for item in self.warnings],
            "error": error,
        }

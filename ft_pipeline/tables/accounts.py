"""What became of the rows: plain records that the Dagster layer and the command line show."""

from dataclasses import asdict, dataclass, field
from typing import Any

FIRST_ROWS = 5


@dataclass(frozen=True)
class CheckResult:
    """One thing that must hold before anything downstream may use the table."""

    passed: bool
    message: str
    value: float = 0


@dataclass(frozen=True)
class RowWarning:
    """Something worth a look that keeps no row from being used."""

    code: str
    message: str
    rows: list[int] = field(default_factory=list)
    file: str = ""


@dataclass
class FileAccount:
    """read = accepted + quarantined + duplicates, for every file."""

    file: str
    sha256: str = ""
    status: str = "accepted"
    """accepted, or refused."""
    read: int = 0
    accepted: int = 0
    quarantined: int = 0
    duplicates: int = 0
    error_code: str | None = None
    error_message: str | None = None
    max_quarantined: float | None = None
    """The file's own ceiling."""
    split: str | None = None
    """test: a golden test file."""
    allow: list[str] = field(default_factory=list)
    """Codes that the file's sidecar allows."""
    reasons: dict[str, list[int]] = field(default_factory=dict)
    """Code → rows set aside for it, ascending."""

    @property
    def balanced(self) -> bool:
        return self.read == self.accepted + self.quarantined + self.duplicates


@dataclass
class TableReport:
    """The account of one table."""

    data_format: str
    files: list[FileAccount]
    checks: dict[str, CheckResult]
    """all_files_readable, rows_accounted_for, quarantined_share, some_rows_accepted."""
    warnings: list[RowWarning]
    preview: list[dict[str, Any]]
    """The first accepted rows, long texts cut."""
    rows_hash: str
    """sha256 over the ids of the accepted rows with their files and row numbers, in order."""
    files_from_cache: int = 0
    """Unchanged files, of which it was known what reading them gives."""

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
        """Code → number of rows, most first."""
        counts: dict[str, int] = {}
        for file in self.files:
            for code, rows in file.reasons.items():
                counts[code] = counts.get(code, 0) + len(rows)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks.values())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; of each reason and warning only the first rows."""
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
            "files_read": len(self.files) - self.files_from_cache,
            "files_from_cache": self.files_from_cache,
        }


@dataclass
class FileReport:
    """What the pipeline would do with one file."""

    account: FileAccount
    data_format: str
    warnings: list[RowWarning]

    @property
    def refused(self) -> bool:
        return self.account.status == "refused"

    def to_json(self) -> dict[str, Any]:
        """The document of `ft validate --json`."""
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

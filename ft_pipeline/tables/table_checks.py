"""The checks that a table must pass before later steps may use it."""

from ft_pipeline.tables.accounts import FIRST_ROWS, CheckResult, FileAccount
from ft_pipeline.tables.file_result import FileResult
from ft_pipeline.tables.reason_codes import DUPLICATE_CODES, USUAL_CODES

WORST_CODES = 3
"""Number of reasons that a message names."""


def table_checks(
    data_format: str, files: list[FileResult], max_quarantined: float, written: list[int], set_aside: list[int]
) -> dict[str, CheckResult]:
    """Return the checks all_files_readable, rows_accounted_for, quarantined_share and some_rows_accepted, by name.

    written, set_aside: numbers of rows written for each readable file. The writer counts them, not the reader.
    """
    accounts = [file.account for file in files]
    readable = [account for account in accounts if account.status == "accepted"]
    return {
        "all_files_readable": readable_check(accounts),
        "rows_accounted_for": _accounted(readable, written, set_aside),
        "quarantined_share": share_check(f"data/raw/{data_format}", readable, max_quarantined),
        "some_rows_accepted": _some_rows(data_format, accounts),
    }


def readable_check(accounts: list[FileAccount]) -> CheckResult:
    """Return a check that fails if a file was refused."""
    refused = [account for account in accounts if account.status == "refused"]
    if not refused:
        return CheckResult(True, f"{len(accounts)} file(s) read", 0)
    named = "; ".join(f"{file.file}: {file.error_code}: {file.error_message}" for file in refused[:FIRST_ROWS])
    return CheckResult(False, f"{len(refused)} file(s) refused: {named}. Fix or remove them.", len(refused))


def _accounted(readable: list[FileAccount], written: list[int], set_aside: list[int]) -> CheckResult:
    unbalanced = [
        account.file
        for account, accepted, aside in zip(readable, written, set_aside, strict=True)
        if not account.balanced or (accepted, aside) != (account.accepted, account.quarantined + account.duplicates)
    ]
    if unbalanced:
        message = f"read is not accepted + quarantined + duplicates in {', '.join(unbalanced)}; report this"
        return CheckResult(False, message, len(unbalanced))
    return CheckResult(True, "read = accepted + quarantined + duplicates in every file", 0)


def share_check(folder: str, readable: list[FileAccount], max_quarantined: float) -> CheckResult:
    """Return a check that fails if the quarantined share of the folder, or of a file with a limit, is too large."""
    without_limit = [account for account in readable if account.max_quarantined is None]
    faults = [_over(folder, without_limit, max_quarantined)]
    faults += [
        _over(account.file, [account], account.max_quarantined)
        for account in readable
        if account.max_quarantined is not None
    ]
    read = sum(account.read for account in readable)
    share = sum(_faulty(account) for account in readable) / read if read else 0.0
    messages = [fault for fault in faults if fault]
    return CheckResult(not messages, "; ".join(messages) or f"{share:.1%} of the rows read are quarantined", share)


def _over(name: str, accounts: list[FileAccount], limit: float) -> str | None:
    """Return the message if the quarantined share of the files is above the limit, or None."""
    read, quarantined = sum(account.read for account in accounts), sum(_faulty(account) for account in accounts)
    if not read or quarantined <= limit * read:
        return None
    worst, first = worst_codes(accounts)
    return (
        f"{name}: {quarantined:,} of {read:,} rows are quarantined ({quarantined / read:.1%}), the limit is "
        f"{limit:.0%}. Most often: {worst}. First rows: {first}. Fix them, or raise max_quarantined"
    )


def _faulty(account: FileAccount) -> int:
    """Return the number of quarantined rows that count against the file: not those that were erased on request, and not
    calls that failed in production."""
    return account.quarantined - sum(len(account.reasons.get(code, ())) for code in USUAL_CODES)


def worst_codes(accounts: list[FileAccount]) -> tuple[str, str]:
    """Return the most frequent reasons with their counts, and the first quarantined rows, as two texts."""
    counts: dict[str, int] = {}
    rows: list[tuple[int, str, int, str]] = []
    for file_position, account in enumerate(accounts):
        for code, row_numbers in account.reasons.items():
            if code not in DUPLICATE_CODES:
                counts[code] = counts.get(code, 0) + len(row_numbers)
                rows += [(file_position, account.file, row, code) for row in row_numbers[:FIRST_ROWS]]
    worst = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:WORST_CODES]
    first = sorted(rows, key=lambda item: (item[0], item[2]))[:FIRST_ROWS]
    return (
        ", ".join(f"{code} ({count:,})" for code, count in worst),
        ", ".join(f"{file}:{row} {code}" for _, file, row, code in first),
    )


def _some_rows(data_format: str, accounts: list[FileAccount]) -> CheckResult:
    accepted = sum(account.accepted for account in accounts)
    if not accounts:
        return CheckResult(True, f"data/raw/{data_format} has no files, so the table is empty", 0)
    rated_down = sum(len(account.reasons.get("rated_down", ())) for account in accounts)
    if rated_down and rated_down == sum(account.read for account in accounts):
        return CheckResult(True, "every answer was rated down, so that only the table feedback has rows", 0)
    if not accepted:
        return CheckResult(False, f"no row of data/raw/{data_format} is accepted. Fix the rows or remove the files.", 0)
    return CheckResult(True, f"{accepted:,} rows accepted", accepted)

"""Check the signed journal of a store: the key, the lines, and that the files are as they were signed last."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ft_pipeline.audit.findings import Finding, FindingCode
from ft_pipeline.store import journal_head
from ft_pipeline.store.journal import file_hashes
from ft_pipeline.store.journal_lines import ADOPTED, FILE_NAME, STATE, Entry, JournalContent, read_journal
from ft_pipeline.store.signed_state import SignedState, state_of
from ft_pipeline.store.signing import ID_DIGITS, key_id_of, keys_folder, read_public_key

CLOCK_SECONDS = 120
"""Differences of times that a clock may have. Larger ones are findings."""
UNSIGNED = (
    "This store is not signed: it is from a version before signatures, or has no key. Only hashes were checked, which "
    "anybody who can write to the store can compute again. To sign from now on: ft keys new --reason TEXT"
)
_CODES: dict[str, tuple[FindingCode, FindingCode]] = {
    "artifacts": ("edited_manifest", "missing_artifact"),
    "current": ("edited_pointer", "edited_pointer"),
    "blobs": ("changed_raw_file", "changed_raw_file"),
}
"""First part of a path → codes of a file that differs from its signature, and of one that is missing."""


@dataclass
class SignatureCheck:
    """Result of checking a store's signatures."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Of a signed store: `key`, `lines`, `head` (SHA-256 of the last line) and `since` (time of the first line)."""
    content: JournalContent = field(default_factory=JournalContent)
    state: SignedState = field(default_factory=SignedState)


def check_signatures(root: Path, public_pem: bytes | None = None) -> SignatureCheck:
    """Verify the journal of the store `root`, and compare every file that it covers.

    public_pem: the public key that must have signed it. Without it, the key that this machine knows for the store.
    """
    check = SignatureCheck()
    if not (root / FILE_NAME).is_file():
        _check_unsigned(check, root, public_pem)
        return check
    content = check.content = read_journal(root)
    check.findings += [
        Finding("edited_journal", f"{FILE_NAME}:{fault.number}", fault.message) for fault in content.faults
    ]
    if not content.entries:
        return check
    if earlier := content.entries[0].details.get("replaces"):
        check.notes.append(
            f"An earlier journal of this folder, with {earlier['number']} lines and the key "
            f"{earlier['key_id'][:ID_DIGITS]}, was replaced on {content.entries[0].time[:10]}."
        )
    _check_key(check, root, public_pem)
    _check_head(check, root)
    check.findings += _back_dated(content.entries)
    state = check.state = state_of(content)
    for bad in state.bad:
        check.findings.append(Finding(_codes(bad.path)[0], bad.path, f"{bad.message} (line {bad.number})"))
    if not content.faults:
        check.findings += _compare_with_files(state, root)
    last = content.entries[-1]
    check.facts = {
        "key": content.keys[-1].key_id,
        "lines": len(content.entries),
        "head": last.sha256,
        "since": content.entries[0].time,
    }
    return check


def _check_unsigned(check: SignatureCheck, root: Path, public_pem: bytes | None) -> None:
    head = journal_head.remembered(root)
    if public_pem is not None or head is not None or read_public_key(root) is not None:
        known = f"line {head.number} was signed here" if head else "it has or should have a key"
        check.findings.append(Finding("missing_journal", FILE_NAME, f"is missing, although {known}"))
    else:
        check.notes.append(UNSIGNED)


def _check_key(check: SignatureCheck, root: Path, public_pem: bytes | None) -> None:
    """Check that the journal is signed with the expected key, or with keys that it introduced."""
    keys = check.content.keys
    ids = [key.key_id for key in keys]
    if (named := read_public_key(root)) is None or named.strip() != keys[-1].public_pem.strip():
        check.findings.append(Finding("wrong_key", "signing_key.pub", "is not the key of the journal"))
    expected = _expected_key(root, public_pem, ids)
    if expected is None:
        check.notes.append(
            f"Signed with the key {ids[-1][:ID_DIGITS]}, which the store itself names. Compare it with the one that "
            "you know, or use --key FILE"
        )
    elif expected not in ids:
        message = f"the journal is signed with {ids[-1][:ID_DIGITS]}, not with the expected {expected[:ID_DIGITS]}"
        check.findings.append(Finding("wrong_key", FILE_NAME, message))
    trusted = ids.index(expected) if expected in ids else 0
    for position, key in enumerate(keys):
        if key.endorsed or position == 0:
            continue
        introduction = f"line {key.first} introduces the key {key.key_id[:ID_DIGITS]} without the one before it"
        if position > trusted and expected is not None:
            check.findings.append(Finding("wrong_key", f"{FILE_NAME}:{key.first}", introduction))
        else:
            entry = check.content.entries[key.first - 1]
            check.notes.append(f"{introduction} ({entry.time[:10]}, by {entry.by}: {entry.details.get('reason')})")


def _expected_key(root: Path, public_pem: bytes | None, ids: list[str]) -> str | None:
    """Return the id of the key that must have signed: the given one, the remembered one, or one of this machine's."""
    if public_pem is not None:
        return key_id_of(public_pem)
    if (head := journal_head.remembered(root)) is not None:
        return head.key_id
    return next((key_id for key_id in ids if (keys_folder() / f"{key_id[:ID_DIGITS]}.pem").is_file()), None)


def _check_head(check: SignatureCheck, root: Path) -> None:
    """Check that no line is missing after the last one that this machine signed, here or in another folder."""
    lines = {entry.number: entry.sha256 for entry in check.content.entries}
    head = journal_head.remembered(root)
    heads = [head] if head else journal_head.remembered_elsewhere(check.content.keys[-1].key_id)
    if not heads or any(lines.get(one.number) == one.sha256 for one in heads):
        return
    last = max(heads, key=lambda one: one.number)
    where = "" if head else ", or this is an earlier copy"
    if last.number > len(lines):
        message = f"ends at line {len(lines)}, but this machine signed line {last.number}: changes were dropped{where}"
        check.findings.append(Finding("dropped_changes", FILE_NAME, message))
    else:
        message = f"line {last.number} is not the one that this machine signed: the history was rewritten{where}"
        check.findings.append(Finding("rewritten_changes", FILE_NAME, message))


def _back_dated(entries: list[Entry]) -> Iterator[Finding]:
    """Yield lines that are dated before the line before them."""
    latest = None
    for entry in entries:
        time = datetime.fromisoformat(entry.time)
        if latest is not None and (latest - time).total_seconds() > CLOCK_SECONDS:
            message = f"is dated {entry.time}, before the line before it ({latest.isoformat()})"
            yield Finding("back_dated", f"{FILE_NAME}:{entry.number}", message)
        latest = max(latest, time) if latest else time


def _compare_with_files(state: SignedState, root: Path) -> Iterator[Finding]:
    """Yield files that are missing, differ from their signature, or are not signed."""
    actual = file_hashes(root, *STATE)
    for path, signed in sorted(state.files.items()):
        edited, missing = _codes(path)
        number = signed.entry.number
        if path not in actual:
            yield Finding(missing, path, f"was removed (line {number} of the journal signed it)")
        elif actual[path] != signed.sha256:
            put_back = state.earlier.get(path, {}).get(actual[path])
            message = f"was edited: it is not as it was signed in line {number} of the journal"
            yield Finding(edited, path, message + (f": the one of line {put_back} was put back" if put_back else ""))
        elif signed.entry.change != ADOPTED:
            yield from _wrongly_dated(root / path, signed.entry)
    for path in sorted(actual.keys() - state.files.keys()):
        yield Finding("unsigned_file", path, "is not in the signed journal: it was added without the key")


def _wrongly_dated(path: Path, entry: Entry) -> Iterator[Finding]:
    """Yield a finding if a champion's record has another time than its signature."""
    if entry.change != "champion":
        return
    since = json.loads(path.read_bytes()).get("since", entry.time)
    if abs((datetime.fromisoformat(since) - datetime.fromisoformat(entry.time)).total_seconds()) > CLOCK_SECONDS:
        where = f"champion/{path.name}"
        yield Finding("back_dated", where, f"is dated {since}, but was signed {entry.time} (line {entry.number})")


def _codes(path: str) -> tuple[FindingCode, FindingCode]:
    return _CODES.get(path.split("/", 1)[0], ("edited_record", "missing_record"))

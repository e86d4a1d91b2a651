"""Check the signed journal of a store: the key, the lines, and that the files are as they were signed last."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ft_pipeline.store import journal_head
from ft_pipeline.store.checked_json import read_checked
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.journal_lines import FILE_NAME, STATE, Entry, JournalContent, read_journal
from ft_pipeline.store.signed_state import SignedState, state_of
from ft_pipeline.store.signing import (
    ID_DIGITS,
    PUBLIC_KEY_NAME,
    KeyIdError,
    key_id_of,
    keys_folder,
    read_public_key,
)

FaultCode = Literal[
    "edited_manifest",
    "missing_artifact",
    "edited_pointer",
    "changed_raw_file",
    "edited_record",
    "missing_record",
    "unsigned_file",
    "linked_folder",
    "edited_journal",
    "missing_journal",
    "wrong_key",
    "dropped_changes",
    "rewritten_changes",
    "back_dated",
]
CLOCK_SECONDS = 120
"""Differences of times that a clock may have. Larger ones are faults."""
UNSIGNED = (
    "This store is not signed: it is from a version before signatures, or has no key. Only hashes were checked, which "
    "anybody who can write to the store can compute again. To sign from now on: ft keys new --reason TEXT"
)
_CODES: dict[str, tuple[FaultCode, FaultCode]] = {
    "artifacts": ("edited_manifest", "missing_artifact"),
    "current": ("edited_pointer", "edited_pointer"),
    "blobs": ("changed_raw_file", "changed_raw_file"),
}
"""First part of a path → codes of a file that differs from its signature, and of one that is missing."""


@dataclass(frozen=True)
class SignatureFault:
    """One difference between a store and its signatures."""

    code: FaultCode
    where: str
    """The path in the store, or a line of the journal."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class _Dated:
    since: str = ""


@dataclass
class SignatureCheck:
    """Result of checking a store's signatures."""

    faults: list[SignatureFault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_signed: bool = False
    """Whether the store has, or should have, a journal."""
    content: JournalContent = field(default_factory=JournalContent)
    state: SignedState = field(default_factory=SignedState)

    @property
    def facts(self) -> dict[str, Any]:
        """Of a signed store: `key`, `lines`, `head` (SHA-256 of the last line) and `since` (time of the first)."""
        if not self.content.entries:
            return {}
        first, last = self.content.entries[0], self.content.entries[-1]
        key = self.content.keys[-1].key_id
        return {"key": key, "lines": len(self.content.entries), "head": last.sha256, "since": first.time}

    @property
    def changes(self) -> list[SignatureFault]:
        """The faults without dates, which `ft audit` names: a clock that was ahead and was corrected must not block a
        store for good."""
        return [fault for fault in self.faults if fault.code != "back_dated"]

    def add(self, code: FaultCode, where: str, message: str) -> None:
        """Add a fault."""
        self.faults.append(SignatureFault(code, where, message))


def check_signatures(root: Path, public_pem: bytes | None = None, *, files: bool = True) -> SignatureCheck:
    """Verify the journal of the store `root`, and compare every file that it covers.

    public_pem: the public key that must have signed it. Without it, the key that this machine knows for the store.
    files: False compares no files, and checks only who signed the journal, and whether it is whole.
    """
    check = SignatureCheck()
    head = journal_head.remembered(root)
    has_traces = (root / FILE_NAME).is_file() or head is not None or read_public_key(root) is not None
    check.is_signed = has_traces or public_pem is not None
    if not check.is_signed:
        check.notes.append(UNSIGNED)
        return check
    check.content = read_journal(root)
    for fault in check.content.faults:
        check.add("edited_journal", f"{FILE_NAME}:{fault.number}", fault.message)
    if not check.content.entries:
        known = f"line {head.number} was signed here" if head else "it has or should have a key"
        check.add("missing_journal", FILE_NAME, f"is missing or empty, although {known}")
        return check
    _note_earlier_journal(check)
    _check_key(check, root, public_pem)
    _check_head(check, root)
    check.faults += _back_dated(check.content.entries)
    check.state = state_of(check.content)
    for bad in check.state.bad:
        check.add(_codes(bad.path)[0], bad.path, f"{bad.message} (line {bad.number})")
    if files and not check.content.faults:
        check.faults += _compare_with_files(check.state, root)
    return check


def _note_earlier_journal(check: SignatureCheck) -> None:
    if earlier := check.content.entries[0].details.get("replaces"):
        check.notes.append(
            f"An earlier journal of this folder, with {earlier['number']} lines and the key "
            f"{earlier['key_id'][:ID_DIGITS]}, was replaced on {check.content.entries[0].time[:10]}."
        )


def _check_key(check: SignatureCheck, root: Path, public_pem: bytes | None) -> None:
    """Check that the journal is signed with the expected key, or with keys that it introduced."""
    keys = check.content.keys
    try:
        ids = [key.key_id for key in keys]
    except KeyIdError:
        check.add("wrong_key", FILE_NAME, "introduces a key that is none")
        return
    if (named := read_public_key(root)) is None or named.strip() != keys[-1].public_pem.strip():
        check.add("wrong_key", PUBLIC_KEY_NAME, "is not the key of the journal")
    expected = _expected_key(root, public_pem, ids)
    if expected is None:
        check.notes.append(
            f"Signed with the key {ids[-1][:ID_DIGITS]}, which the store itself names. Compare it with the one that "
            "you know, or use --key FILE"
        )
    elif expected not in ids:
        message = f"the journal is signed with {ids[-1][:ID_DIGITS]}, not with the expected {expected[:ID_DIGITS]}"
        check.add("wrong_key", FILE_NAME, message)
    elif keys[ids.index(expected)].first > len(check.content.entries):
        message = f"the expected key {expected[:ID_DIGITS]} is introduced, but has signed nothing"
        check.add("wrong_key", FILE_NAME, message)
    trusted = ids.index(expected) if expected in ids else 0
    for position, key in enumerate(keys):
        if key.endorsed or position == 0:
            continue
        introduction = f"line {key.first} introduces the key {key.key_id[:ID_DIGITS]} without the one before it"
        if position > trusted and expected is not None:
            check.add("wrong_key", f"{FILE_NAME}:{key.first}", introduction)
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
        check.add("dropped_changes", FILE_NAME, message)
    else:
        message = f"line {last.number} is not the one that this machine signed: the history was rewritten{where}"
        check.add("rewritten_changes", FILE_NAME, message)


def _back_dated(entries: list[Entry]) -> Iterator[SignatureFault]:
    """Yield lines that are dated before the line before them."""
    latest = None
    for entry in entries:
        time = datetime.fromisoformat(entry.time)
        if latest is not None and (latest - time).total_seconds() > CLOCK_SECONDS:
            before = f"is dated {entry.time}, before the line before it ({latest.isoformat()})"
            message = f"{before}: a clock was wrong, or the line is back-dated"
            yield SignatureFault("back_dated", f"{FILE_NAME}:{entry.number}", message)
        latest = max(latest, time) if latest else time


def _compare_with_files(state: SignedState, root: Path) -> Iterator[SignatureFault]:
    """Yield files that are missing, differ from their signature, are links, or are not signed."""
    actual: dict[str, str] = {}
    for path in sorted({path for pattern in STATE for path in root.glob(pattern)}):
        name = path.relative_to(root).as_posix()
        if _is_linked(path, root):
            yield SignatureFault("linked_folder", name, "is a link, or is in a folder that is one")
        elif path.is_file():
            actual[name] = _hash_of(path)
    for name, signed in sorted(state.files.items()):
        edited, missing = _codes(name)
        number = signed.entry.number
        if name not in actual:
            yield SignatureFault(missing, name, f"was removed (line {number} of the journal signed it)")
        elif actual[name] != signed.sha256:
            put_back = state.earlier.get(name, {}).get(actual[name])
            message = f"was edited: it is not as it was signed in line {number} of the journal"
            yield SignatureFault(edited, name, message + (f"; it is that of line {put_back}" if put_back else ""))
        elif signed.entry.change == "champion":
            yield from _wrongly_dated(root / name, signed.entry)
    for name in sorted(actual.keys() - state.files.keys()):
        yield SignatureFault("unsigned_file", name, "is not in the signed journal: it was added without the key")


def _hash_of(path: Path) -> str:
    """Return the hash of a file; "" if it cannot be read."""
    try:
        return sha256_of_file(path)
    except OSError:
        return ""


def _is_linked(path: Path, root: Path) -> bool:
    """Return whether a file, or a folder between it and `root`, is a link."""
    return any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(root) and part != root)


def _wrongly_dated(path: Path, entry: Entry) -> Iterator[SignatureFault]:
    """Yield a fault if a champion's record has another time than its signature."""
    try:
        since = read_checked(path, _Dated).get("since", entry.time)
        seconds = (datetime.fromisoformat(since) - datetime.fromisoformat(entry.time)).total_seconds()
    except (OSError, ValueError, TypeError):
        yield SignatureFault("edited_record", f"champion/{path.name}", "cannot be read as a record")
        return
    if abs(seconds) > CLOCK_SECONDS:
        message = f"is dated {since}, but was signed {entry.time} (line {entry.number})"
        yield SignatureFault("back_dated", f"champion/{path.name}", message)


def _codes(path: str) -> tuple[FaultCode, FaultCode]:
    return _CODES.get(path.split("/", 1)[0], ("edited_record", "missing_record"))

"""The journal of a store: one signed line per change, each with the hash of the line before it. `journal.jsonl`.

A line is a DSSE envelope of an in-toto statement. Its subjects are files of the store with their SHA-256 after the
change: manifests (which have the hashes of their artifact's files), pointers and records. It contains names and hashes
and no text of a row, so that `ft erase` need not change it.

A change is signed before it is made, under a lock. If the process is killed in between, the next change completes it.
"""

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ft_pipeline.errors import UserError
from ft_pipeline.store import journal_head
from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.journal_lines import (
    ABANDONED,
    ADOPTED,
    ARTIFACT,
    CONTINUED,
    CREATED,
    FILE_NAME,
    NEW_KEY,
    PREDICATE_TYPE,
    STATE,
    Entry,
    parse_line,
    sha256_of_line,
    unverified_statement,
)
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.provenance import user_name
from ft_pipeline.store.removals import logged_removals
from ft_pipeline.store.signing import (
    PUBLIC_KEY_NAME,
    STATEMENT_TYPE,
    BadSignature,
    SigningKey,
    create_key,
    find_key,
    new_store_key,
    read_public_key,
)
from ft_pipeline.store.spec import ArtifactReference

PENDING_NAME = "journal.pending.json"
"""The content of small files whose change is signed but perhaps not made yet."""
_TAIL_BYTES = 1 << 20


class Sign(Protocol):
    """Signs one change. Call it before the change is made."""

    def __call__(
        self,
        change: str,
        files: Mapping[str, str],
        details: Mapping[str, Any] | None = None,
        content: Mapping[str, bytes] | None = None,
    ) -> None:
        """content: the new bytes of those files that the next change must write if this process is killed."""


@contextlib.contextmanager
def changing(root: Path) -> Iterator[Sign]:
    """Hold the journal of the store `root` for a `with` block, and yield what signs its changes.

    In a store without a key nothing is signed. Raises UserError if the key is missing, if the journal is damaged, or if
    it ends before the last line that this machine signed.
    """
    if (key := find_key(root)) is None:
        _require_never_signed(root)
        yield _sign_nothing
        return
    with FileLock(root / "locks" / "journal", "recording a change").hold():
        writer = _Writer(root, key)
        writer.complete_last()
        yield writer.sign
        (root / PENDING_NAME).unlink(missing_ok=True)


def require_key(root: Path) -> None:
    """Raise UserError if the store is signed and its key is missing, before work is done that cannot be recorded."""
    if find_key(root) is None:
        _require_never_signed(root)


def _require_never_signed(root: Path) -> None:
    """Raise UserError if somebody removed the signatures of a store."""
    head = journal_head.remembered(root)
    if (root / FILE_NAME).is_file() or (head is not None and (root / "artifacts").exists()):
        raise UserError(
            "The journal or the public key of this store was removed. Run `ft audit --verify`, restore the files, or "
            "start with a new key: ft keys new --reason TEXT"
        )


def sign_content(sign: Sign, root: Path, change: str, path: Path, content: bytes) -> None:
    """Sign that a small file of the store `root` is about to get this content."""
    name = path.relative_to(root).as_posix()
    sign(change, {name: hashlib.sha256(content).hexdigest()}, content={name: content})


def require_unsigned(root: Path, path: Path) -> None:
    """Raise UserError if a record that is to be written was signed before: then somebody removed it."""
    name = path.relative_to(root).as_posix()
    file = root / FILE_NAME
    for line in file.read_bytes().splitlines() if file.is_file() else ():
        if name in _parse(line).files:
            raise UserError(f"The record {name} was signed, but is missing. Run `ft audit --verify`, and restore it.")


def _sign_nothing(
    change: str,
    files: Mapping[str, str],
    details: Mapping[str, Any] | None = None,
    content: Mapping[str, bytes] | None = None,
) -> None:
    """Do nothing: the store has no key."""


def sign_new_store(root: Path) -> SigningKey | None:
    """Give the store `root` a key and begin its journal, if it is new. Return the key; None if it was not new.

    Only a command of a person calls this: a key that is made in a pod would end with it.
    """
    if (root / "artifacts").exists() or read_public_key(root) is not None:
        return None
    with FileLock(root / "locks" / "journal", "creating a key").hold():
        if read_public_key(root) is not None:
            return None
        return _introduce(root, new_store_key(), CREATED, {}, "a new store")


def replace_key(root: Path, reason: str) -> tuple[SigningKey, bool]:
    """Give the store a new key. Return it, and whether the key before it signed its introduction.

    A store that was not signed is taken as it is: its first line lists the hashes of all its files. `STATE` says which.
    """
    with FileLock(root / "locks" / "journal", "replacing the key").hold():
        if read_public_key(root) is None:
            files, removed = file_hashes(root, *STATE), logged_removals(root)
            return _introduce(root, new_store_key(), ADOPTED, files, reason, removed=removed), False
        try:
            old = find_key(root)
        except UserError:
            old = None
        key = create_key()
        return _introduce(root, key, NEW_KEY, {}, reason, signed_by=old), old is not None


def accept_state(root: Path, reason: str) -> None:
    """Sign that a person accepts a journal that ends before the last line that this machine signed."""
    key = find_key(root)
    if key is None:
        raise UserError("This store is not signed, so there is nothing to accept. Run `ft keys new --reason TEXT`.")
    with FileLock(root / "locks" / "journal", "accepting the journal").hold():
        head = journal_head.remembered(root)
        journal_head.forget(root)
        _Writer(root, key).sign(CONTINUED, {}, {"reason": reason, "remembered": head.number if head else None})


def _introduce(
    root: Path,
    key: SigningKey,
    change: str,
    files: Mapping[str, str],
    reason: str,
    *,
    signed_by: SigningKey | None = None,
    removed: Iterable[ArtifactReference] = (),
) -> SigningKey:
    """Sign a line that introduces a key: with the key before it, or if that is lost, with the key itself."""
    details: dict[str, Any] = {"public_key": key.public_pem.decode(), "reason": reason, "nonce": os.urandom(8).hex()}
    if removed:
        details["removed"] = sorted(removed)
    if (head := journal_head.remembered(root)) is not None and change != NEW_KEY:
        details["replaces"] = asdict(head)
    if signed_by is None:
        journal_head.forget(root)
    _Writer(root, signed_by or key).sign(change, files, details)
    with translate_write_errors():
        write_atomically(root / PUBLIC_KEY_NAME, key.public_pem)
    return key


class _Writer:
    """Appends lines to a journal whose lock is held."""

    def __init__(self, root: Path, key: SigningKey) -> None:
        self.root = root
        self.key = key
        self.path = root / FILE_NAME

    def sign(
        self,
        change: str,
        files: Mapping[str, str],
        details: Mapping[str, Any] | None = None,
        content: Mapping[str, bytes] | None = None,
    ) -> None:
        """See Sign."""
        last = self._last()
        with translate_write_errors():
            if content:
                pending = {name: data.decode() for name, data in content.items()}
                write_atomically(self.root / PENDING_NAME, json.dumps(pending).encode())
            line = self.key.sign(_statement(change, files, details or {}, last))
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        number = last.number + 1 if last else 1
        journal_head.remember(self.root, journal_head.Head(self.key.key_id, number, sha256_of_line(line)))

    def complete_last(self) -> None:
        """Complete the last change if the process that signed it was killed before it was made."""
        last = self._last()
        if last is None:
            return
        pending = self.root / PENDING_NAME
        for name, text in (json.loads(pending.read_bytes()) if pending.is_file() else {}).items():
            content = text.encode()
            if last.files.get(name) == hashlib.sha256(content).hexdigest():
                write_atomically(self.root / name, content)
        if last.change == ARTIFACT and not any((self.root / name).is_file() for name in last.files):
            self.sign(ABANDONED, last.files)

    def _last(self) -> Entry | None:
        """Return the last line. Removes a line that was not written completely."""
        lines, is_complete = _tail(self.path)
        if not is_complete:
            _truncate(self.path, lines[-1])
            lines, _ = _tail(self.path)
        if not lines:
            journal_head.require_not_behind(self.root, None)
            return None
        entry = _parse(lines[-1])
        journal_head.require_not_behind(self.root, journal_head.Head(self.key.key_id, entry.number, entry.sha256))
        return entry


def _parse(line: bytes) -> Entry:
    """Return the entry in a line, whoever signed it. Raises UserError if the line is damaged."""
    try:
        return parse_line(line, unverified_statement(line))
    except BadSignature as error:
        raise UserError("A line of the journal is damaged. Run `ft audit --verify`, and restore it.") from error


def _statement(change: str, files: Mapping[str, str], details: Mapping[str, Any], last: Entry | None) -> dict[str, Any]:
    """Return the in-toto statement of a change."""
    predicate = {
        "sequence": last.number + 1 if last else 1,
        "previous": last.sha256 if last else None,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": user_name(),
        "uid": os.getuid(),
        "host": socket.gethostname(),
        "change": change,
        "details": dict(details),
    }
    subject = [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in files.items()]
    return {"_type": STATEMENT_TYPE, "subject": subject, "predicateType": PREDICATE_TYPE, "predicate": predicate}


def _tail(path: Path) -> tuple[list[bytes], bool]:
    """Return the last lines of a file, and whether the last one is complete. A line may be long: it is read whole."""
    if not path.is_file():
        return [], True
    size, wanted = path.stat().st_size, _TAIL_BYTES
    while True:
        with path.open("rb") as file:
            file.seek(max(0, size - wanted))
            tail = file.read()
        if wanted >= size or tail.rstrip(b"\n").count(b"\n"):
            return tail.splitlines(), tail.endswith(b"\n") or not tail
        wanted *= 4


def _truncate(path: Path, rest: bytes) -> None:
    """Remove an incomplete last line, which a killed process left. Its change was not made."""
    with translate_write_errors():
        os.truncate(path, path.stat().st_size - len(rest))


def file_hashes(root: Path, *patterns: str) -> dict[str, str]:
    """Return path in the store → SHA-256, of the files of `root` that match one of the patterns."""
    paths = sorted(path for pattern in patterns for path in root.glob(pattern) if path.is_file())
    return {path.relative_to(root).as_posix(): sha256_of_file(path) for path in paths}

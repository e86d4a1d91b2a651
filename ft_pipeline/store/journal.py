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
    KEY_IN_USE,
    NEW_KEY,
    PREDICATE_TYPE,
    REMOVAL,
    STATE,
    Entry,
    matches,
    parse_line,
    unverified_statement,
)
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.provenance import user_name
from ft_pipeline.store.removals import logged_removals
from ft_pipeline.store.signature_check import check_signatures
from ft_pipeline.store.signing import (
    PUBLIC_KEY_NAME,
    STATEMENT_TYPE,
    BadSignature,
    SigningKey,
    create_key,
    find_key,
    new_store_key,
    read_public_key,
    verify,
)
from ft_pipeline.store.spec import ArtifactReference

PENDING_NAME = "journal.pending.json"
"""The content of small files whose change is signed but perhaps not made yet."""
_TAIL_BYTES = 1 << 16


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


def complete_last_change(root: Path) -> None:
    """Complete a change that a killed process signed and did not make. Raises UserError as `changing` does: call it
    before work whose result could not be recorded."""
    with changing(root):
        pass


def _require_never_signed(root: Path) -> None:
    """Raise UserError if somebody removed the signatures of a store."""
    head = journal_head.remembered(root)
    if (root / FILE_NAME).is_file() or (head is not None and (root / "artifacts").exists()):
        raise UserError(
            "The journal or the public key of this store was removed. Run `ft audit --verify`, and restore them from a "
            "backup."
        )


def sign_content(
    sign: Sign, root: Path, change: str, path: Path, content: bytes, details: Mapping[str, Any] | None = None
) -> None:
    """Sign that a small file of the store `root` is about to get this content."""
    name = path.relative_to(root).as_posix()
    sign(change, {name: hashlib.sha256(content).hexdigest()}, details, {name: content})


def write_signed(root: Path, change: str, path: Path, content: bytes, details: Mapping[str, Any] | None = None) -> None:
    """Sign and write a small file of the store `root`, in place of the one that is there."""
    with changing(root) as sign:
        sign_content(sign, root, change, path, content, details)
        write_atomically(path, content)


def remove_signed(root: Path, path: Path) -> None:
    """Sign and make the removal of a small file of the store `root`, if it is there."""
    with changing(root) as sign:
        if path.is_file():
            sign(REMOVAL, {path.relative_to(root).as_posix(): sha256_of_file(path)})
            path.unlink()


def require_unsigned(root: Path, path: Path) -> None:
    """Raise UserError if a record that is to be written was signed before: then somebody removed it."""
    name = path.relative_to(root).as_posix()
    file = root / FILE_NAME
    for line in file.read_bytes().splitlines() if file.is_file() else ():
        if name in _parse(line).files:
            raise UserError(f"The record {name} was signed, but is missing. Run `ft audit --verify`, and restore it.")


def _sign_nothing(*change: object, **also: object) -> None:
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


def replace_key(root: Path, reason: str) -> SigningKey:
    """Give the store a new key, and return it. If the old key is there, it signs the introduction.

    A store that was not signed is taken as it is: its first line lists the hashes of all files that STATE names. Raises
    UserError if the signatures are damaged, or if only the public key is missing.
    """
    with FileLock(root / "locks" / "journal", "replacing the key").hold():
        if read_public_key(root) is None:
            if (root / FILE_NAME).is_file():
                raise UserError(f"The public key of this store is missing. Restore {root / PUBLIC_KEY_NAME}.")
            files, removed = file_hashes(root, *STATE), logged_removals(root)
            return _introduce(root, new_store_key(), ADOPTED, files, reason, removed)
        if faults := check_signatures(root, files=False).changes:
            raise UserError(f"The signatures are damaged: {faults[0]}. Run `ft audit --verify`, and restore them.")
        try:
            old = find_key(root)
        except UserError:
            old = None
        key = create_key()
        details = _introduction(key, reason)
        if old is None:
            _Writer(root, key, trusts_last=True).sign(NEW_KEY, {}, details)
        else:
            _Writer(root, old).sign(NEW_KEY, {}, details)
            _Writer(root, key, trusts_last=True).sign(KEY_IN_USE, {})
        with translate_write_errors():
            write_atomically(root / PUBLIC_KEY_NAME, key.public_pem)
        return key


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
    removed: Iterable[ArtifactReference] = (),
) -> SigningKey:
    """Sign the first line of a journal, which introduces its key. An earlier journal of this folder is named in it."""
    details = _introduction(key, reason)
    if removed:
        details["removed"] = sorted(removed)
    if (head := journal_head.remembered(root)) is not None:
        details["replaces"] = asdict(head)
        journal_head.forget(root)
    _Writer(root, key).sign(change, files, details)
    with translate_write_errors():
        write_atomically(root / PUBLIC_KEY_NAME, key.public_pem)
    return key


def _introduction(key: SigningKey, reason: str) -> dict[str, Any]:
    return {"public_key": key.public_pem.decode(), "reason": reason, "nonce": os.urandom(8).hex()}


class _Writer:
    """Appends lines to a journal whose lock is held."""

    def __init__(self, root: Path, key: SigningKey, *, trusts_last: bool = False) -> None:
        """trusts_last: the last line need not be signed with the key, because the journal was checked."""
        self.root = root
        self.key = key
        self.trusts_last = trusts_last
        self.path = root / FILE_NAME
        self.last = self._read_last()

    def sign(
        self,
        change: str,
        files: Mapping[str, str],
        details: Mapping[str, Any] | None = None,
        content: Mapping[str, bytes] | None = None,
    ) -> None:
        """Sign a change and append its line (Sign says what each argument is)."""
        with translate_write_errors():
            if content:
                pending = {name: data.decode() for name, data in content.items()}
                write_atomically(self.root / PENDING_NAME, json.dumps(pending).encode())
            line = self.key.sign(_statement(change, files, details or {}, self.last))
            with self.path.open("ab") as file:
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self.last = _parse(line)
        journal_head.remember(self.root, self._head_of(self.last))

    def complete_last(self) -> None:
        """Complete the last change if the process that signed it was killed before it was made."""
        last = self.last
        if last is None:
            return
        for name, content in self._pending().items():
            if last.files.get(name) == hashlib.sha256(content).hexdigest() and matches(name, STATE):
                write_atomically(self.root / name, content)
        if last.change == ARTIFACT and not any((self.root / name).is_file() for name in last.files):
            # Only a draft shows that the artifact never was in place. Otherwise somebody removed it.
            drafts = {sha256_of_file(path) for path in self.root.glob("drafts/*/out/manifest.json")}
            if drafts & set(last.files.values()):
                self.sign(ABANDONED, last.files)

    def _pending(self) -> dict[str, bytes]:
        """Return the content of small files that a killed process was about to write. A damaged list is empty."""
        try:
            document = json.loads((self.root / PENDING_NAME).read_bytes())
            return {str(name): str(text).encode() for name, text in document.items()}
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}

    def _head_of(self, entry: Entry) -> journal_head.Head:
        return journal_head.Head(self.key.key_id, entry.number, entry.sha256)

    def _read_last(self) -> Entry | None:
        """Return the last line. Removes a line that was not written completely.

        Raises UserError if somebody without the key wrote it, or if it is not the last one that this machine signed.
        """
        lines, is_complete = _tail(self.path)
        if not is_complete:
            self._complete_line(lines[-1])
            lines, _ = _tail(self.path)
        if not lines:
            journal_head.require_not_behind(self.root, None)
            return None
        entry = _parse(lines[-1])
        head = self._head_of(entry)
        journal_head.require_not_behind(self.root, head)
        if not (self.trusts_last or self._is_signed(lines[-1]) or journal_head.is_remembered(self.root, head)):
            raise UserError(
                "The last line of the journal is not signed with the key of this store. Run `ft audit --verify`."
            )
        return entry

    def _is_signed(self, line: bytes) -> bool:
        try:
            verify(line, self.key.public_pem)
        except BadSignature:
            return False
        return True

    def _complete_line(self, line: bytes) -> None:
        """Complete or remove a last line without its line break. Without a whole line, its change was not made."""
        with translate_write_errors():
            if self._is_signed(line):
                with self.path.open("ab") as file:
                    file.write(b"\n")
            else:
                os.truncate(self.path, self.path.stat().st_size - len(line))


def _parse(line: bytes) -> Entry:
    """Return the entry in a line, without checking its signature. Raises UserError if the line is damaged."""
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


def file_hashes(root: Path, *patterns: str) -> dict[str, str]:
    """Return path in the store → SHA-256, of the files of `root` that match one of the patterns."""
    paths = sorted(path for pattern in patterns for path in root.glob(pattern) if path.is_file())
    return {path.relative_to(root).as_posix(): sha256_of_file(path) for path in paths}

"""Compare a store with its signatures while nothing is recorded in it."""

import contextlib
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.store import journal
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.signature_check import SignatureCheck, SignatureFault, check_signatures
from ft_pipeline.store.signing import find_key


def check_at_rest(root: Path) -> SignatureCheck:
    """Return check_signatures of the store `root` while nothing is recorded, so that a change under way is no fault.

    Nothing is changed. Whoever cannot record a change, such as a person without the key, checks without waiting.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(UserError):
            if find_key(root) is not None:
                stack.enter_context(FileLock(root / "locks" / "journal", "checking the store").hold())
        return check_signatures(root)


def complete_if_possible(root: Path) -> None:
    """Complete a change that a killed process signed and did not make. Without the key, do nothing."""
    with contextlib.suppress(UserError):
        journal.complete_last_change(root)


def require_as_signed(root: Path) -> SignatureCheck:
    """Return the check of a store, after the last change is completed. UserError if the store is signed, and is not as
    it was signed."""
    complete_if_possible(root)
    check = check_at_rest(root)
    if check.changes:
        raise UserError(not_as_signed("The store", check.changes[0]))
    return check


def not_as_signed(what: str, fault: SignatureFault | str) -> str:
    """Return the sentences for what differs from its signature."""
    return f"{what} is not as it was signed: {fault}. Run `ft audit --verify`, and restore it."

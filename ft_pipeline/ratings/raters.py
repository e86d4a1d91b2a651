"""What a rater may write: an alias, and notes. No name, address or number of a person is kept."""

import re
from collections.abc import Iterable

from ft_pipeline.errors import UserError
from ft_pipeline.tables.checks import pii

DEFAULT_ALIAS = "r1"
NOTE_CHARACTERS = 1000
"""Longest note, in characters."""
_ALIAS = re.compile(r"[a-z0-9][a-z0-9_-]{0,19}")


def require_alias(alias: str) -> str:
    """Return the alias. UserError if it may name a person."""
    if kinds := pii.find_kinds(alias):
        raise UserError(f"The alias contains {pii.NAMES[kinds[0]]}. Use one that names nobody: --rater r2")
    if not _ALIAS.fullmatch(alias):
        raise UserError(
            "An alias has up to 20 of a to z, 0 to 9, - and _, and is no name of a person. Use one such as --rater r2"
        )
    return alias


def clean_note(text: str) -> tuple[str | None, list[str]]:
    """Return a note as it is kept, and what was masked in it. None: it is empty. UserError if it is too long."""
    note = " ".join(text.split())
    if len(note) > NOTE_CHARACTERS:
        raise UserError(f"The note has {len(note):,} characters. Shorten it to {NOTE_CHARACTERS:,}.")
    masked, kinds = pii.mask(note)
    return masked or None, kinds


def describe_masked(kinds: Iterable[str]) -> str:
    """Return that something in a note was masked; empty if nothing was."""
    names = [pii.NAMES[kind] for kind in dict.fromkeys(kinds) if kind in pii.NAMES]
    return f"Masked in a note, so that it names nobody: {', '.join(names)}." if names else ""

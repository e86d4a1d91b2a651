"""Reasons that people gave for a decision, and which of them repeat a text, a name or a number of an erased row.

Records are signed, and each contains the hash of the one before it. So a reason stays in its record, and is named.
"""

import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex
import yaml

from ft_pipeline.erasure.file_kinds import files_of
from ft_pipeline.erasure.near_copies import Words
from ft_pipeline.settings.bounded_yaml import load_bounded
from ft_pipeline.store.checked_json import parse_checked
from ft_pipeline.store.journal_lines import unverified_statement
from ft_pipeline.store.signing import BadSignature
from ft_pipeline.store.text_redaction import ErasedTexts
from ft_pipeline.tables.dedup.tokens import NUMBER_DIGITS, words_of

_PIECE = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_NUMBER = regex.compile(r"\+?\d[\d\s()/.-]*\d")
"""Digits with what people write between them, such as a phone number."""
_MIN_LETTERS, _MIN_DIGITS = 3, 6


@dataclass(frozen=True)
class Reason:
    """A reason in a record."""

    file: str
    """Path of the record in the project."""
    text: str


def read_reasons(root: Path) -> tuple[list[Reason], list[str]]:
    """Return the reasons in all records of a project, and the paths of the records that cannot be read in full."""
    reasons: dict[Reason, None] = {}
    unread: dict[str, None] = {}
    for path, _ in files_of(root, "record"):
        file = path.relative_to(root).as_posix()
        content = path.read_bytes()
        for part in content.splitlines() if path.suffix == ".jsonl" else [content]:
            try:
                document = _document(part, path.suffix)
            except (ValueError, yaml.YAMLError, BadSignature):
                unread[file] = None
            else:
                reasons |= {Reason(file, text): None for text in _reasons_in(document)}
    return list(reasons), list(unread)


def _document(content: bytes, suffix: str) -> Any:
    """Return what is in a record, or in a line of a journal."""
    if suffix == ".jsonl":
        return unverified_statement(content)
    return load_bounded(content.decode("utf-8")) if suffix == ".yaml" else parse_checked(content, dict[str, Any])


def _reasons_in(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _reasons_in(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key == "reason" and isinstance(item, str):
                yield item
            yield from _reasons_in(item)


def telling_words(texts: Iterable[str]) -> dict[Words, str]:
    """Return the names and numbers in texts: by their words, how they are written.

    These are capitalized words, words of scripts without capital letters, and numbers with four digits. Of scripts
    without spaces, each two characters are one. Longer numbers are compared without the signs between their digits.
    """
    found: dict[Words, str] = {}
    for text in texts:
        text = unicodedata.normalize("NFKC", text)
        for piece in _PIECE.findall(text):
            words = words_of(piece)
            if len(words) > 1:
                found |= {words[at : at + 2]: "".join(words[at : at + 2]) for at in range(len(words) - 1)}
            elif words and _is_telling(piece):
                found[words] = piece
        for number in _NUMBER.findall(text):
            digits = "".join(filter(str.isdecimal, number))
            if len(digits) >= _MIN_DIGITS:
                found[(digits,)] = number
    return found


def _is_telling(piece: str) -> bool:
    digits = sum(map(str.isdecimal, piece))
    return digits >= NUMBER_DIGITS or (not digits and len(piece) >= _MIN_LETTERS and not piece.islower())


def describe_kept(file: str, repeated: str) -> str:
    """Return the note on a record whose reason repeats something of an erased row."""
    start = f"{file}: the reason repeats {repeated} of an erased row. "
    if file.endswith(".yaml"):
        return start + "Edit that reason; nothing else depends on it."
    return start + (
        "The record is chained or signed, so that it stays: `ft audit --verify` rejects an edited one. Limit who can "
        "read the store, and say in your answer to the request that these words stay."
    )


def repeated_in(reason: str, erased: ErasedTexts, telling: Collection[Words]) -> str | None:
    """Return what a reason repeats of the erased rows; None if it repeats nothing.

    telling: the names and numbers that no other row contains.
    """
    words = [written for name, written in telling_words([reason]).items() if name in telling]
    if words:
        return ", ".join(map(repr, words))
    return "a text" if erased.redact_text(reason) != reason else None

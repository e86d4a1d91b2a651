"""Reasons that people gave for a decision, and which of them repeat what identifies an erased row.

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
from ft_pipeline.erasure.near_copies import MIN_CONTAINED_CHARS, Words
from ft_pipeline.settings.bounded_yaml import load_bounded
from ft_pipeline.store.checked_json import parse_checked
from ft_pipeline.store.journal_lines import unverified_statement
from ft_pipeline.store.signing import BadSignature
from ft_pipeline.tables.dedup.tokens import CHARACTER, SIGN, tokens_of, words_of

_NUMBER = regex.compile(r"\d[\d\s()/.-]*\d")
"""Digits with what people write between them, such as a phone number."""
_MIN_DIGITS, _MIN_DIGITS_OF_PART, _MAX_GROUPS = 6, 8, 6
"""Of a number; of a part of one, such as a phone number without its prefix; and how many groups of digits it has."""
_ADDRESS = regex.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
"""An e-mail address."""
_WORD = r"\p{Lu}[\p{L}\p{M}'’-]*\p{Ll}[\p{L}\p{M}'’-]*"
"""A capitalized word that is no acronym."""
_BEGIN = r"(?<![\p{L}\p{M}\p{N}])(?<![\p{L}\p{M}\p{N}]['’-])"
_NAME = regex.compile(rf"{_BEGIN}{_WORD}(?=[^\S\n]+(?:\p{{Lu}}\.[^\S\n]*){{0,3}}({_WORD}))")
"""A capitalized word, and, as a group, the capitalized word after it. Initials may be between them."""
_MIN_RUN_WORDS = 6
"""Number of words in a row that are a part of a text, and no turn of phrase. They have MIN_CONTAINED_CHARS, too."""


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
    """Return what clearly identifies somebody, or is a part of a text: by its words, how a message names it.

    These are numbers with at least six digits, e-mail addresses, two capitalized words in a row (a name), and long runs
    of words. A single word never is: it may begin a sentence, or be an acronym.
    """
    found: dict[Words, str] = {}
    for text in texts:
        text = unicodedata.normalize("NFKC", text)
        found |= dict.fromkeys(_long_runs(text), "a text")
        found |= {words_of(address): repr(address) for address in _ADDRESS.findall(text)}
        names = (f"{match[0]} {match[1]}" for match in _NAME.finditer(text))
        found |= {words_of(name): repr(name) for name in names}
        for number in _NUMBER.findall(text):
            found |= {(digits,): repr(number) for digits in _significant_digits(number)}
    return found


def _long_runs(text: str) -> Iterator[Words]:
    """Yield the shortest long run of words from each word of a text."""
    tokens = [(token, 2 if kind == CHARACTER else len(token)) for token, kind in tokens_of(text) if kind != SIGN]
    for start in range(len(tokens) - _MIN_RUN_WORDS + 1):
        chars = 0
        for end in range(start + 1, len(tokens) + 1):
            chars += tokens[end - 1][1]
            if end - start >= _MIN_RUN_WORDS and chars >= MIN_CONTAINED_CHARS:
                yield tuple(token for token, _ in tokens[start:end])
                break


def _significant_digits(number: str) -> Iterator[str]:
    """Yield the digits of a number and of its long parts, without the zeros before them (0049 is +49)."""
    groups = regex.findall(r"\d+", number)
    for start in range(len(groups)):
        for end in range(start + 1, min(start + _MAX_GROUPS, len(groups)) + 1):
            digits = "".join(groups[start:end])
            is_whole = end - start in (1, len(groups))
            if len(digits) >= (_MIN_DIGITS if is_whole else _MIN_DIGITS_OF_PART):
                yield digits.lstrip("0")


def describe_kept(file: str, repeated: str) -> str:
    """Return the note on a record whose reason repeats something of an erased row."""
    start = f"{file}: the reason repeats {repeated} of an erased row. "
    if file.endswith(".yaml"):
        return start + "Edit that reason; nothing else depends on it."
    return start + (
        "The record is chained or signed, so that it stays: `ft audit --verify` rejects an edited one. Limit who can "
        "read the store, and say in your answer to the request that these words stay."
    )


def repeated_in(reason: str, telling: Collection[Words], ids: Iterable[str]) -> str | None:
    """Return what a reason repeats of the erased rows; None if it repeats nothing.

    telling: what identifies somebody (telling_words), and no other row contains. ids: the ids of the rows.
    """
    found = {written: None for words, written in telling_words([reason]).items() if words in telling}
    return ", ".join(found) or ("the id" if any(identity in reason for identity in ids) else None)

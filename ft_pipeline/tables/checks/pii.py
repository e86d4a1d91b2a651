"""Personal data in rows: counted and located for a warning. Its value is never printed."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PREFILTER = r"@|\+?[0-9(](?:[ .()/-]{0,2}[0-9]){7}|[A-Z]{2}[0-9]{2}"
"""RE2 pattern of texts that may contain one of the kinds below. Only these texts are searched in detail."""

_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}")
_CARD = re.compile(
    r"(?<![\w-])(?:(?:4\d{3}|(?:5[1-5]|2[2-7]|35|6[05])\d{2})(?:([ -]?)\d{4}\1\d{4}\1\d{4})"
    r"|3[47]\d{2}([ -]?)\d{6}\2\d{5})(?![\w-])"
)
"""The issuers' first digits and digit groups. A check digit decides, because order numbers are long digits too."""
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_PHONE = re.compile(
    r"(?<![\w+-])(?:\+\d{1,3}|\(?0\d{1,4}\)?|\(\d{3}\)|\d{3}(?=[ .-]\d{3}[ .-]\d{4}\b))(?:[ ./-]?\d{2,4}){2,5}(?![\w-])"
)


def find_kinds(text: str) -> list[str]:
    """Return which of pii_email, pii_card, pii_iban and pii_phone are in a text."""
    return [kind for kind, matches in _KINDS.items() if matches(text)]


def locate(texts: pa.Array, owners: np.ndarray) -> dict[str, list[int]]:
    """Return, for each kind, the rows (values of `owners`) whose texts contain it, each row once, ascending."""
    candidates = np.flatnonzero(pc.match_substring_regex(texts, PREFILTER).to_numpy(zero_copy_only=False))
    rows_by_kind: dict[str, set[int]] = {}
    for position in candidates.tolist():
        for kind in find_kinds(texts[position].as_py()):
            rows_by_kind.setdefault(kind, set()).add(int(owners[position]))
    return {kind: sorted(rows) for kind, rows in rows_by_kind.items()}


def find_values(text: str) -> set[str]:
    """Return the addresses and numbers in a text, as they are compared: without spaces and signs, in lower case."""
    values = {match[0].lower() for match in _EMAIL.finditer(text)} if "@" in text else set()
    for find in (_cards, _ibans, _phones):
        values |= {"".join(filter(str.isalnum, value)).lower() for value in find(text)}
    return values


def mask(text: str) -> tuple[str, list[str]]:
    """Return a text with the addresses and numbers in it replaced by their kind, and the kinds."""
    kinds = []
    for kind, find in _FOUND.items():
        for value in sorted(find(text), key=len, reverse=True):
            text = text.replace(value, f"[{kind.removeprefix('pii_')}]")
            kinds.append(kind)
    return text, list(dict.fromkeys(kinds))


def _cards(text: str) -> list[str]:
    found = [match[0] for match in _CARD.finditer(text)]
    return [card for card in found if _luhn([int(char) for char in card if char.isdigit()])]


def _luhn(digits: Sequence[int]) -> bool:
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return any(digits) and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _ibans(text: str) -> list[str]:
    return [match[0] for match in _IBAN.finditer(text) if _mod97(match[0].replace(" ", ""))]


def _mod97(iban: str) -> bool:
    digits = "".join(str(int(char, 36)) for char in iban[4:] + iban[:4])
    return 15 <= len(iban) <= 34 and int(digits) % 97 == 1


def _phones(text: str) -> list[str]:
    text = _IBAN.sub("#", _CARD.sub("#", text))  # their groups of digits look like phone numbers
    found = [match[0] for match in _PHONE.finditer(text)]
    return [phone for phone in found if 8 <= sum(char.isdigit() for char in phone) <= 15]


_KINDS: dict[str, Callable[[str], bool]] = {
    "pii_email": lambda text: "@" in text and _EMAIL.search(text) is not None,
    "pii_card": lambda text: bool(_cards(text)),
    "pii_iban": lambda text: bool(_ibans(text)),
    "pii_phone": lambda text: bool(_phones(text)),
}
_FOUND: dict[str, Callable[[str], list[str]]] = {
    "pii_email": lambda text: [match[0] for match in _EMAIL.finditer(text)],
    "pii_card": _cards,
    "pii_iban": _ibans,
    "pii_phone": _phones,
}
NAMES = {
    "pii_email": "an e-mail address",
    "pii_card": "a payment card number",
    "pii_iban": "an IBAN",
    "pii_phone": "a phone number",
}

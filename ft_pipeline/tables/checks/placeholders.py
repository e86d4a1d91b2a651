"""Warnings about placeholders in square brackets that were never filled in. No row is set aside for them."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

POSSIBLE_PLACEHOLDER = "possible_placeholder"
BRACKET = r"\[\pL"
"""RE2 pattern of texts that may hold one."""
_FIRST_WORDS = (
    "your|insert|enter|add|name|date|link|address|city|company|organi[sz]ation|customer|client|recipient|employee"
    "|agent|manager|product|order|invoice|phone|e-?mail|website"
)
_REST = r"(?:['’]s)?(?:[ /_-][a-z0-9 '’/_-]{0,40})?"
_PLACEHOLDER = re.compile(rf"\[(?:{_FIRST_WORDS}){_REST}\](?!\()", re.IGNORECASE)  # [text](address) is a link


def locate(texts: pa.Array, owners: np.ndarray) -> dict[str, list[int]]:
    """Return {possible_placeholder: the rows (values of `owners`) whose texts have one, ascending}, or {}."""
    bracketed = np.flatnonzero(pc.match_substring(texts, "[").to_numpy(zero_copy_only=False))
    rows = {int(owners[position]) for position in bracketed.tolist() if _PLACEHOLDER.search(texts[position].as_py())}
    return {POSSIBLE_PLACEHOLDER: sorted(rows)} if rows else {}


def message(count: int) -> str:
    """Return the text of the warning."""
    return f"{count:,} row(s) may hold a placeholder in square brackets, such as [Your Name]; they are used as they are"

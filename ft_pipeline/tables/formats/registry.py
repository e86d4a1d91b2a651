"""One parsed row into the columns of its format, or the fault that keeps it from being used. No value changes type.

What stands inside the strings (control tokens, placeholders, refusals) is judged afterwards, by the schemas.
"""

from typing import Any

from ft_pipeline.tables.excluded_rows import is_erasure_marker
from ft_pipeline.tables.formats.alpaca import convert_alpaca
from ft_pipeline.tables.formats.base import FORGOTTEN, Converter, Record
from ft_pipeline.tables.formats.preferences import convert_preferences
from ft_pipeline.tables.formats.sharegpt import convert_sharegpt
from ft_pipeline.tables.formats.text import convert_text
from ft_pipeline.tables.formats.unlabelled import convert_unlabelled
from ft_pipeline.tables.reading.describe import describe_value
from ft_pipeline.tables.reading.sidecar import PLAIN, Sidecar, rename
from ft_pipeline.tables.reason_codes import Fault

COLUMNS: dict[str, tuple[str, ...]] = {
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "sharegpt": ("messages",),
    "text": ("text",),
    "preferences": ("prompt_messages", "chosen", "rejected"),
    "unlabelled": ("messages",),
}
REQUIRED: dict[str, tuple[frozenset[str], ...]] = {
    "alpaca": (frozenset({"instruction", "output"}),),
    "sharegpt": (frozenset({"conversations"}), frozenset({"messages"})),
    "text": (frozenset({"text"}),),
    "preferences": (frozenset({"chosen", "rejected"}),),
    "unlabelled": (frozenset({"instruction"}), frozenset({"conversations"}), frozenset({"messages"})),
}
"""A file in which no row has one of these sets of keys is of another format."""
READ_KEYS: dict[str, frozenset[str]] = {
    "alpaca": frozenset({"instruction", "input", "output", "system", "history"}),
    "sharegpt": frozenset({"conversations", "messages"}),
    "text": frozenset({"text"}),
    "preferences": frozenset({"prompt", "chosen", "rejected", "conversations", "messages"}),
    "unlabelled": frozenset({"instruction", "input", "system", "history", "conversations", "messages"}),
}
"""The keys that are used; others are dropped and named once per file."""


def convert(data_format: str, value: Any, sidecar: Sidecar = PLAIN) -> Record | Fault:
    """The record of one row, its values in the order of COLUMNS[data_format], or its fault."""
    if isinstance(value, Fault):
        return value
    if not isinstance(value, dict):
        return Fault("wrong_type", f"the row is {describe_value(value)}; a row must be an object with named values")
    if is_erasure_marker(value):
        return FORGOTTEN
    if sidecar.columns:
        value = rename(value, sidecar)
    return CONVERTERS[data_format](value, sidecar)


CONVERTERS: dict[str, Converter] = {
    "alpaca": convert_alpaca,
    "sharegpt": convert_sharegpt,
    "text": convert_text,
    "preferences": convert_preferences,
    "unlabelled": convert_unlabelled,
}

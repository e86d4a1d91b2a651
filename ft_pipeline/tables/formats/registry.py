"""Converts one parsed row to the columns of its format, or returns the fault of the row. No value changes its type.

The schemas check the content of the strings (control tokens, placeholders, refusals) afterwards.
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
"""If no row of a file has one of these sets of keys, the file has another format."""
READ_KEYS: dict[str, frozenset[str]] = {
    "alpaca": frozenset({"instruction", "input", "output", "system", "history"}),
    "sharegpt": frozenset({"conversations", "messages"}),
    "text": frozenset({"text"}),
    "preferences": frozenset({"prompt", "chosen", "rejected", "conversations", "messages"}),
    "unlabelled": frozenset({"instruction", "input", "system", "history", "conversations", "messages"}),
}
"""The keys that are used. Other keys are dropped and listed once per file."""


def convert(data_format: str, value: Any, sidecar: Sidecar = PLAIN) -> Record | Fault:
    """The record of one row, with its values in the order of COLUMNS[data_format], or the fault of the row."""
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

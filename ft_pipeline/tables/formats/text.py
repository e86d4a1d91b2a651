"""Rows of raw text."""

from typing import Any

from ft_pipeline.tables.formats.base import Record, other_format
from ft_pipeline.tables.reading.describe import describe_empty, describe_value, missing_message
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty


def convert_text(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    if "text" not in value:
        return other_format(value, "text") or Fault("missing_text", missing_message(value, "text"))
    text = value["text"]
    if not isinstance(text, str):
        return Fault("wrong_type", f"`text` is {describe_value(text)}; it must be a text")
    return Fault("empty_text", f"`text` is {describe_empty(text)}; remove the row") if is_empty(text) else (text,)

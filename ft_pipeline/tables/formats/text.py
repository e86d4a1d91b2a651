"""Rows of raw text."""

from typing import Any

import pyarrow as pa

from ft_pipeline.tables.formats.arrow_schema import TAGS
from ft_pipeline.tables.formats.base import TAGS_FIELD, ArrowColumns, Column, Field, Format, Record
from ft_pipeline.tables.formats.comparison_texts import ComparisonTexts, as_large, normalise_all, text_scalar
from ft_pipeline.tables.reading.describe import describe_empty, describe_value, missing_message
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty


def convert_text(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    """Return the text, or the fault of the row."""
    if "text" not in value:
        return Fault("missing_text", missing_message(value, "text"))
    text = value["text"]
    if not isinstance(text, str):
        return Fault("wrong_type", f"`text` is {describe_value(text)}; it must be a text")
    return Fault("empty_text", f"`text` is {describe_empty(text)}; remove the row") if is_empty(text) else (text,)


def comparison_texts(columns: ArrowColumns) -> ComparisonTexts:
    """Return the whole text as the prompt."""
    text = as_large(columns["text"])
    nothing = pa.repeat(text_scalar(""), len(text))
    return ComparisonTexts(normalise_all(text), nothing, text, text, nothing, nothing)


FORMAT = Format(
    name="text",
    description="Raw text for continued pretraining.",
    raw_row="`text`",
    fields=(Field("text", "A passage"), TAGS_FIELD),
    columns=(Column("text", "A passage for continued pretraining", is_prompt=True), TAGS),
    required=(frozenset({"text"}),),
    signs=frozenset({"text"}),
    checks=("too_short",),
    convert=convert_text,
    comparison_texts=comparison_texts,
    is_optional=True,
)

"""ShareGPT rows: a list of turns that ends with an answer."""

from typing import Any

from ft_pipeline.tables.formats.arrow_schema import TAGS, TOOLS
from ft_pipeline.tables.formats.base import GROUP_FIELD, TAGS_FIELD, Format, Record
from ft_pipeline.tables.formats.conversation import (
    CONTEXT_KEYS,
    CONVERSATIONS,
    SYSTEM,
    TOOL_FIELDS,
    TURNS,
    messages_column,
    read_answered,
    turn_list,
)
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault


def convert_sharegpt(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    """Return the turns and tools of a row, or its fault."""
    raw = turn_list(value)
    return raw if isinstance(raw, Fault) else read_answered(value, raw, sidecar)


FORMAT = Format(
    name="sharegpt",
    description="Multi-turn conversations.",
    raw_row="`conversations`: list of `{from, value}`; common synonyms are mapped; optional `system`, `tools`",
    fields=(CONVERSATIONS, TURNS, SYSTEM, *TOOL_FIELDS, GROUP_FIELD, TAGS_FIELD),
    columns=(messages_column("conversations", "messages", *sorted(CONTEXT_KEYS)), TOOLS, TAGS),
    required=(frozenset({"conversations"}), frozenset({"messages"})),
    signs=frozenset({"conversations"}),
    precedence=(("conversations", frozenset({"messages"})),),
    checks=("too_long", "echoed_turn"),
    convert=convert_sharegpt,
)

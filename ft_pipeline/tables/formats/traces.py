"""Traces: documents of request logs and tracers, each of which holds calls of models."""

from typing import Any

from ft_pipeline.tables.formats.arrow_schema import TAGS, TOOLS
from ft_pipeline.tables.formats.base import TAGS_FIELD, Column, Field, Format, Record
from ft_pipeline.tables.formats.conversation import TURNS, messages_column, read_answered, turn_list
from ft_pipeline.tables.reading.describe import describe_value
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.traces.documents import collect_feedback, pairs_of, rows_of, thumbs_of


def convert_call(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    """Return the turns, tools and session of a call, or its fault."""
    raw = turn_list(value)
    if isinstance(raw, Fault):
        return raw
    session = value.get("session")
    if not isinstance(session, str | None):
        return Fault("wrong_type", f"`session` is {describe_value(session)}; it must be a text")
    conversation = read_answered(value, raw, sidecar, may_repeat=True)
    return conversation if isinstance(conversation, Fault) else (*conversation, session or None)


FORMAT = Format(
    name="traces",
    description="Calls of models in production, as conversations.",
    raw_row="a document of a request log or a tracer; docs/traces.md lists them",
    fields=(
        TURNS,
        Field("tools", "The declared tools"),
        Field("session", "What all calls of one conversation have in common"),
        Field("call_id", "The id by which feedback names the call"),
        TAGS_FIELD,
    ),
    columns=(
        messages_column("messages", "tools"),
        TOOLS,
        Column("session", "What all calls of one conversation have in common, or null", nullable=True),
        TAGS,
    ),
    required=(frozenset({"messages"}),),
    checks=("too_long", "echoed_turn"),
    convert=convert_call,
    is_optional=True,
    expand={"traces": rows_of, "preferences": pairs_of, "feedback": thumbs_of},
    prepare=collect_feedback,
    group_column="session",
    has_threads=True,
    min_rows=1,
)

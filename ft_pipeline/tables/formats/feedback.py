"""Feedback rows: an answer of a model, and the thumb that a person gave it."""

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.formats.arrow_schema import MESSAGES, TAGS, TOOLS
from ft_pipeline.tables.formats.base import TAGS_FIELD, ArrowColumns, Column, Field, Format, Record
from ft_pipeline.tables.formats.chat import prompt_and_completion
from ft_pipeline.tables.formats.comparison_texts import (
    ComparisonTexts,
    join_texts,
    text_scalar,
    views_of_messages,
    with_tools,
)
from ft_pipeline.tables.formats.conversation import (
    CONTEXT_KEYS,
    CONVERSATIONS,
    SYSTEM,
    TOOL_FIELDS,
    TURNS,
    read_conversation,
    turn_list,
)
from ft_pipeline.tables.formats.preferences import answer_texts, prompt_texts, with_answers
from ft_pipeline.tables.reading.describe import describe_empty, describe_value, missing_message
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty

LABELS = ("label", "rating", "kto_tag")
"""The keys of the thumb; the first one that a row has is read."""
_UP = frozenset(
    {"up", "thumbsup", "thumbup", "👍", "true", "1", "1.0", "+1", "yes", "y"}
    | {"good", "like", "liked", "positive", "desirable"}
)
_DOWN = frozenset(
    {"down", "thumbsdown", "thumbdown", "👎", "false", "0", "0.0", "-1", "-1.0", "no", "n"}
    | {"bad", "dislike", "disliked", "negative", "undesirable"}
)
_BETWEEN_LETTERS = re.compile(r"(?<=[a-z])[ _-]+(?=[a-z])")
_SHADES = re.compile("[\ufe0f\U0001f3fb-\U0001f3ff]")
"""What may follow an emoji: its style, or a skin tone."""


def convert_feedback(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    """Return (prompt messages, answer, whether it was good, tools), or the fault of the row. Prompt and answer are
    lists of turns, the tools JSON text or None."""
    is_good = _read_label(value)
    if isinstance(is_good, Fault):
        return is_good
    has_turns = "messages" in value or "conversations" in value or "prompt" not in value
    raw = turn_list(value) if has_turns else prompt_and_completion(value)
    if isinstance(raw, Fault):
        return raw
    conversation = read_conversation(value, raw, sidecar, last="assistant", may_repeat=True)
    if isinstance(conversation, Fault):
        return conversation
    # Only the answer that was rated is trained, whatever the weights of turns are.
    turns = [{key: item for key, item in turn.items() if key != "weight"} for turn in conversation[0]]
    return turns[:-1], turns[-1:], is_good, conversation[1]


def _read_label(value: dict[str, Any]) -> bool | Fault:
    name = next((name for name in LABELS if name in value), None)
    if name is None:
        return Fault("missing_label", missing_message(value, LABELS[0]))
    label = value[name]
    if label is None or (isinstance(label, str) and is_empty(label)):
        return Fault("unrated", f"`{name}` is {describe_empty(label)}: nobody rated the answer")
    thumb = _thumb(label)
    if thumb is None:
        return Fault("unknown_label", f"`{name}` is {describe_value(label)}, which is no thumb; write true or false")
    return thumb


def _thumb(label: Any) -> bool | None:
    """Return whether a label is a thumb up; None if it is no thumb."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if not isinstance(label, bool | int | str):
        return None
    word = _SHADES.sub("", _BETWEEN_LETTERS.sub("", str(label).strip().casefold()))
    return True if word in _UP else False if word in _DOWN else None


def comparison_texts(columns: ArrowColumns) -> ComparisonTexts:
    """Return the comparison texts of feedback. The words of an answer that was bad are marked, so that the two thumbs
    of different people on one answer are no duplicates."""
    views = views_of_messages(with_answers(columns["prompt_messages"], columns["completion"]))
    is_good = columns["label"]
    answers, spoken = (
        pc.if_else(is_good, texts, join_texts(text_scalar(""), pc.replace_substring(texts, " ", " \x1e"), "\x1e"))
        for texts in (views.answers, views.spoken)
    )
    exact = join_texts(views.exact, pc.if_else(is_good, text_scalar("up"), text_scalar("down")), "\x1f")
    return with_tools(ComparisonTexts(views.prompts, answers, exact, views.asked, spoken), columns["tools"])


def normalized_thumbs(table: pa.Table) -> list[tuple[str, str, str]]:
    """Return (prompt, answer, "") of each row, normalized, or (prompt, "", answer) if it was bad. So two people who
    disagree on an answer contradict each other as two pairs do that prefer different answers."""
    answers, labels = answer_texts(table["completion"].combine_chunks()), table["label"].to_pylist()
    rated = zip(prompt_texts(table["prompt_messages"].combine_chunks()), answers, labels, strict=True)
    return [(prompt, answer, "") if is_good else (prompt, "", answer) for prompt, answer, is_good in rated]


_TURN_KEYS = ("conversations", "messages", "prompt", "completion")
FORMAT = Format(
    name="feedback",
    description="An answer, and whether a person found it good.",
    raw_row="`prompt` and `completion`, or `messages` that end with the answer; `label`: `true` or `false`",
    fields=(
        CONVERSATIONS,
        TURNS,
        Field("prompt", "The question, or the turns before the answer", has_turns=True),
        Field("completion", "The answer to `prompt`", has_turns=True),
        *(Field(name, "The thumb: true or false, up or down, 1 or -1 (0)") for name in LABELS),
        SYSTEM,
        *TOOL_FIELDS,
        TAGS_FIELD,
    ),
    columns=(
        Column(
            "prompt_messages",
            "The turns before the answer; the last one is the user's, or the result of a call",
            MESSAGES,
            sources=(*_TURN_KEYS, *sorted(CONTEXT_KEYS)),
            is_prompt=True,
        ),
        # Not `is_answer`: what an answer to learn must not be, such as a stock refusal, is what people rate down.
        Column("completion", "The answer: one assistant turn", MESSAGES, sources=_TURN_KEYS),
        Column("label", "true: a person found the answer good; false: bad", pa.bool_(), sources=LABELS),
        TOOLS,
        TAGS,
    ),
    required=(frozenset({"completion"}), frozenset({"messages"}), frozenset({"conversations"})),
    precedence=(
        *((key, frozenset({"prompt", "completion"})) for key in ("conversations", "messages")),
        ("conversations", frozenset({"messages"})),
        ("label", frozenset(LABELS[1:])),
        ("rating", frozenset(LABELS[2:])),
    ),
    checks=("too_long",),
    convert=convert_feedback,
    comparison_texts=comparison_texts,
    pair_texts=normalized_thumbs,
    contradiction="contradicting_feedback",
    also_reads=("traces",),
    is_optional=True,
)

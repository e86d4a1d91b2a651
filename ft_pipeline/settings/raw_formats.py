"""What settings and the readers of files must know of each format of raw rows, a line per format. The rest is in
`tables/formats/`, a module per format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

THEIR_ANSWERS = {
    "chosen": ("preferred_output", "preferred_completion", "chosen_messages"),
    "rejected": ("non_preferred_output", "non_preferred_completion", "rejected_messages"),
}
"""OpenAI's names of the two answers, the older ones, and those of LLaMA-Factory v1. No column is mapped to them."""
_THEIR_KEYS = frozenset[str]().union(*THEIR_ANSWERS.values())


@dataclass(frozen=True)
class RawFormat:
    """The keys by which its rows are recognized, and what they become."""

    main_keys: frozenset[str]
    """A row with none of these keys may have another format."""
    other_names: frozenset[str] = frozenset()
    """Further keys of a row. These and the main keys are names that `columns` of a sidecar may map to."""
    is_conversational: bool = False
    """Whether the rows become conversations."""


def _format(main_keys: str, other_names: str = "", *, is_conversational: bool = False) -> RawFormat:
    return RawFormat(frozenset(main_keys.split()), frozenset(other_names.split()), is_conversational=is_conversational)


RAW_FORMATS: Mapping[str, RawFormat] = {
    "alpaca": _format("instruction output", "input system history", is_conversational=True),
    "sharegpt": _format("conversations messages", is_conversational=True),
    "chat": _format("messages prompt completion", is_conversational=True),
    "traces": _format("messages", is_conversational=True),
    "text": _format("text"),
    "preferences": RawFormat(_THEIR_KEYS | {"prompt", "chosen", "rejected"}),
    "feedback": _format("conversations messages prompt completion", "label"),
    "unlabelled": _format("instruction conversations messages", "reference"),
}
"""Name of the format, its folder and its module → keys, in the order in which formats are shown."""
CONVERSATIONAL = tuple(name for name, raw in RAW_FORMATS.items() if raw.is_conversational)
"""The names of the formats whose rows become conversations."""
MAIN_KEYS = frozenset[str]().union(*(raw.main_keys for raw in RAW_FORMATS.values()))
"""The main keys of the rows of all formats."""
TARGET_COLUMNS = (
    frozenset({"tools", "tags"}).union(
        {"from", "value", "role", "content", "reasoning_content", "weight", "tool_calls", "tool_call_id", "name"},
        *(raw.main_keys | raw.other_names for raw in RAW_FORMATS.values()),
    )
    - _THEIR_KEYS
)
"""The names that `columns` of a sidecar may map to, those of a turn included."""

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(RAW_FORMATS)]

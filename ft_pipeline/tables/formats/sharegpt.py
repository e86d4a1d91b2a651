"""ShareGPT rows: a list of turns that ends with an answer."""

from typing import Any

from ft_pipeline.tables.formats.base import Record, other_format
from ft_pipeline.tables.formats.turns import check_order, read_turns
from ft_pipeline.tables.reading.describe import describe_value, missing_message
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault


def convert_sharegpt(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    raw = turn_list(value, "sharegpt")
    if isinstance(raw, Fault):
        return raw
    turns = read_turns(raw, sidecar)
    if isinstance(turns, Fault):
        return turns
    fault = check_order(turns, last="assistant")
    return fault or (turns,)


def turn_list(value: dict[str, Any], data_format: str) -> list[Any] | Fault:
    name = "conversations" if "conversations" in value else "messages"
    if name not in value:
        return other_format(value, data_format) or Fault(
            "missing_conversations", missing_message(value, "conversations")
        )
    turns = value[name]
    if turns is None or turns == []:
        return Fault(
            "empty_conversation", f"`{name}` is {'null' if turns is None else 'an empty list'}; remove the row"
        )
    if not isinstance(turns, list):
        return Fault("wrong_type", f"`{name}` is {describe_value(turns)}; it must be a list of turns")
    return turns

"""Lists of turns: the order of their roles, and their texts. read_turns.py reads them."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import normalise

_SPEAKER = {"user": "the human's", "assistant": "the model's", "tool": "a tool's", "system": "the system's"}
_MAY_FOLLOW = {"user": {"assistant", "tool"}, "assistant": {"user", "tool"}, "tool": {"tool", "assistant"}}

Message = dict[str, Any]
"""A turn as in arrow_schema.MESSAGES: role (user, assistant, system, tool), content, and the other keys that it has."""


def check_order(messages: list[Message], last: str, *, may_repeat: bool = False) -> Fault | None:
    """Return the fault in the order of the turns, or None.

    The order is [system], then human and model alternately, the human first. `last` (user or assistant) is the role of
    the last turn; a prompt may also end with the result of a call. Tool turns may come between a human turn and a model
    turn, or between two model turns. may_repeat: the human may have several turns in a row, as providers allow.
    """
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        return Fault("system_not_first", f"turn {roles.index('system', 1) + 1} is a system turn; move it to the front")
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken:
        return Fault("empty_conversation", "there is no turn but the system's; remove the row")
    before = len(roles) - len(spoken)
    if spoken[0] != "user":
        return Fault(
            "first_turn_not_human", f"turn {before + 1} is {_SPEAKER[spoken[0]]}; the human must speak first: remove it"
        )
    for position in range(1, len(spoken)):
        if may_repeat and spoken[position] == spoken[position - 1] == "user":
            continue
        if spoken[position] not in _MAY_FOLLOW[spoken[position - 1]]:
            return Fault("non_alternating", _out_of_turn(before + position, spoken[position - 1], spoken[position]))
    if spoken[-1] != last and not (last == "user" and spoken[-1] == "tool"):
        last_speaker = f"the last turn is {_SPEAKER[spoken[-1]]}"
        if last == "user":
            return Fault("last_turn_not_human", f"{last_speaker}; a prompt must end with the human: remove it")
        return Fault("last_turn_not_gpt", f"{last_speaker}; there is no answer to learn: add one, or remove the turn")
    return None


def _out_of_turn(number: int, role: str, next_role: str) -> str:
    if role == next_role:
        return f"turns {number} and {number + 1} are both {_SPEAKER[role]}; join them, or remove one"
    return f"turn {number + 1} is {_SPEAKER[next_role]} and comes after {_SPEAKER[role]}; the model must answer first"


def echoes(messages: list[Message]) -> bool:
    """Return whether a model turn repeats the human turn before it.

    In conversations of more than two turns, a repetition of one or two words (a greeting) is allowed.
    """
    spoken = [message for message in messages if message["role"] in ("user", "assistant")]
    for human, model in itertools.pairwise(spoken):
        if human["role"] != "user" or model["role"] != "assistant":
            continue
        human_text = normalise(human["content"])
        if human_text == normalise(model["content"]) and (len(spoken) == 2 or human_text.count(" ") >= 2):
            return True
    return False


def plain(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return turns read from a table without the keys that are null (Parquet stores a missing key as null)."""
    return [
        {key: plain(item) if key == "tool_calls" else item for key, item in message.items() if item is not None}
        for message in messages
    ]


def is_trained(message: Mapping[str, Any]) -> bool:
    """Return whether a turn is an answer that is trained, and not one that is only shown."""
    return message["role"] == "assistant" and message.get("weight") != 0


def spoken_text(message: Mapping[str, Any]) -> str:
    """Return the text of a turn, and on a line each the name and arguments of the tools that it calls."""
    calls = [f"{call['name']} {call['arguments']}" for call in message.get("tool_calls") or ()]
    return "\n".join([message["content"], *calls] if message["content"] else calls)


def searchable_texts(message: Mapping[str, Any]) -> list[str]:
    """Return the texts of a turn that a person would search for: content, reasoning, and each text in the arguments of
    calls, as it reads outside JSON."""
    texts = [message["content"], message.get("reasoning_content")]
    for call in message.get("tool_calls") or ():
        texts += strings_in_json(call["arguments"])
    return [text for text in texts if text]


def strings_in_json(text: str) -> list[str]:
    """Return the strings in a JSON text except keys; none if it is not JSON."""
    try:
        return list(strings_in(json.loads(text)))
    except (ValueError, RecursionError):
        return []


def strings_in(value: Any) -> Iterator[str]:
    """Yield every string in a value, except the keys of mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_in(item)


def texts_of_turn(message: Mapping[str, Any]) -> list[str]:
    """Return every text of a turn but its role. A model reads all of them; the arguments of a call are JSON text."""
    calls = [call.get(key) for call in message.get("tool_calls") or () for key in ("id", "name", "arguments")]
    texts = [message.get(key) for key in ("content", "reasoning_content", "tool_call_id", "name")]
    return [text for text in (*texts, *calls) if text is not None]

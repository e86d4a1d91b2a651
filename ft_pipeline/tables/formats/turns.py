"""Lists of turns: the order of their roles, and their texts. read_turns.py reads them."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ft_pipeline.tables.reason_codes import Fault

_SPEAKER = {"user": "the human's", "assistant": "the model's", "tool": "a tool's", "system": "the system's"}
ROLES = tuple(_SPEAKER)
_MAY_FOLLOW = {"user": {"assistant", "tool"}, "assistant": {"user", "tool"}, "tool": {"assistant"}}
_TEXTS = ("content", "reasoning_content")

Message = dict[str, Any]
"""A turn as in arrow_schema.MESSAGES: role (user, assistant, system, tool), content, and the other keys that it has."""


def in_order(
    messages: list[Message], last: str, allow: Collection[str], *, may_repeat: bool = False
) -> list[Message] | Fault:
    """Return the turns, with an answer that is two turns as one; or the fault in their order.

    The order is [system], then human and model alternately, the human first. `last` (user or assistant) is the role of
    the last turn; a prompt may also end with the result of a call. Tool turns may come between a human turn and a model
    turn, or between two model turns. The text of an answer and its calls may be two turns. may_repeat: the human may
    have several turns in a row, as providers allow. allow: the codes that the sidecar allows.
    """
    return _fault_of_order(messages, last, allow, may_repeat) or _joined(messages)


def _fault_of_order(messages: list[Message], last: str, allow: Collection[str], may_repeat: bool) -> Fault | None:
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        return Fault("system_not_first", f"turn {roles.index('system', 1) + 1} is a system turn; move it to the front")
    spoken = messages[1:] if roles[:1] == ["system"] else messages
    if not spoken:
        return Fault("empty_conversation", "there is no turn but the system's; remove the row")
    before = len(messages) - len(spoken)
    first, final = spoken[0]["role"], spoken[-1]["role"]
    if first != "user":
        return Fault(
            "first_turn_not_human", f"turn {before + 1} is {_SPEAKER[first]}; the human must speak first: remove it"
        )
    for number, (turn, follower) in enumerate(pairwise(spoken), before + 1):
        if "non_alternating" not in allow and not _may_follow(turn, follower, may_repeat):
            return Fault("non_alternating", _out_of_turn(number, turn["role"], follower["role"]))
    if final != last and not (last == "user" and final == "tool"):
        last_speaker = f"the last turn is {_SPEAKER[final]}"
        if last == "user":
            return Fault("last_turn_not_human", f"{last_speaker}; a prompt must end with the human: remove it")
        return Fault("last_turn_not_gpt", f"{last_speaker}; there is no answer to learn: add one, or remove the turn")
    return None


def _may_follow(turn: Message, follower: Message, may_repeat: bool) -> bool:
    if turn["role"] != follower["role"]:
        return follower["role"] in _MAY_FOLLOW[turn["role"]]
    if turn["role"] == "assistant":
        return bool(follower.get("tool_calls")) and not turn.get("tool_calls")
    return turn["role"] == "tool" or may_repeat


def _out_of_turn(number: int, role: str, next_role: str) -> str:
    allow = "or allow it: `allow: [non_alternating]` in a sidecar"
    if role == next_role:
        return f"turns {number} and {number + 1} are both {_SPEAKER[role]}; join them, or remove one; {allow}"
    first = f"turn {number + 1} is {_SPEAKER[next_role]} and comes after {_SPEAKER[role]}"
    return f"{first}; the model must answer first; {allow}"


def _joined(messages: list[Message]) -> list[Message]:
    """Return the turns with model turns in a row as one, which is trained if one of them is: no answer is lost."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"] == "assistant":
            texts = {key: [turn[key] for turn in (joined[-1], message) if turn.get(key)] for key in _TEXTS}
            is_answer = is_trained(joined[-1]) or is_trained(message)
            joined[-1] = {**joined[-1], **message, **{key: "\n".join(parts) for key, parts in texts.items() if parts}}
            if is_answer:
                joined[-1].pop("weight", None)
        else:
            joined.append(message)
    return joined


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

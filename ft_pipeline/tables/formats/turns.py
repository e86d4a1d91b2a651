"""Lists of turns: their roles, their texts and the order of the roles."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ft_pipeline.tables.reading.describe import describe_keys, describe_value, shorten
from ft_pipeline.tables.reading.sidecar import Sidecar, rename
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty, normalise

ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""The roles that need no sidecar, and the roles that they become. Case-sensitive."""
TARGETS: Mapping[str, str] = {"human": "user", "gpt": "assistant", "system": "system", "tool": "tool"}
"""The roles that a sidecar may map to, and the roles that they become."""
READ_KEYS = frozenset({"from", "role", "value", "content", "reasoning_content", "weight"})
"""The turn keys that are used. Other keys are dropped and listed once per file."""
_CALLS = ("tool_calls", "function_call")
_SPEAKER = {"user": "the human's", "assistant": "the model's", "tool": "a tool's", "system": "the system's"}
_MAY_FOLLOW = {"user": {"assistant", "tool"}, "assistant": {"user", "tool"}, "tool": {"tool", "assistant"}}

Message = dict[str, Any]
"""A turn as in arrow_schema.MESSAGES: role (user, assistant, system, tool), content, and the other keys that it has."""


def read_turns(raw: list[Any], sidecar: Sidecar) -> list[Message] | Fault:
    """Return turns with any of the common key names as {role, content[, reasoning_content, weight]}; or the first
    fault."""
    roles = {**ROLES, **{source: TARGETS[target] for source, target in sidecar.roles.items()}}
    messages: list[Message] = []
    for number, turn in enumerate(raw, 1):
        if not isinstance(turn, dict):
            return Fault(
                "wrong_type", f"turn {number} is {describe_value(turn)}; it must be an object with `from` and `value`"
            )
        if sidecar.columns:
            turn = rename(turn, sidecar)
        message = _read_turn(turn, number, roles)
        if isinstance(message, Fault):
            return message
        messages.append(message)
    return messages


def _read_turn(turn: dict[str, Any], number: int, roles: Mapping[str, str]) -> Message | Fault:
    for name in _CALLS:
        if turn.get(name):
            return Fault(
                "unsupported_shape", f"turn {number} has `{name}`, which is not read; write the call as the turn's text"
            )
    speaker = _first(turn, "from", "role")
    if speaker is None:
        return Fault(
            "missing_from",
            f"turn {number} has no `from`; it has {describe_keys(turn)}",
        )
    if not isinstance(speaker, str):
        return Fault("wrong_type", f"`from` of turn {number} is {describe_value(speaker)}; it must be a text")
    text = _first(turn, "value", "content")
    if text is None:
        return Fault(
            "missing_value",
            f"turn {number} has no `value`; it has {describe_keys(turn)}",
        )
    if not isinstance(text, str):
        return Fault("wrong_type", f"`value` of turn {number} is {describe_value(text)}; it must be a text")
    if speaker not in roles:
        return Fault(
            "unknown_role",
            f"turn {number} has the role {shorten(speaker)}; known are human, gpt, system. A sidecar can map it: "
            f"`roles: {{{_yaml_key(speaker)}: {_guess(speaker)}}}` (human, gpt, system or tool)",
        )
    if is_empty(text):
        return Fault("empty_value", f"turn {number} ({speaker}) is empty; write it, or remove the row")
    message: Message = {"role": roles[speaker], "content": text}
    return _with_model_keys(message, turn, number) if roles[speaker] == "assistant" else message


def _with_model_keys(message: Message, turn: dict[str, Any], number: int) -> Message | Fault:
    """Add the keys that only a model's turn has, or return the fault in them."""
    thoughts, weight = turn.get("reasoning_content"), turn.get("weight")
    if not isinstance(thoughts, str | None):
        return Fault(
            "wrong_type", f"`reasoning_content` of turn {number} is {describe_value(thoughts)}; it must be a text"
        )
    if thoughts is not None and not is_empty(thoughts):
        message["reasoning_content"] = thoughts
    if weight is None:
        return message
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        return Fault(
            "wrong_type",
            f"`weight` of turn {number} is {describe_value(weight)}; it must be 0 (shown, not trained) or 1",
        )
    if 0 < weight < 1:
        return Fault(
            "unsupported_shape",
            f"turn {number} has the weight {weight:g}; only 0 (shown, not trained) and 1 are read",
        )
    return message if weight else {**message, "weight": 0.0}


def _guess(speaker: str) -> str:
    """Return the most likely target of an unknown role."""
    role = ROLES.get(speaker.lower())
    if role is None:
        role = "tool" if any(word in speaker.lower() for word in ("tool", "func", "observ")) else "assistant"
    return next(ours for ours, mapped in TARGETS.items() if mapped == role)


def _yaml_key(name: str) -> str:
    return name if name.replace("_", "").isalnum() else shorten(name)


def _first(turn: dict[str, Any], *names: str) -> Any:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def check_order(messages: list[Message], last: str) -> Fault | None:
    """Return the fault in the order of the turns, or None.

    The order is [system], then human and model alternately, the human first. `last` (user or assistant) is the role of
    the last turn. Tool turns may come between a human turn and a model turn, or between two model turns.
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
        if spoken[position] not in _MAY_FOLLOW[spoken[position - 1]]:
            return Fault("non_alternating", _out_of_turn(before + position, spoken[position - 1], spoken[position]))
    if spoken[-1] != last:
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

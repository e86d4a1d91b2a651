"""Lists of turns: who speaks, what is said, and in which order that may happen."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.tables.codes import Fault
from ft_pipeline.tables.parsing import shorten
from ft_pipeline.tables.sidecar import Sidecar
from ft_pipeline.tables.text import is_empty, normalise

ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""The roles that need no sidecar, and what they become. Case counts."""

Message = dict[str, str]


def read_turns(raw: list[Any], sidecar: Sidecar) -> list[Message] | Fault:
    """Turns of any of the common spellings as {role, content}, or the first fault."""
    roles = {**ROLES, **{theirs: ROLES[ours] for theirs, ours in sidecar.roles.items()}}
    messages: list[Message] = []
    for number, turn in enumerate(raw, 1):
        if not isinstance(turn, dict):
            return Fault("wrong_type", f"turn {number} is no object with `from` and `value`")
        if sidecar.columns:
            turn = {sidecar.columns.get(name, name): item for name, item in turn.items()}
        message = _read_turn(turn, number, roles)
        if isinstance(message, Fault):
            return message
        messages.append(message)
    return messages


def _read_turn(turn: dict[str, Any], number: int, roles: Mapping[str, str]) -> Message | Fault:
    speaker = _first(turn, "from", "role")
    if speaker is None:
        return Fault("missing_from", f"turn {number} has no `from`")
    if not isinstance(speaker, str):
        return Fault("wrong_type", f"`from` of turn {number} is no text")
    text = _first(turn, "value", "content")
    if text is None:
        return Fault("missing_value", f"turn {number} has no `value`")
    if not isinstance(text, str):
        return Fault("wrong_type", f"`value` of turn {number} is no text")
    if speaker not in roles:
        known = "human, gpt, system"
        return Fault(
            "unknown_role", f"turn {number} has the role {shorten(speaker)}; known: {known}; a sidecar can map it"
        )
    if is_empty(text):
        return Fault("empty_value", f"turn {number} is empty")
    return {"role": roles[speaker], "content": text}


def _first(turn: dict[str, Any], *names: str) -> Any:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def check_order(messages: list[Message], last: str) -> Fault | None:
    """[system], then human and model in turn, the human first; `last` (user or assistant) says who must end."""
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        return Fault(
            "system_not_first", f"turn {roles.index('system', 1) + 1} is a system turn; only the first may be one"
        )
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken:
        return Fault("empty_conversation", "there is no turn but the system's")
    if spoken[0] != "user":
        return Fault("first_turn_not_human", "the first turn is the model's")
    before = len(roles) - len(spoken)
    for at in range(1, len(spoken)):
        if spoken[at] == spoken[at - 1]:
            return Fault("non_alternating", f"turns {before + at} and {before + at + 1} have the same role")
    if spoken[-1] != last:
        if last == "user":
            return Fault("last_turn_not_human", "the last turn is the model's; a prompt must end with the human")
        return Fault("last_turn_not_gpt", "the last turn is the human's; there is no answer to learn")
    return None


def human_turns(messages: list[Message]) -> list[str]:
    """The texts of the human, in order."""
    return [message["content"] for message in messages if message["role"] == "user"]


def echoes(messages: list[Message]) -> bool:
    """Whether a model turn repeats the human turn before it. Greetings of one or two words may, in a longer talk."""
    spoken = [message for message in messages if message["role"] != "system"]
    for human, model in zip(spoken[::2], spoken[1::2], strict=False):
        said = normalise(human["content"])
        if said == normalise(model["content"]) and (len(spoken) == 2 or said.count(" ") >= 2):
            return True
    return False

"""Preference rows: three texts, or two lists of turns with a common prompt."""

from typing import Any

from ft_pipeline.tables.formats.base import Record, other_format
from ft_pipeline.tables.formats.turns import Message, check_order, read_turns
from ft_pipeline.tables.reading.describe import describe_empty, describe_value, missing_message, shorten
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty

Pair = tuple[list[Message], list[Message], list[Message]]


def convert_pair(value: dict[str, Any], sidecar: Sidecar) -> Pair | Fault:
    """(prompt messages, chosen message, rejected message), each a list of messages."""
    for side in ("chosen", "rejected"):
        if side not in value:
            return Fault(f"missing_{side}", missing_message(value, side))
    prompt, chosen, rejected = value.get("prompt"), value["chosen"], value["rejected"]
    if prompt is None and (names := [name for name in ("conversations", "messages") if name in value]):
        return _needs_sidecar(names[0])
    if prompt is None and "prompt" in value and "prompt" in sidecar.columns.values():
        return Fault("empty_prompt", "`prompt` is null; write it, or remove the row")
    if isinstance(prompt, list):
        if "prompt" not in sidecar.columns.values():
            return _needs_sidecar("prompt")
        return _common_prompt_given(prompt, chosen, rejected, sidecar)
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _turn_lists(prompt, chosen, rejected, sidecar)
    if isinstance(chosen, dict) and isinstance(rejected, dict):
        return Fault(
            "unsupported_shape",
            "single turns as `chosen` and `rejected` need a prompt of turns, and `prompt` is "
            f"{describe_value(prompt)}; give the turns before the answer, and a sidecar that maps them: "
            "`columns: {THEIRS: prompt}`",
        )
    return _strings(value, prompt, chosen, rejected)


def _needs_sidecar(name: str) -> Fault:
    how = f"`columns: {{{name}: prompt}}`"
    return Fault("unsupported_shape", f"`{name}` holds the turns before the answer; a sidecar must say so: {how}")


def _difference(first: list[Message], second: list[Message]) -> str:
    """The message that says where the prompts of the two sides differ."""
    if len(first) != len(second):
        return f"`chosen` has {len(first)} turns before its answer and `rejected` {len(second)}; they must be the same"
    position = next(number for number, (left, right) in enumerate(zip(first, second, strict=True)) if left != right)
    left, right = (shorten(side[position]["content"]) for side in (first, second))
    return f"turn {position + 1} is {left} in `chosen` and {right} in `rejected`; both must answer one prompt"


def _strings(value: dict[str, Any], prompt: Any, chosen: Any, rejected: Any) -> Pair | Fault:
    for name, item in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if item is not None and not isinstance(item, str):
            return Fault(
                "wrong_type",
                f"`{name}` is {describe_value(item)}; all three must be texts, or both answers lists of turns",
            )
    if "prompt" not in value:
        return Fault("missing_prompt", missing_message(value, "prompt"))
    for name, item in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if item is None or is_empty(item):
            return Fault(f"empty_{name}", f"`{name}` is {describe_empty(item)}; write it, or remove the row")
    return [{"role": "user", "content": prompt}], _answer(chosen), _answer(rejected)


def _turn_lists(prompt: Any, chosen: list[Any], rejected: list[Any], sidecar: Sidecar) -> Pair | Fault:
    if prompt is not None and not isinstance(prompt, str):
        return Fault(
            "wrong_type", f"`prompt` is {describe_value(prompt)}; beside lists of turns it is a text, or left out"
        )
    sides: list[list[Message]] = []
    for name, raw in (("chosen", chosen), ("rejected", rejected)):
        messages = _side(name, raw, sidecar)
        if isinstance(messages, Fault):
            return messages
        sides.append(messages)
    if sides[0][:-1] != sides[1][:-1]:
        return Fault("prompt_mismatch", _difference(sides[0][:-1], sides[1][:-1]))
    common = sides[0][:-1]
    if prompt is not None and not is_empty(prompt) and prompt.strip() != common[-1]["content"].strip():
        asked = shorten(common[-1]["content"])
        return Fault(
            "prompt_mismatch", f"`prompt` is {shorten(prompt)}, the turn that is answered is {asked}; keep one"
        )
    return common, sides[0][-1:], sides[1][-1:]


def _side(name: str, raw: list[Any], sidecar: Sidecar) -> list[Message] | Fault:
    if not raw:
        return Fault(f"empty_{name}", f"`{name}` is an empty list; write the answer, or remove the row")
    messages = read_turns(raw, sidecar)
    if isinstance(messages, Fault):
        of_the_answer = messages.code in {"empty_value", "missing_value"} and read_turns(raw[:-1], sidecar)
        if isinstance(of_the_answer, list):
            return Fault(f"empty_{name}", f"the last turn of `{name}` is empty; write it, or remove the row")
        return messages
    if len(messages) == 1:
        return Fault("missing_prompt", f"`{name}` holds one turn and no prompt before it; add the prompt")
    return check_order(messages, last="assistant") or messages


def _common_prompt_given(prompt: list[Any], chosen: Any, rejected: Any, sidecar: Sidecar) -> Pair | Fault:
    """LLaMA-Factory's shape: the conversation so far, and one turn (or text) for each side."""
    if not prompt:
        return Fault("empty_prompt", "`prompt` is an empty list; write the prompt, or remove the row")
    messages = read_turns(prompt, sidecar)
    if isinstance(messages, Fault):
        return messages
    if fault := check_order(messages, last="user"):
        return fault
    answers: list[list[Message]] = []
    for name, item in (("chosen", chosen), ("rejected", rejected)):
        answer = _single_answer(name, item, sidecar)
        if isinstance(answer, Fault):
            return answer
        answers.append(answer)
    return messages, answers[0], answers[1]


def _single_answer(name: str, item: Any, sidecar: Sidecar) -> list[Message] | Fault:
    if isinstance(item, list) and len(item) == 1:
        item = item[0]
    if item is None or (isinstance(item, str) and is_empty(item)):
        return Fault(f"empty_{name}", f"`{name}` is {describe_empty(item)}; write the answer, or remove the row")
    if isinstance(item, str):
        return _answer(item)
    if not isinstance(item, dict):
        return Fault("wrong_type", f"`{name}` is {describe_value(item)}; it must be a text or one turn")
    messages = read_turns([item], sidecar)
    if isinstance(messages, Fault):
        return (
            Fault(f"empty_{name}", f"the turn in `{name}` is empty; write it, or remove the row")
            if messages.code in {"empty_value", "missing_value"}
            else messages
        )
    if messages[0]["role"] != "assistant":
        return Fault(
            "last_turn_not_gpt", f"`{name}` is a turn of the role {messages[0]['role']}; it must be the model's"
        )
    return messages


def _answer(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def convert_preferences(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    from ft_pipeline.tables.formats.preferences import convert_pair

    if not {"prompt", "chosen", "rejected"} & value.keys() and (fault := other_format(value, "preferences")):
        return fault
    return convert_pair(value, sidecar)

"""Preference rows: three texts, or two lists of turns with one common prompt."""

from typing import Any

from ft_pipeline.tables.codes import Fault
from ft_pipeline.tables.sidecar import Sidecar
from ft_pipeline.tables.text import is_empty
from ft_pipeline.tables.turns import Message, check_order, read_turns

Pair = tuple[list[Message], list[Message], list[Message]]
_SHAPE = "a list of turns as the prompt needs a sidecar that says so: `columns: {conversations: prompt}`"


def convert_pair(value: dict[str, Any], sidecar: Sidecar) -> Pair | Fault:
    """(prompt messages, chosen message, rejected message), each a list of messages."""
    for side in ("chosen", "rejected"):
        if side not in value:
            return Fault(f"missing_{side}", f"there is no `{side}`")
    prompt, chosen, rejected = value.get("prompt"), value["chosen"], value["rejected"]
    if prompt is None and {"conversations", "messages"} & value.keys():
        return Fault("unsupported_shape", _SHAPE)
    if isinstance(prompt, list):
        if "prompt" not in sidecar.columns.values():
            return Fault("unsupported_shape", _SHAPE)
        return _common_prompt_given(prompt, chosen, rejected, sidecar)
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _turn_lists(prompt, chosen, rejected, sidecar)
    if isinstance(chosen, dict) and isinstance(rejected, dict):
        return Fault(
            "unsupported_shape", "single turns as `chosen` and `rejected` need a prompt of turns and a sidecar"
        )
    return _strings(value, prompt, chosen, rejected)


def _strings(value: dict[str, Any], prompt: Any, chosen: Any, rejected: Any) -> Pair | Fault:
    for name, item in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if item is not None and not isinstance(item, str):
            return Fault("wrong_type", f"`{name}` is neither a text nor, like its counterpart, a list of turns")
    if "prompt" not in value:
        return Fault("missing_prompt", "there is no `prompt`")
    for name, item in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if item is None or is_empty(item):
            return Fault(f"empty_{name}", f"`{name}` is empty")
    return [{"role": "user", "content": prompt}], _answer(chosen), _answer(rejected)


def _turn_lists(prompt: Any, chosen: list[Any], rejected: list[Any], sidecar: Sidecar) -> Pair | Fault:
    if prompt is not None and not isinstance(prompt, str):
        return Fault("wrong_type", "`prompt` is neither a text nor left out")
    sides: list[list[Message]] = []
    for name, raw in (("chosen", chosen), ("rejected", rejected)):
        messages = _side(name, raw, sidecar)
        if isinstance(messages, Fault):
            return messages
        sides.append(messages)
    if sides[0][:-1] != sides[1][:-1]:
        return Fault("prompt_mismatch", "the turns before the last one differ between `chosen` and `rejected`")
    common = sides[0][:-1]
    if prompt is not None and not is_empty(prompt) and prompt.strip() != common[-1]["content"].strip():
        return Fault("prompt_mismatch", "`prompt` is not the human turn that `chosen` and `rejected` answer")
    return common, sides[0][-1:], sides[1][-1:]


def _side(name: str, raw: list[Any], sidecar: Sidecar) -> list[Message] | Fault:
    if not raw:
        return Fault(f"empty_{name}", f"`{name}` is an empty list")
    messages = read_turns(raw, sidecar)
    if isinstance(messages, Fault):
        last = raw[-1] if isinstance(raw[-1], dict) else {}
        text = next((last[key] for key in ("value", "content") if key in last), None)
        answer_is_empty = messages.code in {"empty_value", "missing_value"} and (
            text is None or text == "" or (isinstance(text, str) and is_empty(text))
        )
        return Fault(f"empty_{name}", f"the answer in `{name}` is empty") if answer_is_empty else messages
    if len(messages) == 1:
        return Fault("missing_prompt", f"`{name}` holds one turn and no prompt before it")
    return check_order(messages, last="assistant") or messages


def _common_prompt_given(prompt: list[Any], chosen: Any, rejected: Any, sidecar: Sidecar) -> Pair | Fault:
    """LLaMA-Factory's shape: the conversation so far, and one turn (or text) for each side."""
    if not prompt:
        return Fault("empty_prompt", "`prompt` is an empty list")
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
        return Fault(f"empty_{name}", f"`{name}` is empty")
    if isinstance(item, str):
        return _answer(item)
    if not isinstance(item, dict):
        return Fault("wrong_type", f"`{name}` is neither a text nor one turn")
    messages = read_turns([item], sidecar)
    if isinstance(messages, Fault):
        return (
            Fault(f"empty_{name}", f"`{name}` is empty")
            if messages.code in {"empty_value", "missing_value"}
            else messages
        )
    if messages[0]["role"] != "assistant":
        return Fault("last_turn_not_gpt", f"`{name}` is not a turn of the model")
    return messages


def _answer(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]

"""The way in which a chat template writes calls of tools (its family), and reading calls back from generated text.

A family is recognized by what the template writes for a conversation with a call, not by the name of the model.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.models import tool_call_readers as readers
from ft_pipeline.models.chat import Message, render, special_tokens, writes_tools
from ft_pipeline.models.tool_call_readers import Call, Reading
from ft_pipeline.models.tool_call_values import DeclaredTools, compact_json, comparable, declared_tools, parse_json

_END_OF_REASONING = "</think>"


@dataclass(frozen=True)
class CallFamily:
    """One way in which chat templates write calls."""

    name: str
    """Also the name of vLLM's parser for it."""
    pattern: re.Pattern[str]
    """Found in each call that a template of this family writes."""
    openings: tuple[str, ...]
    """Texts with which a call begins. A text before the first of them contains no call."""
    read: Callable[[str, DeclaredTools], Reading]
    may_be_whole_text: bool = False
    """Whether a call may also begin at the start of the text, without a mark."""
    writes_channels: bool = False
    """Whether text without calls is written in this form, too."""


FAMILIES = (
    CallFamily("hermes", re.compile(r"<tool_call>\s*\{"), ("<tool_call>",), readers.read_hermes),
    CallFamily("qwen3_xml", re.compile(r"<tool_call>\s*<function="), ("<tool_call>",), readers.read_xml),
    CallFamily("glm45", re.compile(r"<tool_call>[^\s<]+\n<arg_key>"), ("<tool_call>",), readers.read_glm),
    CallFamily("glm47", re.compile(r"<tool_call>[^\s<]+<arg_key>"), ("<tool_call>",), readers.read_glm),
    CallFamily("mistral", re.compile(r"\[TOOL_CALLS\]"), ("[TOOL_CALLS]",), readers.read_mistral),
    CallFamily(
        "openai",
        re.compile(r"to=functions\."),
        ("<|channel|>", " to=functions.", "<|start|>"),
        readers.read_harmony,
        writes_channels=True,
    ),
    CallFamily("gemma4", re.compile(r"<\|tool_call>call:"), ("<|tool_call>",), readers.read_gemma),
    CallFamily(
        "functiongemma",
        re.compile(r"<start_function_call>call:"),
        ("<start_function_call>",),
        readers.read_function_gemma,
    ),
    CallFamily(
        "deepseek_v3",
        re.compile(r"<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
        ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        readers.read_deepseek,
    ),
    CallFamily(
        "deepseek_v31",
        re.compile(r"<｜tool▁call▁begin｜>"),
        ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        readers.read_deepseek,
    ),
    CallFamily(
        "llama3_json",
        re.compile(r"\{\"name\": .*\"parameters\": "),
        (readers.PYTHON_TAG,),
        readers.read_llama,
        may_be_whole_text=True,
    ),
)
"""The families that can be read. The first whose pattern is found, and that reads the probe back, is the template's."""
KNOWN = ", ".join(family.name for family in FAMILIES)
_PROBE_TOOLS = compact_json(
    [
        {
            "type": "function",
            "function": {
                "name": "look_up_seats",
                "description": "Find free seats",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "city": {"type": "string"},
                        "number": {"type": "integer"},
                        "days": {"type": "array", "items": {"type": "string"}},
                    },
                },
            },
        }
    ]
)
_PROBE_CALL = {
    "id": "c4ll00001",  # Mistral's templates require nine letters or digits
    "name": "look_up_seats",
    "arguments": '{"city":"Bad Ems","number":3,"days":["Mon","Tue"]}',
}
_PROBE: tuple[Message, ...] = (
    {"role": "user", "content": "Are there seats?"},
    {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]},
)


def call_family(tokenizer: Any) -> CallFamily | None:
    """Return how the tokenizer's chat template writes calls; None if it writes none, or not in a known way."""
    return _call_family(tokenizer, tokenizer.chat_template)


def require_call_family(tokenizer: Any) -> CallFamily:
    """Return call_family. UserError if there is none."""
    family = call_family(tokenizer)
    if family is None:
        raise UserError(
            f"Calls of tools that this chat template writes cannot be read back. Choose a base_model whose template "
            f"writes them in one of the known ways: {KNOWN}."
        )
    return family


@lru_cache(maxsize=8)
def _call_family(tokenizer: Any, template: str | None) -> CallFamily | None:
    try:
        if not template or not writes_tools(tokenizer):
            return None
        written = written_turn(tokenizer, _PROBE, _PROBE_TOOLS)
    except UserError:
        return None
    for family in FAMILIES:
        if family.pattern.search(written):
            _, calls = read_calls(family, written, _PROBE_TOOLS)
            return family if same_calls(calls, [_PROBE_CALL]) else None
    return None


def written_turn(tokenizer: Any, messages: Sequence[Message], tools: str | None) -> str:
    """Return what the chat template writes for the last turn, after the part that a prompt has too, without the stop
    token."""
    prompt = render(tokenizer, messages[:-1], add_generation_prompt=True, tools=tools)
    text = render(tokenizer, messages, add_generation_prompt=False, tools=tools)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, text, strict=False)))
    return without_ending(tokenizer, text[common:])


def read_calls(family: CallFamily, text: str, tools: str | None = None) -> tuple[str, list[Call]]:
    """Return the text without the calls in it, and the calls in order. A broken call stays text.

    tools: the declared tools as JSON text. They give types to arguments that are written without.
    """
    reasoning, reading = read_turn(family, text, tools)
    return "\n\n".join(filter(None, [reasoning, reading.content])), reading.calls


def read_turn(family: CallFamily | None, text: str, tools: str | None = None) -> tuple[str, Reading]:
    """Return the part of a text up to the end of its reasoning (`</think>`), and what is read from the rest.

    A call in reasoning is only thought about, so it is not read. family: None reads no calls.
    """
    begin = _end_of_reasoning(family, text)
    reasoning, answer = text[:begin].strip(), text[begin:]
    return reasoning, family.read(answer, declared_tools(tools)) if family else Reading(answer.strip(), [])


def _end_of_reasoning(family: CallFamily | None, text: str) -> int:
    end = text.find(_END_OF_REASONING)
    if text.lstrip().startswith("<think>"):
        return len(text) if end < 0 else end + len(_END_OF_REASONING)
    first_call = min(
        (text.find(mark) for mark in (family.openings if family else ()) if mark in text), default=len(text)
    )
    return end + len(_END_OF_REASONING) if 0 <= end < first_call else 0


def read_answer(tokenizer: Any, text: str, tools: str | None) -> Message:
    """Return the turn in a generated text that still has its control tokens. UserError if the chat template has no
    known family."""
    content, calls = read_calls(require_call_family(tokenizer), text, tools)
    turn: Message = {"role": "assistant", "content": without_control_tokens(special_tokens(tokenizer), content).strip()}
    return {**turn, "tool_calls": calls} if calls else turn


def without_control_tokens(control_tokens: Sequence[str], text: str) -> str:
    """Return a text without the control tokens of the vocabulary, as `skip_special_tokens` decodes it."""
    for token in sorted(control_tokens, key=len, reverse=True):
        text = text.replace(token, "")
    return text


def without_ending(tokenizer: Any, text: str) -> str:
    """Return a rendered turn without the stop token that ends it."""
    text = text.rstrip()
    for token in sorted(special_tokens(tokenizer), key=len, reverse=True):
        if token and text.endswith(token):
            return text.removesuffix(token)
    return text


def same_calls(calls: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether two lists of calls are equal: names, arguments as JSON values, order."""
    return list(map(comparable_call, calls)) == list(map(comparable_call, others))


def same_calls_in_any_order(calls: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> bool:
    """Return same_calls, whatever the order."""
    return Counter(map(comparable_call, calls)) == Counter(map(comparable_call, others))


def comparable_call(call: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name, and a text that is the same for equal arguments. Arguments that are not JSON equal only
    themselves."""
    try:
        return call["name"], comparable(parse_json(call["arguments"]))
    except ValueError:
        return call["name"], f"not JSON: {call['arguments']}"


def calls_of_reply(tool_calls: Any) -> list[Call]:
    """Return the calls in a reply of OpenAI's shape. ValueError if one of them is not a call of a function with a
    text as arguments. The arguments may be broken JSON, as the model wrote them."""
    calls = []
    for entry in tool_calls or ():
        function = entry.get("function") if isinstance(entry, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("not a call of a function")
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            raise ValueError("the arguments are not a text")
        calls.append({"name": function["name"], "arguments": _compact(arguments)})
    return calls


def _compact(arguments: str) -> str:
    """Return arguments as tables have them: compact, and `{}` if there are none. Broken JSON stays as it is."""
    try:
        return compact_json(parse_json(arguments or "{}"))
    except ValueError:
        return arguments

"""Read calls of tools from a text, with one function for each form in which chat templates write them.

A call that is cut off or broken stays in the text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ft_pipeline.models.tool_call_values import DeclaredTools, compact_json, first_json, parse_json, unquoted_value

Call = dict[str, str]
"""`name`, and `arguments` as the JSON text of an object."""


@dataclass(frozen=True)
class Reading:
    """A text that a model wrote, taken apart."""

    content: str
    """The text without the calls."""
    calls: list[Call]
    reasoning: str = ""
    """Reasoning that the form itself sets apart."""


_Found = tuple[list[Call], int]
"""The calls after an opening mark, and the index after them."""


def _read_marked(text: str, opening: str, read: Callable[[int], _Found | None]) -> Reading:
    """Return the calls that `read` finds after each opening mark, and the text around them."""
    parts: list[str] = []
    calls: list[Call] = []
    position = 0
    while (begin := text.find(opening, position)) >= 0:
        after = begin + len(opening)
        found = read(after)
        parts.append(text[position : after if found is None else begin])
        position = after if found is None else found[1]
        calls += found[0] if found else []
    return Reading("".join([*parts, text[position:]]).strip(), calls)


def _call(value: Any, key: str = "arguments") -> Call | None:
    """Return a parsed object as a call; None if the object is no call."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    return {"name": value["name"], "arguments": compact_json(value[key])} if isinstance(value.get(key), dict) else None


def _after(text: str, position: int, closing: str) -> int | None:
    """Return the index after `closing`, which comes next or is missing at the end of the text; else None."""
    rest = text[position:].lstrip()
    if not rest:
        return len(text)
    return len(text) - len(rest) + len(closing) if rest.startswith(closing) else None


def read_hermes(text: str, tools: DeclaredTools) -> Reading:
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as Hermes, Qwen 2.5 and Qwen 3 write it."""

    def read(begin: int) -> _Found | None:
        value, end = first_json(text, begin) or (None, begin)
        call, after = _call(value), _after(text, end, "</tool_call>")
        return None if call is None or after is None else ([call], after)

    return _read_marked(text, "<tool_call>", read)


_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>(?=\s*<(?:parameter=|/function>))", re.DOTALL)
_FUNCTION_END = re.compile(r"\s*</function>")


def read_xml(text: str, tools: DeclaredTools) -> Reading:
    """`<tool_call><function=NAME><parameter=KEY>…`, as Qwen 3 Coder, Qwen 3.5 and Nemotron 3 write it."""

    def read(begin: int) -> _Found | None:
        if not (function := _FUNCTION.match(text, begin)):
            return None
        name, position, arguments = function[1].strip(), function.end(), {}
        while parameter := _PARAMETER.match(text, position):
            arguments[parameter[1]] = tools.value(name, parameter[1], parameter[2])
            position = parameter.end()
        closed = _FUNCTION_END.match(text, position)
        after = _after(text, closed.end(), "</tool_call>") if closed else None
        return None if after is None else ([{"name": name, "arguments": compact_json(arguments)}], after)

    return _read_marked(text, "<tool_call>", read)


_GLM_NAME = re.compile(r"\s*([^\s<]+)\s*")
_GLM_ARGUMENT = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def read_glm(text: str, tools: DeclaredTools) -> Reading:
    """`<tool_call>NAME<arg_key>KEY</arg_key><arg_value>…`, as GLM 4.5 and later write it."""

    def read(begin: int) -> _Found | None:
        if not (named := _GLM_NAME.match(text, begin)):
            return None
        name, position, arguments = named[1], named.end(), {}
        while argument := _GLM_ARGUMENT.match(text, position):
            arguments[argument[1]] = tools.value(name, argument[1], argument[2])
            position = argument.end()
        if not text[position:].lstrip().startswith("</tool_call>"):
            return None
        after = text.index("</tool_call>", position) + len("</tool_call>")
        return [{"name": name, "arguments": compact_json(arguments)}], after

    return _read_marked(text, "<tool_call>", read)


PYTHON_TAG = "<|python_tag|>"
_CONTROL_TOKENS = re.compile(r"(?:\s*<\|[^|<>]*\|>)*\s*")


def read_llama(text: str, tools: DeclaredTools) -> Reading:
    """`{"name": …, "parameters": {…}}` as the whole text, or after `<|python_tag|>`, as Llama 3 writes it.

    Several calls are separated by semicolons. An object that names no declared tool stays text.
    """
    before, _, after = text.rpartition(PYTHON_TAG)
    calls: list[Call] = []
    position = 0
    while True:
        value, position = first_json(after, position) or (None, position)
        call = _call(value, "parameters") or _call(value)
        if call is None or not tools.allows(call["name"]):
            return Reading(text.strip(), [])
        calls.append(call)
        rest = after[position:].lstrip()
        if not rest.startswith(";"):
            break
        position = len(after) - len(rest) + 1
    complete = _CONTROL_TOKENS.fullmatch(rest)
    return Reading(before.strip(), calls) if complete else Reading(text.strip(), [])


_MISTRAL_NAMED = re.compile(r"\s*([A-Za-z0-9_.-]+)(?:\[CALL_ID\][A-Za-z0-9_-]+)?(?:\[ARGS\])?(?=\s*\{)")


def read_mistral(text: str, tools: DeclaredTools) -> Reading:
    """`[TOOL_CALLS]` before a JSON list of calls, or before each NAME and its arguments (`[ARGS]` may be between)."""

    def read(begin: int) -> _Found | None:
        if named := _MISTRAL_NAMED.match(text, begin):
            value, end = first_json(text, named.end()) or (None, begin)
            call = _call({"name": named[1], "arguments": value})
            return ([call], end) if call else None
        listed, end = first_json(text, begin) or (None, begin)
        calls = [_call(value) for value in listed] if isinstance(listed, list) else []
        complete = [call for call in calls if call]
        return (complete, end) if calls and len(complete) == len(calls) else None

    return _read_marked(text, "[TOOL_CALLS]", read)


_DEEPSEEK = re.compile(
    r"(?:function<｜tool▁sep｜>(?P<name>[^\n<]+)\n```json\n(?P<json>.*?)\n```"
    r"|(?P<name31>[^\n<]+)<｜tool▁sep｜>(?P<json31>.*?))<｜tool▁call▁end｜>\s*(?:<｜tool▁calls▁end｜>)?",
    re.DOTALL,
)


def read_deepseek(text: str, tools: DeclaredTools) -> Reading:
    """`<｜tool▁call▁begin｜>` with the name, the separator and the arguments, as DeepSeek V3 and V3.1 write it."""

    def read(begin: int) -> _Found | None:
        if not (found := _DEEPSEEK.match(text, begin)):
            return None
        try:
            value = parse_json(found["json"] or found["json31"])
        except ValueError:
            return None
        call = _call({"name": (found["name"] or found["name31"]).strip(), "arguments": value})
        return ([call], found.end()) if call else None

    reading = _read_marked(text, "<｜tool▁call▁begin｜>", read)
    content = reading.content.replace("<｜tool▁calls▁begin｜>", "") if reading.calls else reading.content
    return Reading(content.strip(), reading.calls)


class _Braces:
    """Reads `{key:value}` with unquoted keys and texts between marks, as Gemma's templates write arguments."""

    _KEY = re.compile(r"\s*([^:{}\[\],]+):")
    _PLAIN = re.compile(r"[^,{}\[\]]+")

    def __init__(self, text: str, quote: str) -> None:
        self._text, self._quote = text, quote

    def read(self, position: int) -> tuple[Any, int]:
        """Return the value at `position` and the index after it. ValueError if there is none."""
        if self._text.startswith(self._quote, position):
            begin = position + len(self._quote)
            end = self._text.index(self._quote, begin)
            return self._text[begin:end], end + len(self._quote)
        if self._text.startswith("{", position):
            return self._object(position + 1)
        if self._text.startswith("[", position):
            return self._list(position + 1)
        plain = self._PLAIN.match(self._text, position)
        if not plain:
            raise ValueError("no value")
        return unquoted_value(plain[0]), plain.end()

    def _object(self, position: int) -> tuple[dict[str, Any], int]:
        values: dict[str, Any] = {}
        while not self._text.startswith("}", position):
            if self._text.startswith(self._quote, position):
                key, position = self.read(position)
                position = self._text.index(":", position) + 1
            else:
                named = self._KEY.match(self._text, position)
                if not named:
                    raise ValueError("no key")
                key, position = named[1], named.end()
            values[key], position = self.read(position)
            position += self._text.startswith(",", position)
        return values, position + 1

    def _list(self, position: int) -> tuple[list[Any], int]:
        values: list[Any] = []
        while not self._text.startswith("]", position):
            value, position = self.read(position)
            values.append(value)
            position += self._text.startswith(",", position)
        return values, position + 1


_GEMMA_NAME = re.compile(r"([\w.-]+)(?=\{)")


def _read_gemma(text: str, opening: str, quote: str, closing: str) -> Reading:
    braces = _Braces(text, quote)

    def read(begin: int) -> _Found | None:
        if not (named := _GEMMA_NAME.match(text, begin)):
            return None
        try:
            arguments, end = braces.read(named.end())
        except (ValueError, RecursionError):
            return None
        after = _after(text, end, closing)
        return None if after is None else ([{"name": named[1], "arguments": compact_json(arguments)}], after)

    return _read_marked(text, opening, read)


def read_gemma(text: str, tools: DeclaredTools) -> Reading:
    """`<|tool_call>call:NAME{key:<|"|>text<|"|>}<tool_call|>`, as Gemma 4 writes it."""
    return _read_gemma(text, "<|tool_call>call:", '<|"|>', "<tool_call|>")


def read_function_gemma(text: str, tools: DeclaredTools) -> Reading:
    """`<start_function_call>call:NAME{key:<escape>text<escape>}<end_function_call>`, as FunctionGemma writes it."""
    return _read_gemma(text, "<start_function_call>call:", "<escape>", "<end_function_call>")


_MESSAGE = re.compile(
    r"(?P<header>(?:(?!<\|message\|>).)*)<\|message\|>(?P<body>.*?)(?:<\|end\|>|<\|call\|>|<\|return\|>|\Z|(?=<\|start\|>))",
    re.DOTALL,
)
_RECIPIENT = re.compile(r"to=functions\.([\w.-]+)")


def read_harmony(text: str, tools: DeclaredTools) -> Reading:
    """Messages of channels: `to=functions.NAME<|channel|>commentary json<|message|>{…}<|call|>`, as gpt-oss writes it.

    The channel `analysis` is reasoning. The text of the other channels is content.
    """
    content: list[str] = []
    reasoning: list[str] = []
    calls: list[Call] = []
    position = 0
    while (message := _MESSAGE.match(text, position)) and message.end() > position:
        header, body, position = message["header"], message["body"], message.end()
        recipient = _RECIPIENT.search(header)
        value, end = first_json(body, 0) or (None, 0)
        call = _call({"name": recipient[1], "arguments": value}) if recipient and not body[end:].strip() else None
        if call:
            calls.append(call)
        elif recipient:
            content.append(message[0])
        else:
            (reasoning if "<|channel|>analysis" in header else content).append(body)
    content.append(text[position:])
    return Reading("\n".join(filter(None, map(str.strip, content))), calls, "\n".join(reasoning).strip())

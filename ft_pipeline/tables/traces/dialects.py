"""Turns as tracers and frameworks log them: read into OpenAI's shape.

Known are OpenAI's messages and the items of its Responses API, LangChain's messages, the parts of OpenTelemetry, of
Vercel's AI SDK and of Gemini. Nothing is guessed: a turn of another shape stays as it is, and the reader of turns says
what is wrong.
"""

import json
from collections.abc import Mapping
from typing import Any

from ft_pipeline.tables.reading.describe import BadNumber
from ft_pipeline.tables.traces.calls import Turn

_ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "AIMessage": "assistant", "HumanMessage": "user"}
_ROLES |= {"SystemMessage": "system", "ToolMessage": "tool", "AIMessageChunk": "assistant"}
"""Roles of frameworks → OpenAI's."""
_TYPES = frozenset({"human", "ai", "system", "tool", "function", "AIMessageChunk"})
"""LangChain's values of `type`, which stand for the role."""
_MAX_DECODED = 3
"""JSON is decoded from a text at most this often."""


def objects(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects in a list; none if it is no list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def object_of(value: Any) -> Mapping[str, Any]:
    """Return an object; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def text_or_none(value: Any) -> str | None:
    """Return a text that is not empty; None for anything else."""
    return value if isinstance(value, str) and value else None


def decoded(value: Any) -> Any:
    """Return the value of a JSON text (tracers encode objects and lists, some twice); other values unchanged."""
    for _ in range(_MAX_DECODED):
        if isinstance(value, str):
            value = decoded_once(value)
    return value


def last_text(value: Any) -> str:
    """Return the text that an encoded value is, once its quotes are taken off: an answer may itself be JSON."""
    text = value if isinstance(value, str) else _json(value)
    for _ in range(_MAX_DECODED):
        inner = decoded_once(text)
        if not isinstance(inner, str) or inner == text:
            break
        text = inner
    return text


def _json(value: Any) -> str:
    """Return a value as JSON text. A number that JSON does not know is a text in it."""
    return json.dumps(value, ensure_ascii=False, default=_as_written)


def _as_written(value: Any) -> str:
    if isinstance(value, BadNumber):
        return value.written
    raise TypeError(f"{type(value).__name__} is no JSON")


def decoded_once(value: str) -> Any:
    """Return the value of a JSON text; the text itself if it is not JSON."""
    if value.lstrip()[:1] not in ("{", "[", '"'):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def read_messages(value: Any) -> tuple[list[Any], list[Any]]:
    """Return (turns, declared tools) of a prompt in any known shape. A text is one user turn.

    value: a list of turns or items; an object with `messages`, `input`, `prompt` or `contents`; or a text.
    """
    value = decoded(value)
    if isinstance(value, str):
        return ([{"role": "user", "content": value}] if value else []), []
    if isinstance(value, Mapping):
        return _of_request(value)
    turns: list[Any] = []
    tools: list[Any] = []
    for item in value if isinstance(value, list) else []:
        if (tool := _declared_in_turn(item)) is not None:
            tools.append(tool)
        else:
            turns += read_turn(item)
    return _with_joined_calls(turns), tools


def _of_request(value: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return read_messages of the body of a request, with its system prompt and its tools."""
    config = decoded(value.get("config"))
    if isinstance(config, Mapping):  # Gemini's clients have system prompt and tools there
        value = {**config, **value}
    key = next((key for key in ("messages", "input", "prompt", "contents") if value.get(key) is not None), None)
    if key is None:
        return (read_turn(value), []) if "role" in value or "content" in value else ([], [])
    turns, tools = read_messages(value[key])
    system = next(
        (
            value[name]
            for name in ("instructions", "system", "systemInstruction", "system_instruction")
            if value.get(name)
        ),
        None,
    )
    if system is not None and not _begins_with_system(turns):
        turns = [{"role": "system", "content": _text_of(decoded(system))}, *turns]
    return turns, [*tools, *read_tools(value.get("tools") or value.get("functions"))]


def _begins_with_system(turns: list[Any]) -> bool:
    return bool(turns) and isinstance(turns[0], Mapping) and turns[0].get("role") in ("system", "developer")


def read_tools(value: Any) -> list[Any]:
    """Return declared tools as a list: from a list, or from a mapping of names to declarations."""
    value = decoded(value)
    if isinstance(value, Mapping):
        value = [
            {"name": name, **decoded(tool)} if isinstance(decoded(tool), Mapping) else tool
            for name, tool in value.items()
        ]
    tools = [decoded(tool) for tool in value] if isinstance(value, list) else []
    return [part for tool in tools for part in _functions_of(tool)]


def _functions_of(tool: Any) -> list[Any]:
    """Return the declarations in one entry: Gemini's holds several, and others name the schema in their own way."""
    if not isinstance(tool, Mapping):
        return [tool]
    several = tool.get("functionDeclarations") or tool.get("function_declarations")
    if isinstance(several, list):
        return several
    schema = decoded(tool.get("inputSchema") or tool.get("input_schema"))
    if not isinstance(schema, Mapping):
        return [tool]
    kept = {key: tool[key] for key in ("name", "description") if tool.get(key)}
    return [{**kept, "parameters": schema.get("jsonSchema", schema)}]


def _declared_in_turn(item: Any) -> Any:
    """Return the tool that LangGraph's tracer logs as a turn of the role tool; None for other turns."""
    content = item.get("content") if isinstance(item, Mapping) and item.get("role") == "tool" else None
    return content if isinstance(content, Mapping) and "function" in content else None


def read_turn(item: Any) -> list[Any]:
    """Return the turns of one message or item: usually one; of a message with several results, one for each."""
    item = decoded(item)
    if not isinstance(item, Mapping):
        return [item]
    kind = text_or_none(item.get("type"))
    if kind in _ITEMS:
        return _ITEMS[kind](item)
    if isinstance(item.get("kwargs"), Mapping) and isinstance(item.get("id"), list):  # a serialized LangChain object
        return read_turn({**item["kwargs"], "role": item["id"][-1]})
    role = item.get("role") or (kind if kind in _TYPES else None)
    role = _ROLES.get(role, role) if isinstance(role, str) else role
    content = item.get("content")
    if isinstance(content, Mapping) and isinstance(content.get("parts"), list):  # an answer of Gemini
        return read_turn({"role": "assistant", **content})
    parts = item.get("parts") or (content if _is_list_of_objects(content) else None)
    turn = {key: part for key, part in item.items() if key not in _DROPPED and part is not None}
    turn = {"role": role, **turn} if role is not None else turn
    if isinstance(parts, list):
        return _of_parts(turn, parts)
    more = item.get("additional_kwargs")
    calls = item.get("tool_calls") or (more.get("tool_calls") if isinstance(more, Mapping) else None)
    return [{**turn, "tool_calls": [read_call(call) for call in calls]} if isinstance(calls, list) and calls else turn]


_DROPPED = frozenset({"role", "type", "parts", "additional_kwargs", "response_metadata", "tool_calls", "id", "example"})
_DROPPED |= {"finish_reason", "usage_metadata", "invalid_tool_calls", "artifact", "status", "provider_specific_fields"}
"""Keys of messages that frameworks add, or that are read separately."""


def read_call(call: Any) -> Any:
    """Return one call in OpenAI's shape."""
    call = decoded(call)
    if not isinstance(call, Mapping) or isinstance(call.get("function"), Mapping) or call.get("type") == "custom":
        return call
    name = next((call[key] for key in ("name", "toolName", "tool_name") if call.get(key)), None)
    if name is None:
        return call
    keys = ("arguments", "args", "input")
    arguments = next((call[key] for key in keys if call.get(key) is not None), None)
    identity = next((call[key] for key in ("id", "call_id", "toolCallId", "tool_call_id") if call.get(key)), None)
    function = {"name": name, "arguments": {} if arguments is None else arguments}
    return {**({"id": identity} if identity else {}), "type": "function", "function": function}


def _message_item(item: Mapping[str, Any]) -> list[Any]:
    return read_turn({key: part for key, part in item.items() if key not in ("type", "id", "status")})


def _call_item(item: Mapping[str, Any]) -> list[Any]:
    return [{"role": "assistant", "tool_calls": [read_call({**item, "id": item.get("call_id") or item.get("id")})]}]


def _result_item(item: Mapping[str, Any]) -> list[Any]:
    return [{"role": "tool", "tool_call_id": item.get("call_id"), "content": _text_of(item.get("output"))}]


_ITEMS = {
    "message": _message_item,
    "function_call": _call_item,
    "function_call_output": _result_item,
    "reasoning": lambda item: [],  # a summary, or encrypted
}
"""Types of the items of OpenAI's Responses API."""


def _with_joined_calls(turns: list[Any]) -> list[Any]:
    """Return the turns, those of parallel calls (items of their own in the Responses API) joined."""
    joined: list[Any] = []
    for turn in turns:
        if joined and _only_calls(turn) and _only_calls(joined[-1]):
            joined[-1] = {**joined[-1], "tool_calls": [*joined[-1]["tool_calls"], *turn["tool_calls"]]}
        else:
            joined.append(turn)
    return joined


def _only_calls(turn: Any) -> bool:
    return isinstance(turn, Mapping) and turn.keys() == {"role", "tool_calls"}


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, Mapping) for part in value)


def _of_parts(turn: Turn, parts: list[Any]) -> list[Any]:
    """Return the turns of a message whose content is parts. Parts that are no text stay, and are set aside later."""
    content: list[Any] = []
    calls: list[Any] = []
    results: list[Any] = []
    for part in map(decoded, parts):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        elif not isinstance(part, Mapping):
            content.append(part)
        elif kind in ("tool_call", "tool-call", "tool_use") or _of_gemini(part, "functionCall", "function_call"):
            call = _of_gemini(part, "functionCall", "function_call")
            calls.append(read_call(call or {**part, "type": None}))
        elif kind in ("tool_call_response", "tool-result", "tool_result") or _of_gemini(part, *_GEMINI_RESULTS):
            results.append(_result_part(part))
        elif kind in ("reasoning", "thinking"):
            turn = {**turn, "reasoning_content": part.get("content") or part.get("text") or part.get("thinking")}
        elif kind == "text" or (kind is None and isinstance(part.get("text"), str)):
            content.append({"type": "text", "text": part.get("text", part.get("content"))})
        else:
            content.append(part)
    if results:
        return results if not content else [*results, {**turn, "content": content}]
    is_text = len(content) == 1 and isinstance(content[0], Mapping) and content[0].get("type") == "text"
    text = content[0]["text"] if is_text else (content or None)
    return [{**turn, "content": text, **({"tool_calls": calls} if calls else {})}]


_GEMINI_RESULTS = ("functionResponse", "function_response")


def _of_gemini(part: Mapping[str, Any], *names: str) -> dict[str, Any] | None:
    """Return the object in a part of Gemini, whose clients spell its name in two ways; None if it has none."""
    found = next((part[name] for name in names if isinstance(part.get(name), Mapping)), None)
    return None if found is None else dict(found)


def _result_part(part: Mapping[str, Any]) -> Turn:
    if (response := _of_gemini(part, *_GEMINI_RESULTS)) is not None:
        return {"role": "tool", "name": response.get("name"), "content": _text_of(response.get("response"))}
    keys = ("response", "result", "output", "content")
    value = next((part[key] for key in keys if part.get(key) is not None), "")
    identity = next((part[key] for key in ("id", "toolCallId", "tool_use_id", "tool_call_id") if part.get(key)), None)
    return {"role": "tool", "tool_call_id": identity, "content": _text_of(value)}


def _text_of(value: Any) -> Any:
    """Return the text of a value: of parts, their texts; of an object, its JSON, as the model got it."""
    if isinstance(value, Mapping):
        if isinstance(value.get("parts"), list):
            return _text_of(value["parts"])
        if value.get("type") in ("text", "output_text", "json") and ("text" in value or "value" in value):
            return _text_of(value.get("text", value.get("value")))
        return _json(value)
    if isinstance(value, list):
        texts = [part.get("text", part.get("content")) if isinstance(part, Mapping) else part for part in value]
        return "\n".join(texts) if all(isinstance(text, str) for text in texts) else _json(value)
    return value

"""Tools that a row declares, calls of them, and the results of calls: parsed, and checked against each other."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.tables.reading.describe import BadNumber, describe_keys, describe_value, shorten
from ft_pipeline.tables.reading.json_parser import parse_carefully
from ft_pipeline.tables.reason_codes import Fault

Call = dict[str, str]
"""A call as in arrow_schema.TOOL_CALLS: name, arguments (JSON text of an object), and id if it has one."""
DECLARATIONS = ("tools", "functions")
"""The keys of a row that declare tools. `functions` is OpenAI's older one."""
_MADE_ID = re.compile(r"ftcall\d{3,}")


def read_tools(value: Mapping[str, Any]) -> str | Fault | None:
    """Return the declared tools of a row as JSON text (arrow_schema.TOOLS), None if there are none, or the fault.

    A declaration may be a list or its JSON text. A tool may be {type: function, function: {…}} or the function alone.
    """
    name = next((name for name in DECLARATIONS if value.get(name)), None)
    declared = value[name] if name else None
    if isinstance(declared, str):
        declared = parse_json(declared) if declared.strip() else None
        if isinstance(declared, Fault):
            return Fault("wrong_type", f"`{name}` is a text that is not JSON: {declared.message}")
    if not declared:
        return None
    if not isinstance(declared, list):
        return Fault("wrong_type", f"`{name}` is {describe_value(declared)}; it must be a list of tools")
    tools = []
    for number, item in enumerate(declared, 1):
        tool = _read_tool(item, number)
        if isinstance(tool, Fault):
            return tool
        tools.append(tool)
    text = json_text(tools)
    return Fault("wrong_type", f"`{name}` has a number that JSON does not know; correct it") if text is None else text


def _read_tool(item: Any, number: int) -> dict[str, Any] | Fault:
    if not isinstance(item, dict):
        return Fault("wrong_type", f"tool {number} is {describe_value(item)}; it must be an object")
    kind = item.get("type")
    function = item.get("function", item if kind in (None, "function") else None)
    if kind not in (None, "function") or not isinstance(function, dict):
        what = f"of the type {shorten(str(kind))}" if kind != "function" else "without a `function` object"
        return Fault("unsupported_tool", f"tool {number} is {what}; only functions are read: remove the row")
    if not isinstance(function.get("name"), str) or not function["name"].strip():
        return Fault("wrong_type", f"tool {number} has no `name`; it has {describe_keys(function)}")
    parameters = function.get("parameters")
    if not isinstance(parameters, dict | None):
        return Fault(
            "wrong_type", f"`parameters` of tool {number} is {describe_value(parameters)}; write a JSON Schema"
        )
    kept = {key: part for key, part in function.items() if part is not None and (function is not item or key != "type")}
    return {"type": "function", "function": kept}


def read_calls(turn: Mapping[str, Any], number: int) -> list[Call] | Fault:
    """Return the calls in `tool_calls` or `function_call` of a turn; an empty list if it calls no tool."""
    raw = turn.get("tool_calls") or [call for call in (turn.get("function_call"),) if call]
    if not isinstance(raw, list):
        return Fault(
            "wrong_type", f"`tool_calls` of turn {number} is {describe_value(raw)}; it must be a list of calls"
        )
    return _read_all(raw, number)


def calls_in_text(text: str, number: int) -> list[Call] | Fault:
    """Return the calls that the text of a turn consists of: JSON of one {name, arguments}, or of a list of them."""
    value = parse_json(text)
    if isinstance(value, Fault) or not isinstance(value, dict | list) or not value:
        why = f" ({value.message})" if isinstance(value, Fault) else ""
        return Fault(
            "invalid_arguments",
            f"turn {number} is mapped to `call` and is {shorten(text)}{why}; write JSON with `name` and `arguments`",
        )
    return _read_all(value if isinstance(value, list) else [value], number)


def _read_all(raw: list[Any], number: int) -> list[Call] | Fault:
    calls = []
    for item in raw:
        call = _read_call(item, number)
        if isinstance(call, Fault):
            return call
        calls.append(call)
    return calls


def _read_call(item: Any, number: int) -> Call | Fault:
    if not isinstance(item, dict):
        return Fault("wrong_type", f"a call in turn {number} is {describe_value(item)}; it must be an object")
    kind = item.get("type")
    if kind not in (None, "function"):
        return Fault(
            "unsupported_tool", f"turn {number} has a call of the type {shorten(str(kind))}; only functions are read"
        )
    function = item.get("function", item)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name.strip():
        return Fault("wrong_type", f"a call in turn {number} has no `name`; it has {describe_keys(item)}")
    arguments = _read_arguments(function.get("arguments"), name, number)
    if isinstance(arguments, Fault):
        return arguments
    identity = item.get("id")
    if not isinstance(identity, str | None):
        return Fault("wrong_type", f"`id` of a call in turn {number} is {describe_value(identity)}; it must be a text")
    return {**({"id": identity} if identity else {}), "name": name, "arguments": arguments}


def _read_arguments(arguments: Any, name: str, number: int) -> str | Fault:
    """Return the arguments of a call as compact JSON text. They are an object, or its JSON text."""
    parsed = parse_json(arguments) if isinstance(arguments, str) else arguments
    where = f"the arguments of {shorten(name)} in turn {number}"
    if isinstance(parsed, Fault):
        return Fault("invalid_arguments", f"{where} are {shorten(arguments)}, {parsed.message}; correct them")
    text = json_text(parsed) if isinstance(parsed, dict) else None
    if text is None:
        return Fault("invalid_arguments", f"{where} are {describe_value(parsed)}; they must be an object in JSON")
    return text


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, with integers of any size; or the fault of what is not JSON."""
    return parse_carefully(text.encode("utf-8", "surrogatepass"))


def json_text(value: Any) -> str | None:
    """Return a value as compact JSON text, with its keys in their order; None if it has a number JSON does not know."""
    if isinstance(value, BadNumber):
        return None
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError):
        return None


def check_calls(messages: Sequence[dict[str, Any]], tools: str | None) -> Fault | None:
    """Return the fault in the calls and results of a row, or None. Results get the id and the name of their call.

    Ids of `made_id` are removed, so that a row that was exported is the same row again.

    Each call is of a declared tool, and each result answers a call of the turn before it that has no result yet. If no
    turn has calls and no result names one, the calls may be texts, and nothing is checked.
    """
    if not any(message.get("tool_calls") or message.get("tool_call_id") for message in messages):
        return None
    declared = {tool["function"]["name"] for tool in json.loads(tools)} if tools else set()
    open_calls: list[Call] = []
    for number, message in enumerate(messages, 1):
        if message["role"] == "tool":
            call = _answered(open_calls, message)
            if call is None:
                return _orphaned(message, number)
            open_calls.remove(call)
            message |= {"name": call["name"]} | ({"tool_call_id": call["id"]} if "id" in call else {})
            continue
        if open_calls:
            return Fault(
                "unanswered_call",
                f"the call of {shorten(open_calls[0]['name'])} before turn {number} has no result; add a tool turn",
            )
        open_calls = list(message.get("tool_calls") or ())
        for call in open_calls:
            if call["name"] not in declared:
                return _undeclared(call["name"], declared, number)
    _remove_made_ids(messages)
    return None


def made_id(number: int) -> str:
    """Return the id of a call that has none, where a format wants one. Mistral wants nine characters."""
    return f"ftcall{number:03d}"


def _remove_made_ids(messages: Sequence[dict[str, Any]]) -> None:
    for message in messages:
        for key, item in (("tool_call_id", message), *(("id", call) for call in message.get("tool_calls") or ())):
            if _MADE_ID.fullmatch(item.get(key) or ""):
                del item[key]


def _answered(open_calls: Sequence[Call], result: Mapping[str, Any]) -> Call | None:
    """Return the call that a result answers: by id, else by name, else the first one."""
    if identity := result.get("tool_call_id"):
        return next((call for call in open_calls if call.get("id") == identity), None)
    if name := result.get("name"):
        return next((call for call in open_calls if call["name"] == name), None)
    return next(iter(open_calls), None)


def _orphaned(message: Mapping[str, Any], number: int) -> Fault:
    named = message.get("tool_call_id") or message.get("name")
    which = f" {shorten(named)}" if named else ""
    return Fault("orphaned_result", f"turn {number} is the result of a call{which} that is not before it; remove it")


def _undeclared(name: str, declared: set[str], number: int) -> Fault:
    known = ", ".join(sorted(map(shorten, declared))[:6]) or "none"
    return Fault(
        "undeclared_tool",
        f"turn {number} calls {shorten(name)}, and the row declares {known}; declare it, or `tools` in a sidecar",
    )

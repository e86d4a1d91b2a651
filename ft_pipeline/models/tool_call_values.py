"""Values in calls of tools: arguments that a template writes without their types, and when two values are equal."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
"""The Python types of a parsed value, by the type that a JSON schema names. Texts are what is left."""
_PYTHON_WORDS: Mapping[str, Any] = {"True": True, "False": False, "None": None}
"""Words that templates write for values that they do not render as JSON."""


@dataclass(frozen=True)
class DeclaredTools:
    """The tools that a conversation declares: the JSON schema of each argument, by tool."""

    properties: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def allows(self, name: str) -> bool:
        """Return whether a tool of this name is declared. If there are no declarations, any name is allowed."""
        return not self.properties or name in self.properties

    def value(self, name: str, argument: str, text: str) -> Any:
        """Return the value of an argument that is written as plain text, by the type that the tool declares for it.

        Without a declared type, a text that is JSON is read as JSON.
        """
        schema = self.properties.get(name, {}).get(argument)
        types = _types(schema) if isinstance(schema, Mapping) else frozenset()
        if types == {"string"}:
            return text
        try:
            parsed = unquoted_value(text)
        except ValueError:
            return text
        if not types:
            return text if isinstance(parsed, str) else parsed
        return parsed if _has_type(parsed, types) else text


def declared_tools(tools: str | None) -> DeclaredTools:
    """Return what `tools` (JSON text, as in a row) declares."""
    return _declared_tools(tools) if tools else DeclaredTools()


@lru_cache(maxsize=64)
def _declared_tools(tools: str) -> DeclaredTools:
    functions = [tool.get("function", tool) for tool in json.loads(tools) if isinstance(tool, dict)]
    return DeclaredTools(
        {function["name"]: _properties(function) for function in functions if isinstance(function.get("name"), str)}
    )


def _properties(function: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def unquoted_value(text: str) -> Any:
    """Return the value of a text that is JSON or one of Python's words. ValueError if it is neither."""
    stripped = text.strip()
    return _PYTHON_WORDS[stripped] if stripped in _PYTHON_WORDS else parse_json(stripped)


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    """Return the types that a schema allows; none if it does not say."""
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(name for name in named if isinstance(name, str))
    choices = next((schema[key] for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list)), None)
    if choices is not None:
        return frozenset().union(*(_types(choice) for choice in choices if isinstance(choice, Mapping)))
    values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema["const"]] if "const" in schema else []
    return frozenset(_type_of(value) for value in values)


def _type_of(value: Any) -> str:
    return next((name for name, types in _JSON_TYPES.items() if _is_one_of(value, types)), "string")


def _has_type(value: Any, types: Iterable[str]) -> bool:
    return any(_is_one_of(value, _JSON_TYPES[name]) for name in types if name in _JSON_TYPES)


def _is_one_of(value: Any, types: tuple[type, ...]) -> bool:
    """Return isinstance, but true and false are not numbers."""
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. ValueError if it is not JSON; NaN and Infinity are not."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("too deeply nested") from None


def first_json(text: str, position: int) -> tuple[Any, int] | None:
    """Return the JSON value that begins at `position`, after white space, and the index after it; None if there is
    none."""
    while position < len(text) and text[position].isspace():
        position += 1
    try:
        return _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def compact_json(value: Any) -> str:
    """Return a value as the JSON text that tables have."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def comparable(value: Any) -> str:
    """Return a text that is the same for equal JSON values: the order of keys and the form of numbers do not count."""
    return json.dumps(_normal(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _normal(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    return [_normal(item) for item in value] if isinstance(value, list) else value

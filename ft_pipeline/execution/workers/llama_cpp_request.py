"""A chat request as llama.cpp is sent it, so that its chat template gets the client's turns and tools unchanged."""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.execution.workers.refused_request import RefusedRequest
from ft_pipeline.release.export.chat_template import ENGINE_VARIABLES, TOOLS_VARIABLE, TURNS_VARIABLE

_READ_IN_FRONT = ("tools", "parallel_tool_calls", "response_format")
_NO_TURNS = [{"role": "user", "content": ""}]
"""What its own check of `messages` accepts; the template does not read it."""


def llama_cpp_request(
    request: Mapping[str, Any], turns: Sequence[Mapping[str, Any]], tools: Sequence[Any], stops: Sequence[str]
) -> dict[str, Any]:
    """Return the request for llama.cpp. turns, tools: for the template. stops: texts at which an answer ends.

    Raises RefusedRequest for a request that llama.cpp would answer otherwise than it is meant.
    """
    variables = request.get("chat_template_kwargs") or {}
    if not isinstance(variables, Mapping):
        raise RefusedRequest("`chat_template_kwargs` is not an object. Leave it out.", param="chat_template_kwargs")
    texts = [_as_text(turn) for turn in turns]
    return {
        **{name: value for name, value in request.items() if name not in _READ_IN_FRONT},
        **template_variables(texts, tools, variables),
        "stop": [*_own_stops(request.get("stop")), *stops],
        **_grammar(request.get("response_format")),
    }


def template_variables(
    turns: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, others: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the part of a request that gives turns, tools and other variables to the chat template."""
    variables = {**(others or {}), TURNS_VARIABLE: list(turns), TOOLS_VARIABLE: list(tools or ()) or None}
    own = {value: variables[name] for name, value in ENGINE_VARIABLES.items() if name in variables}
    return {"messages": _NO_TURNS, "chat_template_kwargs": {**variables, **own}}


def _as_text(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a turn whose content is a text. Raises RefusedRequest for images and the like."""
    content = turn.get("content")
    if not isinstance(content, list):
        return turn
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        raise RefusedRequest("A turn has a part that is not a text. Send texts only.", param="messages")
    return {**turn, "content": "\n".join(str(part.get("text", "")) for part in content)}


def _own_stops(stop: Any) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise RefusedRequest("`stop` is not a text or a list of texts. Leave it out.", param="stop")
    return stops


def _grammar(response_format: Any) -> dict[str, Any]:
    """Return what makes llama.cpp write JSON. It ignores `response_format` where answers are returned as written."""
    kind = response_format.get("type") if isinstance(response_format, dict) else response_format
    if kind in (None, "text"):
        return {}
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}
    schema = response_format.get("json_schema") if kind == "json_schema" else None
    if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
        raise RefusedRequest(
            "`response_format` is not text, json_object or json_schema with a schema. Send one of them.",
            param="response_format",
        )
    return {"json_schema": schema["schema"]}

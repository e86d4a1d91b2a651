"""A chat request as llama.cpp is sent it, so that its chat template gets the client's turns and tools unchanged."""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.release.export.chat_template import ENGINE_VARIABLES, TOOLS_VARIABLE, TURNS_VARIABLE
from ft_pipeline.serving.refused_request import RefusedRequest

_READ_IN_FRONT = ("tools", "parallel_tool_calls", "response_format")
_NO_TURNS = [{"role": "user", "content": ""}]
"""What its own check of `messages` accepts; the template does not read it."""


def llama_cpp_request(
    request: Mapping[str, Any], turns: Sequence[Mapping[str, Any]], tools: Sequence[Any], stops: Sequence[str]
) -> dict[str, Any]:
    """Return the request for llama.cpp. turns, tools: for the template. stops: texts at which an answer ends.

    Raises RefusedRequest for a request that llama.cpp would answer otherwise than it is meant.
    """
    _refuse_grammars(request)
    variables = request.get("chat_template_kwargs") or {}
    if not isinstance(variables, Mapping):
        raise RefusedRequest("`chat_template_kwargs` is not an object. Leave it out.", param="chat_template_kwargs")
    texts = [with_text(turn) for turn in turns]
    return {
        **{name: value for name, value in request.items() if name not in _READ_IN_FRONT},
        **template_variables(texts, tools, variables),
        "stop": [*_own_stops(request.get("stop")), *stops],
    }


def template_variables(
    turns: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, others: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the part of a request that gives turns, tools and other variables to the chat template."""
    variables = {**(others or {}), TURNS_VARIABLE: list(turns), TOOLS_VARIABLE: list(tools or ()) or None}
    own = {value: variables[name] for name, value in ENGINE_VARIABLES.items() if name in variables}
    return {"messages": _NO_TURNS, "chat_template_kwargs": {**variables, **own}}


def with_text(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a turn whose content is a text. Raises RefusedRequest for images and the like."""
    content = turn.get("content")
    if not isinstance(content, list):
        return turn if content is not None else {**turn, "content": ""}
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        raise RefusedRequest("A turn has a part that is not a text. Send texts only.", param="messages")
    return {**turn, "content": "\n".join(str(part.get("text", "")) for part in content)}


def _own_stops(stop: Any) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise RefusedRequest("`stop` is not a text or a list of texts. Leave it out.", param="stop")
    return stops


def _refuse_grammars(request: Mapping[str, Any]) -> None:
    """Raise RefusedRequest for a request for JSON: llama.cpp checks the end of the prompt against the grammar, and then
    ignores it, if answers are returned as the model wrote them."""
    wanted = request.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, dict) else wanted
    names = [name for name in ("json_schema", "grammar") if request.get(name)]
    if kind not in (None, "text"):
        names.append("response_format")
    if names:
        raise RefusedRequest(
            f"`{names[0]}` is not supported with llama.cpp. Ask for JSON in the question, or serve it with vLLM.",
            param=names[0],
        )

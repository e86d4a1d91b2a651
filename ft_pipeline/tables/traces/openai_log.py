"""Logs of requests and responses in OpenAI's shape: plain bodies, the data flywheel's, LiteLLM's, `ft serve`'s.

Both APIs are read, chat completions and responses, and answers that were streamed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.traces.calls import Feedback, ModelCall, Turn
from ft_pipeline.tables.traces.dialects import (
    decoded,
    last_text,
    object_of,
    objects,
    read_messages,
    read_tools,
    read_turn,
    text_or_none,
)

_REQUESTS = ("request", "request_body", "requestBody")
_RESPONSES = ("response", "response_body", "responseBody")
_CHAT_CALLS = frozenset({"completion", "acompletion", "responses", "aresponses", "text_completion", "atext_completion"})
"""LiteLLM's call types that answer a prompt; others are embeddings, images and the like."""
_RESPONSE_KEYS = frozenset({"choices", "output", "error", "role", "content", "tool_calls", "parts", "kwargs"})
_RESPONSE_KEYS |= {"candidates"}
"""A body with none of these keys is no response: the answer itself is an object."""
_REDACTED = "redacted-by-litellm"


def is_log(document: Mapping[str, Any]) -> bool:
    """Return whether a document is a request with its response."""
    return any(key in document for key in _REQUESTS) and any(key in document for key in _RESPONSES)


def is_feedback(document: Any) -> bool:
    """Return whether a document is a line of feedback."""
    return isinstance(document, Mapping) and "feedback" in document and not is_log(document)


def is_litellm(document: Mapping[str, Any]) -> bool:
    """Return whether a document is a StandardLoggingPayload of LiteLLM."""
    return {"call_type", "messages", "response", "model"} <= document.keys()


def id_of(document: Any) -> str | None:
    """Return the id of a request with its response, or of the response; None if it has none."""
    if not (isinstance(document, Mapping) and is_log(document)):
        return None
    response = _body(next(document[key] for key in _RESPONSES if key in document))
    own = document.get("id") or (response.get("id") if isinstance(response, Mapping) else None)
    return str(own) if own else None


def read_log(document: Mapping[str, Any]) -> ModelCall | Fault:
    """Return the call of a request with its response, or why it is not one."""
    request, response = (
        _body(next((document[key] for key in keys if key in document), None)) for keys in (_REQUESTS, _RESPONSES)
    )
    if not isinstance(request, Mapping):
        return Fault("no_content", "the request was not logged; log its body, with `messages`")
    if request.get("previous_response_id") or request.get("conversation"):
        return Fault("no_content", "the earlier turns are stored at the provider and were not logged; log them too")
    messages, tools = read_messages(request)
    call = read_response(response, messages, tools)
    if isinstance(call, Fault):
        return call
    metadata = request.get("metadata") if isinstance(request.get("metadata"), Mapping) else {}
    session = document.get("session_id") or (metadata or {}).get("session_id")
    call.identity = str(document.get("id") or call.identity)
    call.session = str(session) if session else None
    call.workload = text_or_none(document.get("workload_id"))
    return call


def _body(value: Any) -> Any:
    """Return the body of a request or response that may be JSON text, or wrapped with its status and headers."""
    value = decoded(value)
    inner = decoded(value.get("body")) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, Mapping | list) else value


def read_litellm(document: Mapping[str, Any]) -> ModelCall | Fault:
    """Return the call of a StandardLoggingPayload, or why it is not one."""
    kind = document["call_type"]
    if isinstance(kind, str) and kind not in _CHAT_CALLS:
        return Fault("unsupported_shape", f"a call of the type {kind!r}; only answers to prompts are read")
    messages, tools = read_messages(document.get("messages"))
    redacted = _REDACTED in str(document.get("messages"))[:200]
    if redacted or not messages:
        return Fault(
            "no_content", "the messages were not logged; turn on their logging in LiteLLM (store_prompts_in_…)"
        )
    parameters = decoded(document.get("model_parameters"))
    if isinstance(parameters, Mapping):
        tools = [*tools, *read_tools(parameters.get("tools") or parameters.get("functions"))]
    if document.get("status") == "failure":
        error = str(document.get("error_str") or "status failure")
        return ModelCall(messages, None, tools, identity=str(document.get("id") or ""), error=error)
    call = read_response(document.get("response"), messages, tools)
    if isinstance(call, Fault):
        return call
    call.identity = str(document.get("id") or call.identity)
    call.session = text_or_none(document.get("session_id")) or text_or_none(document.get("trace_id"))
    return call


def read_response(response: Any, messages: list[Any], tools: list[Any]) -> ModelCall | Fault:
    """Return the call with the answer in a response body: of either API, streamed, a message, or a text."""
    if not messages:
        return Fault("no_content", "the prompt was not logged; log `messages` of the request")
    declared, original, response = tools or None, response, decoded(response)
    if isinstance(response, Mapping) and not (_RESPONSE_KEYS & response.keys()):
        response = last_text(original)  # an answer that is JSON itself
    if isinstance(response, list) and response and all(isinstance(item, Mapping) for item in response):
        response = _joined_chunks(response) if "choices" in response[0] else {"output": response}
    if isinstance(response, list):
        response = last_text(original)
    if isinstance(response, str):
        answer = {"role": "assistant", "content": response} if response else None
        return ModelCall(messages, answer, declared)
    if not isinstance(response, Mapping):
        return ModelCall(messages, None, declared)
    if error := response.get("error"):
        message = error.get("message") if isinstance(error, Mapping) else error
        return ModelCall(messages, None, declared, error=str(message))
    if isinstance(response.get("output"), list):
        return _of_items(response, messages, tools)
    if isinstance(response.get("choices"), list):
        return _of_choices(response, messages, tools)
    if isinstance(response.get("candidates"), list):  # Gemini
        if len(response["candidates"]) > 1:
            return _several(len(response["candidates"]))
        response = next((item for item in response["candidates"] if isinstance(item, Mapping)), {})
    (answer, *more) = read_turn(response) or [None]
    reason = next((response[key] for key in _REASONS if isinstance(response.get(key), str)), None)
    return ModelCall(messages, _as_answer(answer) if not more else None, declared, finish_reason=reason)


_NO_PART_OF_AN_ANSWER = frozenset({"role", "name", "model", "usage", "index", "stop_reason", "stop_sequence"})
_NO_PART_OF_AN_ANSWER |= {"finishReason", "safetyRatings"}
_REASONS = ("finish_reason", "finishReason", "stop_reason")
"""How messages of Gemini and Anthropic say why they ended."""


def _several(count: int) -> Fault:
    return Fault("several_choices", f"{count} answers to one prompt; keep the one that was used")


def _of_choices(response: Mapping[str, Any], messages: list[Any], tools: list[Any]) -> ModelCall | Fault:
    choices = objects(response["choices"])
    if len(choices) > 1:
        return _several(len(choices))
    choice = choices[0] if choices else {}
    content = choice.get("message") or choice.get("text")
    turns = read_turn({"role": "assistant", "content": content} if isinstance(content, str) else content or {})
    answer = _as_answer(turns[0]) if turns and turns[0] else None
    identity, reason = str(response.get("id") or ""), choice.get("finish_reason")
    return ModelCall(messages, answer, tools or None, identity=identity, finish_reason=reason)


def _of_items(response: Mapping[str, Any], messages: list[Any], tools: list[Any]) -> ModelCall | Fault:
    """Return the call of a response of the Responses API, which also repeats instructions and tools."""
    instructions = response.get("instructions")
    if isinstance(instructions, str) and not (messages and messages[0].get("role") in ("system", "developer")):
        messages = [{"role": "system", "content": instructions}, *messages]
    tools = tools or read_tools(response.get("tools"))
    turns, _ = read_messages(response["output"])
    answers = [turn for turn in turns if isinstance(turn, Mapping) and turn.get("role") == "assistant"]
    answer = {key: part for turn in answers for key, part in turn.items()} if answers else None
    incomplete = response.get("status") == "incomplete"
    error = "status failed" if response.get("status") in ("failed", "cancelled") else None
    if len(answers) < len(turns):
        return Fault("unsupported_tool", "the answer used a tool of the provider, whose result is part of it")
    return ModelCall(
        messages,
        answer,
        tools or None,
        identity=str(response.get("id") or ""),
        finish_reason="incomplete" if incomplete else None,
        error=error,
    )


def _as_answer(turn: Any) -> Turn | None:
    if not isinstance(turn, Mapping):
        return None
    dropped = (
        "role",
        "name",
        "stop_reason",
        "stop_sequence",
        "model",
        "usage",
        "finishReason",
        "safetyRatings",
        "index",
    )
    answer = {"role": "assistant", **{key: part for key, part in turn.items() if key not in dropped}}
    return answer if len(answer) > 1 else None


def _joined_chunks(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the response that the chunks of a stream make up."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: dict[str, dict[str, Any]] = {}
    reason = None
    for choice in (choice for chunk in chunks for choice in objects(chunk.get("choices"))):
        delta, reason = object_of(choice.get("delta")), choice.get("finish_reason") or reason
        for key in ("content", "reasoning_content", "refusal"):
            if (text := text_or_none(delta.get(key))) is not None:
                message[key] = message.get(key, "") + text
        for part in objects(delta.get("tool_calls")):
            empty = {"type": "function", "function": {"name": "", "arguments": ""}}
            call = calls.setdefault(str(part.get("index", 0)), empty)
            call |= {"id": part["id"]} if part.get("id") else {}
            for key in ("name", "arguments"):
                call["function"][key] += text_or_none(object_of(part.get("function")).get(key)) or ""
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls, key=lambda index: (len(index), index))]
    return {"id": chunks[0].get("id"), "choices": [{"index": 0, "finish_reason": reason, "message": message}]}


def read_feedback_line(document: Mapping[str, Any]) -> tuple[str, Feedback] | Fault:
    """Return (id of the call, feedback) of a line that `ft serve --log` writes for a person's feedback."""
    feedback = document["feedback"]
    if not isinstance(feedback, Mapping) or not isinstance(feedback.get("id"), str):
        return Fault("wrong_type", "the feedback has no `id` of a call; name the call that it is about")
    rating, correction = feedback.get("rating"), feedback.get("correction")
    if rating not in (None, "up", "down"):
        return Fault("wrong_type", f"`rating` is {rating!r}; it must be up or down")
    if isinstance(correction, str):
        correction = {"role": "assistant", "content": correction}
    return feedback["id"], Feedback(rating, _as_answer(correction))

"""Langfuse: a trace with its observations, single observations of an export, and batches of its ingestion API."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.traces.calls import Feedback, ModelCall
from ft_pipeline.tables.traces.dialects import (
    decoded,
    last_text,
    objects,
    read_call,
    read_messages,
    read_tools,
    text_or_none,
)
from ft_pipeline.tables.traces.openai_log import read_response

_CALL_TYPES = frozenset({"GENERATION", "generation-create", "generation-update"})
_LABELED = re.compile(r"\s*(system|user|human|assistant|ai):", re.IGNORECASE)
"""The start of a prompt that a framework joined to one text."""
_WORDS = {
    "up": ("up", "thumbs_up", "good", "positive", "true", "1"),
    "down": ("down", "thumbs_down", "bad", "negative"),
}
_PERSON = "ANNOTATION"
"""The source of scores that people give in Langfuse. EVAL is a judge; API may be anything."""


def is_trace(document: Mapping[str, Any]) -> bool:
    """Return whether a document is a trace with its observations."""
    return isinstance(document.get("observations"), list) or (
        isinstance(document.get("trace"), Mapping) and "observations" in document
    )


def is_observation(document: Mapping[str, Any]) -> bool:
    """Return whether a document is a single observation."""
    return (
        "type" in document
        and bool({"traceId", "trace_id"} & document.keys())
        and {"input", "output"} <= document.keys()
    )


def is_batch(document: Mapping[str, Any]) -> bool:
    """Return whether a document is a batch of the ingestion API."""
    events = document.get("batch")
    return isinstance(events, list) and all(isinstance(event, Mapping) and "body" in event for event in events)


def read_trace(document: Mapping[str, Any], people: frozenset[str]) -> list[ModelCall | Fault]:
    """Return the calls of a trace. people: names of scores that the application's users give."""
    trace = document["trace"] if isinstance(document.get("trace"), Mapping) else document
    lists = (trace.get("scores"), trace.get("corrections"), document.get("scores"))
    scores = [score for listed in lists for score in objects(listed)]
    return _calls(trace, objects(document["observations"]), scores, people)


def read_batch(document: Mapping[str, Any], people: frozenset[str]) -> list[ModelCall | Fault]:
    """Return the calls of a batch of the ingestion API, in which an update follows its observation."""
    trace: dict[str, Any] = {}
    observations: dict[str, dict[str, Any]] = {}
    scores = []
    for event in document["batch"]:
        body, kind = event["body"], text_or_none(event.get("type"))
        if not isinstance(body, Mapping):
            continue
        if kind == "trace-create":
            trace |= body
        elif kind == "score-create":
            scores.append(body)
        elif kind in _CALL_TYPES:
            known = {key: item for key, item in body.items() if item is not None}
            observations.setdefault(str(body.get("id")), {"type": "GENERATION"}).update(known)
    return _calls(trace, list(observations.values()), scores, people)


def read_observation(document: Mapping[str, Any]) -> ModelCall | Fault | None:
    """Return the call of a single observation; None if it is not a call of a model."""
    if text_or_none(document["type"]) not in _CALL_TYPES:
        return None
    session = document.get("sessionId") or document.get("session_id") or document.get("traceId")
    return _read_generation(document, str(session or document.get("trace_id") or ""), None)


def _calls(
    trace: Mapping[str, Any],
    observations: Iterable[Mapping[str, Any]],
    scores: Iterable[Mapping[str, Any]],
    people: frozenset[str],
) -> list[ModelCall | Fault]:
    generations = sorted(
        (item for item in observations if text_or_none(item.get("type")) in _CALL_TYPES),
        key=lambda item: str(item.get("startTime")),
    )
    session, workload = str(trace.get("sessionId") or trace.get("id") or ""), trace.get("name")
    calls = [_read_generation(item, session, workload if isinstance(workload, str) else None) for item in generations]
    for score in scores:
        feedback = _feedback_of(score, people)
        if feedback is None:
            continue
        about = score.get("observationId")
        named = [call for call in calls if isinstance(call, ModelCall) and call.identity == about]
        last = [call for call in calls if isinstance(call, ModelCall)][-1:]
        for call in (
            named if about else last
        ):  # a score of the whole trace is about what the person got: its last answer
            call.feedback = call.feedback.merge(feedback)
    return calls or [Fault("no_model_call", "the trace has no observation of the type GENERATION; remove it")]


def _read_generation(item: Mapping[str, Any], session: str, workload: str | None) -> ModelCall | Fault:
    prompt = decoded(item.get("input"))
    if isinstance(prompt, str) and _LABELED.match(prompt):
        return Fault(
            "unsupported_shape",
            "the prompt is one text with labels such as `user:`, whose turns are not separate; log a list of messages",
        )
    messages, tools = read_messages(prompt)
    declared = item.get("toolDefinitions") or item.get("tool_definitions")
    tools = tools or read_tools(declared)
    if item.get("level") == "ERROR":
        error = str(item.get("statusMessage") or "level ERROR")
        return ModelCall(messages, None, tools, identity=str(item.get("id")), session=session, error=error)
    if item.get("output") is None:
        return Fault("no_content", "the output was not logged; turn on the capture of content in the tracer")
    call = read_response(_response_of(item["output"]), messages, tools)
    if isinstance(call, Fault):
        return call
    listed = decoded(item.get("toolCalls") or item.get("tool_calls"))
    calls = [decoded(part) for part in listed] if isinstance(listed, list) else []
    if calls and call.answer is not None and not call.answer.get("tool_calls"):
        call.answer = {**call.answer, "tool_calls": [read_call(part) for part in calls]}
    call.identity, call.session, call.workload = str(item.get("id") or ""), session or None, workload
    return call


def _response_of(output: Any) -> Any:
    """Return an output as a response body, a message or a text."""
    value = decoded(output)
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        if all("toolName" in part for part in value):
            return {"role": "assistant", "tool_calls": [read_call(part) for part in value]}
        if len(value) == 1 and ("role" in value[0] or "parts" in value[0]):
            return value[0]
        return value
    if isinstance(value, Mapping):
        if isinstance(value.get("messages"), list) and value["messages"]:
            return value["messages"][-1]
        return value
    return last_text(output)


def _feedback_of(score: Mapping[str, Any], people: frozenset[str]) -> Feedback | None:
    """Return what a person said in a score; None for a score of a judge or a program."""
    if score.get("dataType") == "CORRECTION":
        text = next((score[key] for key in _CORRECTED if isinstance(score.get(key), str) and score[key]), None)
        return Feedback(correction={"role": "assistant", "content": text}) if text else None
    if score.get("source") != _PERSON and not (score.get("name") in people and score.get("source") != "EVAL"):
        return None
    rating = next(_ratings(score), None)
    return Feedback(rating) if rating else None


_CORRECTED = ("stringValue", "longStringValue", "value")
"""Where the versions of Langfuse keep the corrected text."""


def _ratings(score: Mapping[str, Any]) -> Iterator[str]:
    """Yield the thumb that a score is: 1 and 0, or a word. A number on another scale is no thumb."""
    value = score.get("value")
    if score.get("dataType") in (None, "BOOLEAN", "NUMERIC") and value in (0, 1):
        yield "up" if value else "down"
    word = score.get("stringValue")
    for rating, words in _WORDS.items():
        if isinstance(word, str) and word.lower() in words:
            yield rating

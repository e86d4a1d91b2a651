"""OpenTelemetry's GenAI conventions in OTLP JSON: attributes of spans, events (up to 1.36), indexed attributes.

Indexed attributes are those of OpenLLMetry (`gen_ai.prompt.0.content`) and of OpenInference (`llm.input_messages.0.…`).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.traces.calls import ModelCall, Turn
from ft_pipeline.tables.traces.dialects import (
    decoded,
    object_of,
    objects,
    read_messages,
    read_tools,
    read_turn,
    text_or_none,
)

NO_CONTENT = Fault(
    "no_content",
    "the span has no messages: content was not captured; set OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true",
)
_OPERATIONS = frozenset({"chat", "generate_content", "text_completion", "completion"})
_EVENT_ROLES = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}
_CHOICE = "gen_ai.choice"


def is_otlp(document: Mapping[str, Any]) -> bool:
    """Return whether a document is OTLP JSON with spans or log records."""
    return isinstance(document.get("resourceSpans"), list) or isinstance(document.get("resourceLogs"), list)


def read_otlp(document: Mapping[str, Any]) -> list[ModelCall | Fault]:
    """Return the calls in the spans of a document, in their order; of one with log records, the calls of its events."""
    spans = sorted(_records(document, "resourceSpans", "scopeSpans", "spans"), key=lambda span: _time(span))
    calls: list[ModelCall | Fault] = []
    for span in spans:
        attributes = _attributes(span)
        if _is_call(attributes):
            calls.append(_read_span(span, attributes))
    events: dict[str, list[Mapping[str, Any]]] = {}
    for record in _records(document, "resourceLogs", "scopeLogs", "logRecords"):
        events.setdefault(str(record.get("spanId") or record.get("traceId")), []).append(record)
    for records in events.values():
        call = _of_events(records, {})
        if call is not None:
            calls.append(_named(call, records[0], {}))
    return calls or [
        Fault("no_model_call", "no span is a call of a model (gen_ai.operation.name); remove the document")
    ]


def _records(document: Mapping[str, Any], resources: str, scopes: str, records: str) -> Iterator[Mapping[str, Any]]:
    for resource in objects(document.get(resources)):
        for scope in objects(resource.get(scopes)):
            yield from objects(scope.get(records))


def _time(span: Mapping[str, Any]) -> tuple[int, str]:
    start = str(span.get("startTimeUnixNano") or "")
    return len(start), start


def _attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        item["key"]: _value(item.get("value"))
        for item in objects(record.get("attributes"))
        if isinstance(item.get("key"), str)
    }


def _value(value: Any) -> Any:
    """Return the value of an AnyValue. In OTLP JSON, integers are texts."""
    if not isinstance(value, Mapping):
        return value
    if "arrayValue" in value:
        items = object_of(value["arrayValue"]).get("values")
        return [_value(item) for item in items] if isinstance(items, list) else []
    if "kvlistValue" in value:
        items = objects(object_of(value["kvlistValue"]).get("values"))
        return {item["key"]: _value(item.get("value")) for item in items if isinstance(item.get("key"), str)}
    if "intValue" in value:
        return value["intValue"]  # a text
    return next((value[key] for key in ("stringValue", "doubleValue", "boolValue") if key in value), None)


def _is_call(attributes: Mapping[str, Any]) -> bool:
    operation = attributes.get("gen_ai.operation.name") or attributes.get("llm.request.type")
    if operation is not None:
        return text_or_none(operation) in _OPERATIONS
    if attributes.get("openinference.span.kind") is not None:
        return attributes["openinference.span.kind"] == "LLM"
    return any(key.startswith(("gen_ai.prompt.", "gen_ai.input.messages")) for key in attributes)


def _read_span(span: Mapping[str, Any], attributes: Mapping[str, Any]) -> ModelCall | Fault:
    status = object_of(span.get("status"))
    if status.get("code") in (2, "STATUS_CODE_ERROR") or "error.type" in attributes:
        error = str(status.get("message") or attributes.get("error.type") or "status ERROR")
        return _named(ModelCall([], None, error=error), span, attributes)
    events = objects(span.get("events"))
    call = _of_messages(attributes) or _of_indexed(attributes) or _of_events(events, attributes)
    return NO_CONTENT if call is None else _named(call, span, attributes)


def _named(call: ModelCall | Fault, span: Mapping[str, Any], attributes: Mapping[str, Any]) -> ModelCall | Fault:
    """Return the call with its ids, and with why it ended."""
    if isinstance(call, Fault):
        return call
    call.identity = str(attributes.get("gen_ai.response.id") or span.get("spanId") or "")
    session = next(
        (attributes[key] for key in ("gen_ai.conversation.id", "session.id") if attributes.get(key)),
        span.get("traceId"),
    )
    call.session = str(session) if session else None
    reasons = attributes.get("gen_ai.response.finish_reasons")
    if call.finish_reason is None and isinstance(reasons, list) and reasons:
        call.finish_reason = str(reasons[0])
    return call


def _of_messages(attributes: Mapping[str, Any]) -> ModelCall | Fault | None:
    """Return the call of the attributes with whole messages; None if there are none."""
    output = decoded(attributes.get("gen_ai.output.messages"))
    if "gen_ai.input.messages" not in attributes:
        return None
    messages, _ = read_messages(attributes["gen_ai.input.messages"])
    if system := attributes.get("gen_ai.system_instructions"):
        parts = decoded(system)
        turns = read_turn(
            {"role": "system", "parts": parts} if isinstance(parts, list) else {"role": "system", "content": parts}
        )
        messages = [*turns, *messages]
    tools = read_tools(attributes.get("gen_ai.tool.definitions"))
    return _answered(messages, output if isinstance(output, list) else [], tools)


def _answered(messages: list[Any], output: list[Any], tools: list[Any]) -> ModelCall | Fault:
    """Return the call whose answer is the only message of an output."""
    if len(output) > 1:
        return Fault("several_choices", f"{len(output)} answers to one prompt; keep the one that was used")
    turns = read_turn(output[0]) if output else []
    reason = output[0].get("finish_reason") if output and isinstance(output[0], Mapping) else None
    answer: Turn | None = turns[0] if len(turns) == 1 and isinstance(turns[0], dict) else None
    return ModelCall(messages, answer, tools or None, finish_reason=reason)


def _of_events(events: Iterable[Mapping[str, Any]], attributes: Mapping[str, Any]) -> ModelCall | Fault | None:
    """Return the call of events with one message each; None if none of them has content."""
    messages: list[Any] = []
    output: list[Any] = []
    for event in events:
        name = text_or_none(event.get("name") or event.get("eventName") or _attributes(event).get("event.name"))
        fields = {**_attributes(event), **_mapping(_value(event.get("body")))}
        if name in _EVENT_ROLES:
            turn = _event_turn(fields, _EVENT_ROLES[name])
            messages += [turn] if turn else []
        elif name == _CHOICE:
            message = _mapping(decoded(fields.get("message"))) or fields
            turn = _event_turn(message, "assistant")
            output += [{**turn, "finish_reason": fields.get("finish_reason")}] if turn else []
    if not messages and not output:
        return None
    return _answered(messages, output, read_tools(attributes.get("gen_ai.tool.definitions")))


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _event_turn(fields: Mapping[str, Any], role: str) -> Turn | None:
    """Return the turn of an event; None if its content was not captured."""
    content, calls = fields.get("content", fields.get("gen_ai.event.content")), decoded(fields.get("tool_calls"))
    if content is None and not calls:
        return None
    turn = {"role": fields.get("role") or role, "content": content, "tool_calls": calls}
    if role == "tool" and fields.get("id"):
        turn["tool_call_id"] = fields["id"]
    (read,) = read_turn(turn)
    return read


def _of_indexed(attributes: Mapping[str, Any]) -> ModelCall | Fault | None:
    """Return the call of attributes that number the messages; None if there are none."""
    tree = _unflattened(attributes)
    for prompt, completion, tools in _INDEXED:
        if messages := _branch(tree, prompt):
            turns = [turn for item in messages for turn in read_turn(_indexed_message(item))]
            output = [_indexed_message(item) for item in _branch(tree, completion)]
            declared = [_indexed_tool(item) for item in _branch(tree, tools)]
            return _answered(turns, output, declared)
    return None


_INDEXED = (
    (("gen_ai", "prompt"), ("gen_ai", "completion"), ("llm", "request", "functions")),
    (("llm", "input_messages"), ("llm", "output_messages"), ("llm", "tools")),
)
"""Where prompt, answer and tools are in OpenLLMetry and in OpenInference."""


def _unflattened(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as nested mappings."""
    tree: dict[str, Any] = {}
    for key, value in attributes.items():
        *path, last = key.split(".")
        node = tree
        for name in path:
            child = node.get(name)
            if not isinstance(child, dict):
                child = node[name] = {}
            node = child
        if not isinstance(node.get(last), dict):
            node[last] = value
    return tree


def _branch(tree: Mapping[str, Any], path: Iterable[str]) -> list[Any]:
    """Return the numbered entries at a path, in order."""
    node: Any = tree
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        return []
    return [node[key] for key in sorted((key for key in node if key.isdigit()), key=int)]


def _indexed_message(item: Any) -> dict[str, Any]:
    """Return a message whose contents and calls are numbered."""
    item = _mapping(item)
    message = _mapping(item.get("message")) or item
    calls = [_mapping(call).get("tool_call", call) for call in _branch(message, ["tool_calls"])]
    contents = [_mapping(_mapping(part).get("message_content", part)) for part in _branch(message, ["contents"])]
    kept = {key: message[key] for key in ("role", "content", "tool_call_id", "name", "finish_reason") if key in message}
    if contents:
        kept["content"] = [{"type": part.get("type") or "text", **part} for part in contents]
    elif isinstance(decoded(kept.get("content")), list):
        kept["content"] = decoded(kept["content"])
    return {**kept, **({"tool_calls": calls} if calls else {})}


def _indexed_tool(item: Any) -> Any:
    item = _mapping(item)
    schema = decoded(_mapping(item.get("tool")).get("json_schema"))
    return schema if isinstance(schema, Mapping) else {**item, "parameters": decoded(item.get("parameters"))}

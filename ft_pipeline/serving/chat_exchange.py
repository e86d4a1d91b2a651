"""One chat request to a served model: what the engine is sent, and the reply that the client gets.

An engine that does not read calls of tools returns what the model wrote, with control tokens. It is read here.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.models.serving_engines import Engine, TurnForm
from ft_pipeline.models.tool_call_readers import Call
from ft_pipeline.models.tool_call_values import parse_json
from ft_pipeline.models.tool_calls import calls_of_reply
from ft_pipeline.models.turn_stream import AnswerForm, Delta, TurnStream, read_whole
from ft_pipeline.release.export.chat_template import packed_turn
from ft_pipeline.serving.llama_cpp_request import llama_cpp_request, with_text
from ft_pipeline.serving.refused_request import RefusedRequest

Body = dict[str, Any]
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of the reasoning in a turn."""


@dataclass(frozen=True)
class ChatRules:
    """How requests to one model are handled."""

    form: AnswerForm | None
    """How its answers are read; None: the engine reads them."""
    refusal_of_tools: str | None
    """Why it takes no tools, and the way out; None: it takes them."""
    turns: TurnForm = "packed"
    """How its engine is sent the turns, if answers are read here."""
    prompt: Prompt | None = None
    """What is looked up for each request; None: the chat template has the prompt, if there is one."""

    def require_served(self, path: str) -> None:
        """Raise RefusedRequest for a path that the engine would answer otherwise than OpenAI's API says, or without
        what the model looks up."""
        if path == "/v1/models":
            return
        if self.prompt is not None:
            raise RefusedRequest(
                "This model looks up passages or examples, so only /v1/chat/completions is served. Send chats.",
                status=404,
            )
        if self.turns == "variables":
            raise RefusedRequest(
                "With llama.cpp, only /v1/chat/completions is served. Send chats, or use another engine.", status=404
            )

    def prompted(self, messages: Any) -> Any:
        """Return the turns of a request with what is looked up for them, as in scoring."""
        if self.prompt is None or not messages:
            return messages
        return self.prompt.prepend_to([dict(with_text(turn)) for turn in require_turns(messages)])


def chat_rules(form: AnswerForm, engine: Engine, prompt: Prompt | None = None) -> ChatRules:
    """Return the rules for a model whose answers have this form. prompt: see ChatRules."""
    refusal = None
    if not form.writes_tools:
        refusal = (
            "The chat template of this model writes no tools. Serve a model whose base_model has a template with "
            "tools, or leave out `tools`."
        )
    elif form.family is None:
        refusal = (
            "Calls of tools that the chat template of this model writes cannot be read. Serve a model of another "
            "base_model, or leave out `tools`."
        )
    is_read_here = engine.turns == "variables" or (not engine.reads_calls and form.family is not None)
    return ChatRules(form if is_read_here else None, refusal, engine.turns, prompt)


class ChatExchange:
    """A request and its reply."""

    def __init__(self, request: Body, rules: ChatRules) -> None:
        """Raises RefusedRequest if the model cannot answer the request as it is meant."""
        self.id = f"chatcmpl-{secrets.token_hex(16)}"
        self.request = request
        self._rules = rules
        tools = _declared(request, rules)
        self.engine_request = dict(request)
        if rules.prompt is not None:
            self.engine_request["messages"] = rules.prompted(request.get("messages"))
        if rules.form is not None:
            choice = self.engine_request.pop("tool_choice", None)
            if choice == "none":
                tools = []
                self.engine_request.pop("tools", None)
            elif choice not in (None, "auto"):
                raise RefusedRequest(
                    "This engine cannot force a call. Send the tool_choice `auto` or `none`, or serve the model with "
                    "vLLM.",
                    param="tool_choice",
                )
            turns = [_as_templates_read(turn) for turn in require_turns(self.engine_request.get("messages"))]
            if rules.turns == "variables":
                self.engine_request = llama_cpp_request(self.engine_request, turns, tools, rules.form.stops)
            else:
                self.engine_request["messages"] = [packed_turn(turn) for turn in turns]
        self._shows_usage = _asks_for_usage(request)
        if request.get("stream") is True and not self._shows_usage:  # it is counted all the same
            self.engine_request["stream_options"] = {"include_usage": True}
        self._tools = json.dumps(tools, ensure_ascii=False) if tools else None
        self._one_call = request.get("parallel_tool_calls") is False
        self._streams: dict[int, TurnStream] = {}
        self._parts = StreamedReply()

    def reply(self, document: Body) -> Body:
        """Return the client's reply to a request that does not stream. document: the engine's."""
        document = {**document, "id": self.id}
        if self._rules.form is not None:
            document["choices"] = [self._choice(choice, self._rules.form) for choice in document["choices"]]
        return document

    def chunks(self, chunk: Body) -> list[Body]:
        """Return the client's chunks for one chunk of the engine."""
        chunk = {**chunk, "id": self.id}
        form = self._rules.form
        choices = chunk.get("choices") or []
        if not choices and chunk.get("usage") and not self._shows_usage:
            self._parts.add(chunk)
            return []
        chunks = [chunk] if form is None or not choices else self._read_chunk(chunk, choices[0], form)
        for part in chunks:
            self._parts.add(part)
        return chunks

    def streamed_reply(self) -> Body | None:
        """Return the whole reply that the chunks make; None if it did not end."""
        return self._parts.whole()

    def _choice(self, choice: Body, form: AnswerForm) -> Body:
        answer, calls = read_whole(form, choice["message"].get("content") or "", self._tools)
        message: Body = {"role": "assistant", "content": answer.content or (None if calls else "")}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if calls:
            message["tool_calls"] = self._calls(calls)
        return {**choice, "message": message, "finish_reason": _finish_reason(choice.get("finish_reason"), calls)}

    def _read_chunk(self, chunk: Body, choice: Body, form: AnswerForm) -> list[Body]:
        index, delta = choice.get("index", 0), choice.get("delta") or {}
        stream = self._streams.setdefault(index, TurnStream(form, self._tools))
        rest = {name: value for name, value in chunk.items() if name != "usage"}

        def made(fields: Body) -> Body:
            return {**rest, "choices": [{"index": index, "delta": fields, "finish_reason": None}]}

        chunks = [made({"role": delta["role"], "content": ""})] if delta.get("role") else []
        chunks += [made(_fields(part)) for part in stream.feed(delta.get("content") or "")]
        if choice.get("finish_reason") is None:
            return chunks
        last, calls = stream.finish()
        chunks += [made(_fields(part)) for part in last]
        for number, call in enumerate(self._calls(calls)):
            chunks.append(made({"tool_calls": [{"index": number, **call}]}))
        end = {"index": index, "delta": {}, "finish_reason": _finish_reason(choice["finish_reason"], calls)}
        return [*chunks, {**chunk, "choices": [end]}]

    def _calls(self, calls: Sequence[Call]) -> list[Body]:
        # Nine letters or digits, which Mistral's templates require when the client sends the call back.
        kept = calls[:1] if self._one_call else calls
        return [{"id": secrets.token_hex(5)[:9], "type": "function", "function": dict(call)} for call in kept]


def _asks_for_usage(request: Body) -> bool:
    options = request.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def require_turns(messages: Any) -> list[Body]:
    """Return a client's turns. Raises RefusedRequest if they are none."""
    if not isinstance(messages, list) or not all(isinstance(turn, dict) and turn.get("role") for turn in messages):
        raise RefusedRequest(
            "`messages` is not a list of turns. Send turns with `role` and `content`.", param="messages"
        )
    return messages


def _as_templates_read(turn: Body) -> Body:
    """Return a turn as models.chat.template_messages does for a row: arguments as objects, no empty keys."""
    turn = {name: value for name, value in turn.items() if value not in (None, [])}
    if isinstance(turn.get("content"), list) and turn.keys() > {"role", "content"}:
        turn["content"] = "\n".join(str(part.get("text", "")) for part in turn["content"] if isinstance(part, dict))
    if reasoning := next((turn[name] for name in _REASONING if name in turn), None):
        turn = {"thinking": reasoning, **turn, "reasoning_content": reasoning}  # as transformers does
    if turn.get("tool_calls"):
        try:
            calls = calls_of_reply(turn["tool_calls"])
            arguments = [parse_json(call["arguments"]) for call in calls]
        except ValueError:
            raise RefusedRequest(
                "The `tool_calls` of a turn are not calls of functions with JSON arguments. Send them as you got them.",
                param="messages",
            ) from None
        turn["tool_calls"] = [
            {**entry, "function": {"name": call["name"], "arguments": value}}
            for entry, call, value in zip(turn["tool_calls"], calls, arguments, strict=True)
        ]
    return {"content": "", **turn}


def _declared(request: Body, rules: ChatRules) -> list[Any]:
    """Return the tools that a request declares. Raises RefusedRequest if they are not usable."""
    if request.get("functions"):
        raise RefusedRequest("`functions` is not supported. Send the same functions as `tools`.", param="functions")
    tools = request.get("tools") or []
    if not isinstance(tools, list) or not all(map(_is_function, tools)):
        raise RefusedRequest(
            "`tools` is not a list of functions. Send entries like "
            '{"type": "function", "function": {"name": "…", "parameters": {…}}}.',
            param="tools",
        )
    if tools and rules.refusal_of_tools is not None:
        raise RefusedRequest(rules.refusal_of_tools, param="tools", code="tools_not_supported")
    return tools


def _is_function(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _finish_reason(reason: str | None, calls: Sequence[Call]) -> str | None:
    return "tool_calls" if calls and reason == "stop" else reason


def _fields(delta: Delta) -> Body:
    names = {"content": delta.content, "reasoning_content": delta.reasoning}
    return {name: text for name, text in names.items() if text}


class StreamedReply:
    """Joins the chunks of a reply."""

    def __init__(self) -> None:
        self._first: Body = {}
        self._usage: Any = None
        self._choices: dict[int, Body] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Add one chunk."""
        self._first = self._first or {**chunk, "object": "chat.completion"}
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            entry = self._choices.setdefault(
                choice.get("index", 0), {"message": {"role": "assistant", "content": None}, "finish_reason": None}
            )
            _join(entry["message"], choice.get("delta") or {})
            entry["finish_reason"] = choice.get("finish_reason") or entry["finish_reason"]

    def whole(self) -> Body | None:
        """Return the reply; None if some choice has no end."""
        if not self._choices or any(choice["finish_reason"] is None for choice in self._choices.values()):
            return None
        choices = [{"index": index, **choice} for index, choice in sorted(self._choices.items())]
        return {**self._first, "choices": choices, **({"usage": self._usage} if self._usage else {})}


def _join(message: Body, delta: Mapping[str, Any]) -> None:
    """Add a delta to a message."""
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for part in value or ():
                _join_call(calls, part)
        elif name != "role" and isinstance(value, str):
            message[name] = (message.get(name) or "") + value


def _join_call(calls: list[Body], part: Mapping[str, Any]) -> None:
    """Add a part of a call. Engines send the name first, and the arguments in pieces."""
    index = part.get("index", len(calls))
    while len(calls) <= index:
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call, function = calls[index], part.get("function") or {}
    call["id"] = part.get("id") or call["id"]
    for name in ("name", "arguments"):
        call["function"][name] += function.get(name) or ""

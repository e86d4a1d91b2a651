"""Rows of the conversations in the shapes of other tools: OpenAI's messages, ShareGPT, Alpaca."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ft_pipeline.tables.formats.tools import made_id

Message = Mapping[str, Any]
Row = dict[str, Any]


class CannotHold(Exception):
    """A shape has no place for a part of a row. The message names the part."""


def openai_row(messages: Sequence[Message], tools: str | None) -> Row:
    """Return a row as OpenAI's fine-tuning takes it: arguments are JSON texts, calls and results have ids."""
    turns: list[Row] = []
    open_ids: list[tuple[str, str]] = []
    """(name, id) of the calls that have no result yet."""
    count = 0
    for message in messages:
        turn: Row = {"role": message["role"], "content": message["content"]}
        if message.get("name") and message["role"] != "tool":
            turn["name"] = message["name"]
        if message["role"] == "tool":
            turn["tool_call_id"] = _answered_id(message, open_ids)
        if calls := message.get("tool_calls"):
            turn["content"] = message["content"] or None
            ids = [call.get("id") or made_id(number) for number, call in enumerate(calls, count + 1)]
            count += len(calls)
            open_ids = [(call["name"], identity) for call, identity in zip(calls, ids, strict=True)]
            turn["tool_calls"] = [
                {"id": identity, "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
                for call, identity in zip(calls, ids, strict=True)
            ]
        turns.append(turn | _model_keys(message))
    return {"messages": turns} | ({"tools": json.loads(tools)} if tools else {})


def _answered_id(message: Message, open_ids: list[tuple[str, str]]) -> str:
    """Return the id of the call that a result answers, and remove the call from the open ones."""
    identity = message.get("tool_call_id")
    position = next(
        (
            number
            for number, (name, call_id) in enumerate(open_ids)
            if (call_id == identity if identity else message.get("name") in (None, name))
        ),
        None,
    )
    if position is None:
        if identity:
            return str(identity)
        raise CannotHold("a result without its call")
    return open_ids.pop(position)[1]


def _model_keys(message: Message) -> Row:
    keys: Row = {}
    if message.get("reasoning_content"):
        keys["reasoning_content"] = message["reasoning_content"]
    if message.get("weight") is not None and message["role"] == "assistant":
        keys["weight"] = int(message["weight"])
    return keys


_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}


def sharegpt_row(messages: Sequence[Message], tools: str | None) -> Row:
    """Return a row as LLaMA-Factory's ShareGPT has it: a call is a turn of its own, tools are a JSON text."""
    turns: list[Row] = []
    for message in messages:
        if calls := message.get("tool_calls"):
            if message["content"]:
                raise CannotHold("text beside a call")
            values = [{"name": call["name"], "arguments": json.loads(call["arguments"])} for call in calls]
            text = json.dumps(values[0] if len(values) == 1 else values, ensure_ascii=False)
            turns.append({"from": "function_call", "value": text} | _model_keys(message))
        else:
            speaker = _SPEAKERS[message["role"]]
            turns.append({"from": speaker, "value": message["content"]} | _model_keys(message))
    flat = [tool["function"] for tool in json.loads(tools)] if tools else None
    return {"conversations": turns} | ({"tools": json.dumps(flat, ensure_ascii=False)} if flat else {})


def alpaca_row(messages: Sequence[Message], tools: str | None) -> Row:
    """Return a row with instruction and output; earlier turns are `history`."""
    if tools or any(message.get("tool_calls") or message["role"] == "tool" for message in messages):
        raise CannotHold("tools")
    if any(message.get("reasoning_content") for message in messages):
        raise CannotHold("reasoning")
    if any(message.get("weight") is not None for message in messages):
        raise CannotHold("weights of turns")
    system = [message["content"] for message in messages if message["role"] == "system"]
    spoken = [message["content"] for message in messages if message["role"] != "system"]
    if len(spoken) % 2:
        raise CannotHold("turns that are not pairs")
    row: Row = {"instruction": spoken[-2], "input": "", "output": spoken[-1]}
    if system:
        row["system"] = system[0]
    if len(spoken) > 2:
        row["history"] = [list(pair) for pair in zip(spoken[:-2:2], spoken[1:-2:2], strict=True)]
    return row


SHAPES: dict[str, Callable[[Sequence[Message], str | None], Row]] = {
    "openai": openai_row,
    "sharegpt": sharegpt_row,
    "alpaca": alpaca_row,
}
"""Format of `ft export-data` → the function that makes a row."""

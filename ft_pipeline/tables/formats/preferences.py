"""Preference rows: three texts, or two lists of turns with a common prompt."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.settings.raw_formats import THEIR_ANSWERS
from ft_pipeline.tables.formats.arrow_schema import MESSAGES, TAGS, TOOLS
from ft_pipeline.tables.formats.base import TAGS_FIELD, ArrowColumns, Column, Field, Format, Record
from ft_pipeline.tables.formats.comparison_texts import (
    TURN,
    ComparisonTexts,
    as_large,
    join_texts,
    normalise_all,
    text_scalar,
    views_of_messages,
    with_tools,
)
from ft_pipeline.tables.formats.conversation import CONVERSATIONS, TOOL_FIELDS, TURNS
from ft_pipeline.tables.formats.read_turns import read_turns
from ft_pipeline.tables.formats.tools import DECLARATIONS, check_calls, read_tools
from ft_pipeline.tables.formats.turns import Message, in_order, spoken_text
from ft_pipeline.tables.reading.describe import describe_empty, describe_value, missing_message, shorten
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty

Pair = tuple[list[Message], list[Message], list[Message]]


def convert_preferences(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    """Return (prompt messages, chosen message, rejected message, tools), or the fault of the row. The messages are
    lists, the tools JSON text or None."""
    names = {side: next((name for name in THEIR_ANSWERS[side] if name in value), None) for side in THEIR_ANSWERS}
    if any(names.values()):
        value = _with_our_names(value, names)
    value = _without_wrappers(value)
    pair, tools = _read_pair(value, sidecar), read_tools(value)
    if isinstance(tools, Fault) or isinstance(pair, Fault):
        fault = pair if isinstance(pair, Fault) else tools
        assert isinstance(fault, Fault)
        return _with_their_names(fault, names)
    prompt, *answers = pair
    faults = (check_calls([*prompt, *answer], tools) for answer in answers)
    return next((fault for fault in faults if fault), None) or (*pair, tools)


def _with_our_names(value: dict[str, Any], names: Mapping[str, str | None]) -> dict[str, Any]:
    """Return a row in OpenAI's shape as one with the turns of both sides, each with the turns of `input` before it."""
    prompt = value.get("input")
    turns = prompt.get("messages") if isinstance(prompt, dict) else None
    row = {name: item for name, item in value.items() if name not in (*names.values(), "input")}
    for side, name in names.items():
        if name is not None:
            output = value[name]
            is_list = isinstance(output, list) and isinstance(turns, list)
            row[side] = [*turns, *output] if is_list and output else output  # type: ignore[misc]
    if isinstance(prompt, dict):
        row |= {name: prompt[name] for name in DECLARATIONS if prompt.get(name)}
    return row


def _with_their_names(fault: Fault, names: Mapping[str, str | None]) -> Fault:
    """Return the fault with the names that the row has."""
    message = fault.message
    for side, name in names.items():
        if name is not None:
            message = message.replace(f"`{side}`", f"`{name}`")
    return replace(fault, message=message)


def _without_wrappers(value: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the turns of a side that is {messages: […], tools: …} in the place of that object."""
    for side in THEIR_ANSWERS:
        wrapper = value.get(side)
        if isinstance(wrapper, dict) and isinstance(wrapper.get("messages"), list):
            declared = {name: wrapper[name] for name in DECLARATIONS if wrapper.get(name)}
            value = {**declared, **value, side: wrapper["messages"]}
    return value


def _read_pair(value: dict[str, Any], sidecar: Sidecar) -> Pair | Fault:
    """Return the pair of a row with our keys, or the fault of the row."""
    for side in ("chosen", "rejected"):
        if side not in value:
            return Fault(f"missing_{side}", missing_message(value, side))
    prompt, chosen, rejected = value.get("prompt"), value["chosen"], value["rejected"]
    if prompt is None and (names := [name for name in ("conversations", "messages") if name in value]):
        return _needs_sidecar(names[0])
    if prompt is None and "prompt" in value and "prompt" in sidecar.columns.values():
        return Fault("empty_prompt", "`prompt` is null; write it, or remove the row")
    if isinstance(prompt, list):
        if "prompt" not in sidecar.columns.values():
            return _needs_sidecar("prompt")
        return _common_prompt_given(prompt, chosen, rejected, sidecar)
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _turn_lists(prompt, chosen, rejected, sidecar)
    if isinstance(chosen, dict) and isinstance(rejected, dict):
        return Fault(
            "unsupported_shape",
            "single turns as `chosen` and `rejected` need a prompt of turns, and `prompt` is "
            f"{describe_value(prompt)}; give the turns before the answer, and a sidecar that maps them: "
            "`columns: {THEIRS: prompt}`",
        )
    return _strings(value, prompt, chosen, rejected)


def _read_turns(raw: list[Any], sidecar: Sidecar) -> list[Message] | Fault:
    """Return the turns without their weights: of a pair, both answers are trained, and nothing else."""
    messages = read_turns(raw, sidecar)
    if isinstance(messages, Fault):
        return messages
    return [{key: item for key, item in message.items() if key != "weight"} for message in messages]


def _needs_sidecar(name: str) -> Fault:
    how = f"`columns: {{{name}: prompt}}`"
    return Fault("unsupported_shape", f"`{name}` holds the turns before the answer; a sidecar must say so: {how}")


def _difference(first: list[Message], second: list[Message]) -> str:
    """Return the message that says where the prompts of the two sides differ."""
    if len(first) != len(second):
        return f"`chosen` has {len(first)} turns before its answer and `rejected` {len(second)}; they must be the same"
    position = next(number for number, (left, right) in enumerate(zip(first, second, strict=True)) if left != right)
    left, right = (shorten(side[position]["content"]) for side in (first, second))
    return f"turn {position + 1} is {left} in `chosen` and {right} in `rejected`; both must answer one prompt"


def _strings(value: dict[str, Any], prompt: Any, chosen: Any, rejected: Any) -> Pair | Fault:
    for name, item in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if item is not None and not isinstance(item, str):
            return Fault(
                "wrong_type",
                f"`{name}` is {describe_value(item)}; all three must be texts, or both answers lists of turns",
            )
    if "prompt" not in value:
        return Fault("missing_prompt", missing_message(value, "prompt"))
    for name, item in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if item is None or is_empty(item):
            return Fault(f"empty_{name}", f"`{name}` is {describe_empty(item)}; write it, or remove the row")
    return [{"role": "user", "content": prompt}], _answer(chosen), _answer(rejected)


def _turn_lists(prompt: Any, chosen: list[Any], rejected: list[Any], sidecar: Sidecar) -> Pair | Fault:
    if prompt is not None and not isinstance(prompt, str):
        return Fault(
            "wrong_type", f"`prompt` is {describe_value(prompt)}; beside lists of turns it is a text, or left out"
        )
    sides: list[list[Message]] = []
    for name, raw in (("chosen", chosen), ("rejected", rejected)):
        messages = _side(name, raw, sidecar)
        if isinstance(messages, Fault):
            return messages
        sides.append(messages)
    if sides[0][:-1] != sides[1][:-1]:
        return Fault("prompt_mismatch", _difference(sides[0][:-1], sides[1][:-1]))
    prompt_messages = sides[0][:-1]
    if prompt is not None and not is_empty(prompt) and prompt.strip() != prompt_messages[-1]["content"].strip():
        last_turn = shorten(prompt_messages[-1]["content"])
        return Fault(
            "prompt_mismatch", f"`prompt` is {shorten(prompt)}, the turn that is answered is {last_turn}; keep one"
        )
    return prompt_messages, sides[0][-1:], sides[1][-1:]


def _side(name: str, raw: list[Any], sidecar: Sidecar) -> list[Message] | Fault:
    if not raw:
        return Fault(f"empty_{name}", f"`{name}` is an empty list; write the answer, or remove the row")
    messages = _read_turns(raw, sidecar)
    if isinstance(messages, Fault):
        of_the_answer = messages.code in {"empty_value", "missing_value"} and read_turns(raw[:-1], sidecar)
        if isinstance(of_the_answer, list):
            return Fault(f"empty_{name}", f"the last turn of `{name}` is empty; write it, or remove the row")
        return messages
    if len(messages) == 1:
        return Fault("missing_prompt", f"`{name}` holds one turn and no prompt before it; add the prompt")
    return in_order(messages, "assistant", sidecar.allow)


def _common_prompt_given(prompt: list[Any], chosen: Any, rejected: Any, sidecar: Sidecar) -> Pair | Fault:
    """Convert LLaMA-Factory's shape: the conversation so far, and one turn (or text) for each side."""
    if not prompt:
        return Fault("empty_prompt", "`prompt` is an empty list; write the prompt, or remove the row")
    read = _read_turns(prompt, sidecar)
    messages = read if isinstance(read, Fault) else in_order(read, "user", sidecar.allow)
    if isinstance(messages, Fault):
        return messages
    answers: list[list[Message]] = []
    for name, item in (("chosen", chosen), ("rejected", rejected)):
        answer = _single_answer(name, item, sidecar)
        if isinstance(answer, Fault):
            return answer
        answers.append(answer)
    return messages, answers[0], answers[1]


def _single_answer(name: str, item: Any, sidecar: Sidecar) -> list[Message] | Fault:
    if isinstance(item, list) and len(item) == 1:
        item = item[0]
    if item is None or (isinstance(item, str) and is_empty(item)):
        return Fault(f"empty_{name}", f"`{name}` is {describe_empty(item)}; write the answer, or remove the row")
    if isinstance(item, str):
        return _answer(item)
    if not isinstance(item, dict):
        return Fault("wrong_type", f"`{name}` is {describe_value(item)}; it must be a text or one turn")
    messages = _read_turns([item], sidecar)
    if isinstance(messages, Fault):
        return (
            Fault(f"empty_{name}", f"the turn in `{name}` is empty; write it, or remove the row")
            if messages.code in {"empty_value", "missing_value"}
            else messages
        )
    if messages[0]["role"] != "assistant":
        return Fault(
            "last_turn_not_gpt", f"`{name}` is a turn of the role {messages[0]['role']}; it must be the model's"
        )
    return messages


def _answer(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def normalized_pairs(table: pa.Table) -> list[tuple[str, str, str]]:
    """Return (prompt, chosen, rejected) of each row, normalized."""
    prompts, *answers = (table[name].combine_chunks() for name in ("prompt_messages", "chosen", "rejected"))
    return list(zip(prompt_texts(prompts), *map(answer_texts, answers), strict=True))


def prompt_texts(prompts: pa.Array) -> list[str]:
    """Return the turns of each prompt as one text, normalized."""
    turns = normalise_all(prompts.flatten().field("content")).to_pylist()
    ends = np.cumsum(pc.list_value_length(prompts).to_numpy()).tolist()
    return ["\x1f".join(turns[begin:end]) for begin, end in pairwise([0, *ends])]


def answer_texts(answers: pa.Array) -> list[str]:
    """Return each answer, a list of one turn, as a text, normalized."""
    return list(normalise_all(spoken_texts(answers.flatten())).to_pylist())


def spoken_texts(turns: pa.StructArray) -> pa.Array:
    """Return the text of each turn, with the tools that it calls, as large_string."""
    if turns.field("tool_calls").null_count == len(turns):
        return as_large(turns.field("content"))
    return pa.array(map(spoken_text, turns.to_pylist()), pa.large_string())


def comparison_texts(columns: ArrowColumns) -> ComparisonTexts:
    """Return the comparison texts of preference pairs. The rest is the chosen answer and the rejected answer.

    The words of the rejected answer are marked. Otherwise a pair and its reverse would be near duplicates.
    """
    views = views_of_messages(with_answers(columns["prompt_messages"], columns["chosen"]))
    rejected = spoken_texts(columns["rejected"].flatten())
    marked = join_texts(text_scalar(""), pc.replace_substring(normalise_all(rejected), " ", " \x1e"), "\x1e")
    answers, spoken = (join_texts(texts, marked, TURN) for texts in (views.answers, views.spoken))
    exact = join_texts(views.exact, rejected, "\x1f")
    return with_tools(ComparisonTexts(views.prompts, answers, exact, views.asked, spoken), columns["tools"])


def with_answers(prompts: pa.Array, answers: pa.Array) -> pa.Array:
    """Return the turns of each prompt and its answer as one list."""
    owners = np.concatenate([pc.list_parent_indices(side).to_numpy() for side in (prompts, answers)])
    turns = pa.concat_arrays([prompts.flatten(), answers.flatten()]).take(pa.array(np.argsort(owners, kind="stable")))
    offsets = np.searchsorted(np.sort(owners), np.arange(len(prompts) + 1))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), turns, type=prompts.type)


_TOOLS = tuple(field.name for field in TOOL_FIELDS)
FORMAT = Format(
    name="preferences",
    description="A prompt with a preferred and a rejected answer.",
    raw_row="`prompt`, `chosen`, `rejected`; OpenAI's `input`, `preferred_output`, `non_preferred_output`; or "
    "LLaMA-Factory's `chosen_messages`, `rejected_messages`",
    fields=(
        replace(CONVERSATIONS, has_turns=False),  # read only if a sidecar maps it to `prompt`
        replace(TURNS, has_turns=False),
        Field("prompt", "The question, or the turns before the answer", has_turns=True),
        Field("chosen", "The preferred answer, or all turns up to it", has_turns=True),
        Field("rejected", "The other answer, or all turns up to it", has_turns=True),
        Field("input", "OpenAI's prompt: `messages`, and perhaps `tools`"),
        *(Field(name, "Another name of `chosen`", has_turns=True) for name in THEIR_ANSWERS["chosen"]),
        *(Field(name, "Another name of `rejected`", has_turns=True) for name in THEIR_ANSWERS["rejected"]),
        *TOOL_FIELDS,
        TAGS_FIELD,
    ),
    columns=(
        Column(
            "prompt_messages",
            "The turns before the answer; the last one is the user's, or the result of a call",
            MESSAGES,
            sources=("conversations", "messages", "prompt", "input", "chosen", "rejected", *_TOOLS),
            is_prompt=True,
        ),
        Column(
            "chosen",
            "The preferred answer: one assistant turn",
            MESSAGES,
            sources=("chosen", *THEIR_ANSWERS["chosen"]),
            is_answer=True,
        ),
        Column(
            "rejected",
            "The other answer: one assistant turn",
            MESSAGES,
            sources=("rejected", *THEIR_ANSWERS["rejected"]),
        ),
        TOOLS,
        TAGS,
    ),
    required=(
        frozenset({"chosen", "rejected"}),
        *(frozenset(names) for names in zip(*THEIR_ANSWERS.values(), strict=True)),
    ),
    signs=frozenset({"chosen", "rejected"}.union(*THEIR_ANSWERS.values())),
    precedence=(("prompt", frozenset({"conversations", "messages"})),),
    checks=("too_long", "echoed_prompt", "equal_answers"),
    convert=convert_preferences,
    comparison_texts=comparison_texts,
    pair_texts=normalized_pairs,
    also_reads=("traces",),
    is_optional=True,
)

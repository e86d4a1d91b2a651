"""Convert messages to text: the chat template, prompts with examples, and where an answer begins and ends."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.tables.formats.turns import Message, plain

_PROBE_QUESTION: Message = {"role": "user", "content": "What is 2 x 7?"}
_PROBE_TOOL = {"type": "function", "function": {"name": "find", "description": "Find it", "parameters": {}}}
_PROBE_ANSWER = "Fourteen"
"""An answer that is rendered to find the stop token after it."""
END_OF_REASONING = "</think>"
"""The text between reasoning and answer that many templates use."""


def render(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool, tools: str | None = None
) -> str:
    """Return `messages` rendered by the chat template. UserError if there is no template, or it rejects them.

    tools: the declared tools as JSON text. UserError if the template does not write them.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "The base model has no chat template. Choose an instruct model, or add chat_template.jinja to its folder."
        )
    if tools is not None and not writes_tools(tokenizer):
        raise UserError(
            "The chat template omits declared tools. Choose another base_model, whose template writes them."
        )
    try:
        return tokenizer.apply_chat_template(
            template_messages(messages),
            tools=None if tools is None else json.loads(tools),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except Exception as error:  # jinja2's errors, and those that a template raises
        roles = ", ".join(message["role"] for message in messages)
        reason = str(error).rstrip(".")
        fix = "Leave out the system prompt" if roles.startswith("system") else "Leave out the conversation"
        raise UserError(
            f"The chat template rejects a conversation with the roles {roles}: {reason}. {fix}, or choose another "
            "base_model."
        ) from error


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the turns as chat templates read them: calls of tools in OpenAI's shape, but with their arguments as an
    object, since most templates write a text as a JSON string. Weights are left out."""
    return [
        {
            key: [_function_call(call) for call in item] if key == "tool_calls" else item
            for key, item in message.items()
            if key != "weight"
        }
        for message in plain(messages)
    ]


def _function_call(call: dict[str, str]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": json.loads(call["arguments"])}
    return {**({"id": call["id"]} if "id" in call else {}), "type": "function", "function": function}


@lru_cache(maxsize=4)
def writes_tools(tokenizer: Any) -> bool:
    """Return whether the chat template writes declared tools."""
    texts = [
        tokenizer.apply_chat_template([_PROBE_QUESTION], tools=tools, tokenize=False) for tools in ([_PROBE_TOOL], None)
    ]
    return texts[0] != texts[1]


def with_prompt(
    messages: Sequence[Message],
    system_prompt: str | None,
    examples: Sequence[Sequence[Message]],
    *,
    replace_system: bool = False,
) -> list[Message]:
    """Return `messages` after a system prompt and fixed few-shot examples.

    A system turn in `messages` has priority. replace_system: the system prompt takes its place.
    """
    turns = [dict(message) for message in messages]
    system = [turns.pop(0)] if turns and turns[0]["role"] == "system" else []
    if system_prompt and (replace_system or not system):
        system = [{"role": "system", "content": system_prompt}]
    shots = [dict(message) for example in examples for message in example if message["role"] != "system"]
    return [*system, *shots, *turns]


def pick_examples(rows: Sequence[dict[str, Any]], k: int, seed: int, named: Sequence[str] = ()) -> list[list[Message]]:
    """Return `k` fixed single-turn examples from the train split of `conversations` rows, spread over files.

    They are chosen by a salted hash of the id, so that the choice does not depend on the order of the rows, and a new
    row replaces at most one example. UserError if the train split has fewer than `k`.
    named: ids of the rows to return in their place, in this order, without those that are gone. UserError if all are.
    """
    if named:
        return _named_examples(rows, named, seed)
    messages = (plain(row["messages"]) for row in pick_rows(rows, k, seed))
    return [[message for message in example if message["role"] != "system"] for example in messages]


def pick_rows(rows: Sequence[dict[str, Any]], k: int, seed: int) -> list[dict[str, Any]]:
    """Return the rows of `k` fixed examples, as pick_examples chooses them. UserError as there."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in single_turn_rows(rows, k, seed):
        groups.setdefault((row["table"], row["file"]), []).append(row)
    picked: list[dict[str, Any]] = []
    while len(picked) < k:
        for key in sorted(groups):
            if groups[key] and len(picked) < k:
                picked.append(groups[key].pop(0))
    return picked


def _named_examples(rows: Sequence[dict[str, Any]], ids: Sequence[str], seed: int) -> list[list[Message]]:
    by_id = {row["id"]: row["messages"] for row in single_turn_rows(rows, 0, seed)}
    found = [plain(by_id[name]) for name in ids if name in by_id]
    if not found:
        raise UserError(
            f"None of the {len(ids)} rows that a prompt shows as examples is in the train split: the first is "
            f"{ids[0]!r}. Search the prompt again with `ft prompt`, or correct `example_rows`."
        )
    return [[message for message in messages if message["role"] != "system"] for messages in found]


def single_turn_rows(rows: Sequence[dict[str, Any]], minimum: int, seed: int) -> list[dict[str, Any]]:
    """Return the rows of the train split with one question and one answer, in the order of a salted hash of their id.

    UserError if there are fewer than `minimum`.
    """
    matching = [
        row
        for row in rows
        if row["split"] == "train"
        and not row.get("tools")  # another row would show the calls without the tools
        and [message["role"] for message in row["messages"] if message["role"] != "system"] == ["user", "assistant"]
    ]
    if len(matching) < minimum:
        raise UserError(
            f"few_shot is {minimum}, but the train split has {len(matching)} single-turn rows. Lower few_shot or add "
            "data."
        )
    return sorted(matching, key=lambda row: hashlib.sha256(f"{seed}:{row['id']}".encode()).hexdigest())


def prompt_and_target(tokenizer: Any, messages: Sequence[Message], tools: str | None = None) -> tuple[str, str]:
    """Split a conversation that ends with an assistant turn into context and target (what the model should write).

    The context is rendered as generation sees it. The target ends with the stop token. In `context + target`, only the
    target is trained and scored.
    """
    context = render(tokenizer, messages[:-1], add_generation_prompt=True, tools=tools)
    full = render(tokenizer, messages, add_generation_prompt=False, tools=tools)
    content = _rendered_part(messages[-1]["content"].strip(), full)
    # Some generation prompts contain text that the finished turn does not, such as the start of a reasoning block.
    begin = len(context) if full.startswith(context) else _begin_of_answer(tokenizer, messages, tools, content, full)
    answer = full.find(content, begin)
    if begin < 0 or answer < 0:
        raise UserError(
            f"The chat template changes the text of an answer ({content[:60]!r}), so it cannot be trained or scored. "
            "Choose another base_model."
        )
    _require_header_in_prompt(tokenizer, messages, tools, context, full[begin:answer])
    calls = messages[-1].get("tool_calls") or ()
    end = _end_of_turn(tokenizer, full, _end_of_calls(calls, full, answer + len(content)))
    if calls:  # control tokens may be inside a call, and close the call, all calls and then the turn
        end = max(end, _end_of_text(tokenizer, full))
    return context, full[begin:end]


def _begin_of_answer(tokenizer: Any, messages: Sequence[Message], tools: str | None, content: str, full: str) -> int:
    """Return where the text of the last turn begins in `full`; -1 if it is not found."""
    if content:
        return full.rfind(content)
    probe = [*messages[:-1], {"role": "assistant", "content": _PROBE_ANSWER}]
    header, _, _ = render(tokenizer, probe, add_generation_prompt=False, tools=tools).rpartition(_PROBE_ANSWER)
    return len(header) if full.startswith(header) else -1


def _end_of_calls(calls: Sequence[dict[str, str]], full: str, begin: int) -> int:
    """Return the index after the calls of tools of a turn whose text ends at `begin`.

    Templates write control tokens between the parts of a call. UserError if the template leaves out a call.
    """
    position = begin
    for call in calls:
        found = full.find(call["name"], position)
        if found < 0:
            raise UserError(
                f"The chat template omits the call of the tool {call['name']!r}. Choose another base_model, whose "
                "template writes calls of tools."
            )
        position = _end_of_arguments(json.loads(call["arguments"]), full, found + len(call["name"]))
    return position


def _end_of_arguments(arguments: Any, full: str, begin: int) -> int:
    """Return the index after the arguments of a call: one JSON text, or each argument written separately."""
    for separators in ((", ", ": "), (",", ":")):
        text = json.dumps(arguments, ensure_ascii=False, separators=separators)
        if (found := full.find(text, begin)) >= 0:
            return found + len(text)
    position = begin
    for value in arguments.values() if isinstance(arguments, dict) else ():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        position = max(position, full.find(text, position) + len(text))
    return position


def _require_header_in_prompt(
    tokenizer: Any, messages: Sequence[Message], tools: str | None, context: str, header: str
) -> None:
    """Raise UserError if a prompt ends before the answer's header, which the model would then have to write itself."""
    if not header.strip() or split_reasoning(messages[-1])[0]:
        return
    if context == render(tokenizer, messages[:-1], add_generation_prompt=False, tools=tools):
        raise UserError(
            f"The chat template writes {header.strip()!r} before an answer, but not at the end of a prompt. Change it "
            "to write this text if add_generation_prompt is true."
        )


def split_reasoning(message: Message) -> tuple[str, str]:
    """Return (reasoning, answer) of a turn: its reasoning_content, or the text before `</think>`."""
    content, reasoning = message["content"].strip(), (message.get("reasoning_content") or "").strip()
    if reasoning or message["role"] != "assistant" or END_OF_REASONING not in content:
        return reasoning, content
    before, _, answer = content.rpartition(END_OF_REASONING)
    return before.strip().removeprefix("<think>").strip(), answer.strip()


def _rendered_part(content: str, full: str) -> str:
    """Return the part of an answer that the template keeps. Some templates change the text before `</think>`."""
    return content if content in full else content.rpartition(END_OF_REASONING)[2].strip() or content


def stop_strings(tokenizer: Any) -> list[str]:
    """Return the special tokens that end a turn: the one that the template writes after an answer, eos, and the one
    after calls of tools."""
    _, target = prompt_and_target(tokenizer, [_PROBE_QUESTION, {"role": "assistant", "content": _PROBE_ANSWER}])
    ending = target[target.rindex(_PROBE_ANSWER) + len(_PROBE_ANSWER) :]
    stops = [_ending_token(tokenizer, ending), tokenizer.eos_token, _stop_after_calls(tokenizer)]
    return list(dict.fromkeys(stop for stop in stops if stop))


def _ending_token(tokenizer: Any, text: str) -> str | None:
    """Return the longest control token that ends a text."""
    return max((token for token in special_tokens(tokenizer) if token and text.endswith(token)), key=len, default=None)


def _stop_after_calls(tokenizer: Any) -> str | None:
    """Return the control token that ends a turn with calls of tools; None if the template writes none.

    A token that closes each call ends no turn, as further calls may follow.
    """
    targets = [_target_with_calls(tokenizer, number) for number in (1, 2)] if writes_tools(tokenizer) else [None]
    stop = _ending_token(tokenizer, targets[0]) if targets[0] else None
    return stop if stop and all(target is None or target.count(stop) == 1 for target in targets) else None


def _target_with_calls(tokenizer: Any, number: int) -> str | None:
    """Return what is trained of a turn with some calls of tools; None if the template writes no such turn."""
    calls = [{"id": f"c4ll0000{index}", "name": "find", "arguments": '{"number":7}'} for index in range(number)]
    messages = [_PROBE_QUESTION, {"role": "assistant", "content": "", "tool_calls": calls}]
    try:
        return prompt_and_target(tokenizer, messages, json.dumps([_PROBE_TOOL]))[1]
    except UserError:
        return None


def stop_token_ids(tokenizer: Any, model: Any = None) -> list[int]:
    """Return the ids of `stop_strings` and of the stop tokens in the model's generation config, sorted."""
    ids = {tokenizer.convert_tokens_to_ids(token) for token in stop_strings(tokenizer)}
    configured = model.generation_config.eos_token_id if model is not None else None
    if configured is not None:
        ids.update(configured if isinstance(configured, list) else [configured])
    return sorted(ids)


@lru_cache(maxsize=4)
def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the control tokens of the vocabulary, sorted."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(special | set(tokenizer.all_special_tokens)))


def _end_of_text(tokenizer: Any, text: str) -> int:
    """Return the index after the control token that ends a text, white space aside; 0 if no such token ends it."""
    stripped = text.rstrip()
    return len(stripped) if any(stripped.endswith(token) for token in special_tokens(tokenizer) if token) else 0


def _end_of_turn(tokenizer: Any, text: str, begin: int) -> int:
    """Return the index after the first control token at or after `begin`; the end of the text if none follows.

    Of two tokens at the same position, the longer one counts.
    """
    ends = [(text.find(token, begin), -len(token)) for token in special_tokens(tokenizer) if token]
    matches = [(position, negative_length) for position, negative_length in ends if position >= 0]
    if not matches:
        return len(text)
    position, negative_length = min(matches)
    return position - negative_length

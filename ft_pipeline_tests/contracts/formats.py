"""Rows of each format: good rows, a sample with the row that it becomes, and broken rows by reason code. And how each
shape of `ft export-data` is read again."""

import json
from typing import Any

from ft_pipeline_tests.tables.helpers import TRACK, TRACK_TOOL, logged_call

GOOD: dict[str, list[Any]] = {
    "alpaca": [
        {"instruction": "Where is order 10400?", "input": "", "output": "It left our warehouse on Monday."},
        {"instruction": "How do I return a kettle?", "input": "", "output": "Press Return in My Orders, then post it."},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "Where is it?"}, {"from": "gpt", "value": "With the carrier."}]},
        {
            "conversations": [
                {"from": "human", "value": "A refund, please"},
                {"from": "gpt", "value": "It is on its way."},
            ]
        },
    ],
    "chat": [
        {
            "messages": [
                {"role": "user", "content": "Where is my order at the moment?"},
                {"role": "assistant", "tool_calls": [TRACK]},
            ],
            "tools": [TRACK_TOOL],
        },
        {"prompt": "A refund, please", "completion": "It is on its way."},
    ],
    "traces": [
        logged_call("Where is it?", "With the carrier since noon."),
        logged_call("A refund, please", "It is on its way to you."),
    ],
    "text": [
        {"text": "Returns are free within 14 days of delivery."},
        {"text": "Standard delivery takes three to five working days."},
    ],
    "preferences": [
        {"prompt": "Where is it?", "chosen": "With the carrier since noon.", "rejected": "No idea."},
        {"prompt": "A refund, please", "chosen": "It is on its way to you.", "rejected": "Perhaps later."},
    ],
    "feedback": [
        {"prompt": "Where is it?", "completion": "With the carrier since noon.", "label": True},
        {"prompt": "A refund, please", "completion": "You may have it later.", "label": False},
    ],
    "unlabelled": [{"instruction": "Is the shop open today?"}, {"instruction": "Can I pay by card at the door?"}],
}
"""Format → two good rows."""
QUESTION, ANSWER = {"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "With the carrier."}
OTHER_ANSWER = {"role": "assistant", "content": "No idea."}
SAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "alpaca": (
        {"instruction": "Where is it?", "output": "With the carrier.", "system": "Be brief.", "history": [["a", "b"]]},
        {
            "instruction": "Where is it?",
            "input": "",
            "output": "With the carrier.",
            "system": "Be brief.",
            "history": [["a", "b"]],
        },
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Where is it?"}, {"from": "gpt", "value": "With the carrier."}]},
        {"messages": [QUESTION, ANSWER]},
    ),
    "chat": (
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
                {**QUESTION, "name": "Ada"},
                {"role": "assistant", "content": None, "tool_calls": [TRACK], "weight": 0},
                {"role": "tool", "tool_call_id": "call_1", "content": ""},
                {**ANSWER, "reasoning": "It was shipped.", "refusal": None},
            ],
            "tools": [TRACK_TOOL],
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {**QUESTION, "name": "Ada"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"id": "call_1", "name": "track", "arguments": '{"order":7}'}],
                    "weight": 0.0,
                },
                {"role": "tool", "content": "", "tool_call_id": "call_1", "name": "track"},
                {**ANSWER, "reasoning_content": "It was shipped."},
            ],
            "tools": json.dumps([TRACK_TOOL], separators=(",", ":")),
        },
    ),
    "traces": (
        {"messages": [QUESTION, ANSWER], "session": "s-1", "tags": ["workload: help"]},
        {"messages": [QUESTION, ANSWER], "session": "s-1", "tags": ["workload: help"]},
    ),
    "text": ({"text": "Returns are free."}, {"text": "Returns are free."}),
    "preferences": (
        {"prompt": "Where is it?", "chosen": "With the carrier.", "rejected": "No idea."},
        {"prompt_messages": [QUESTION], "chosen": [ANSWER], "rejected": [OTHER_ANSWER]},
    ),
    "feedback": (
        {"prompt": "Where is it?", "completion": "With the carrier.", "rating": "thumbs_up"},
        {"prompt_messages": [QUESTION], "completion": [ANSWER], "label": True},
    ),
    "unlabelled": (
        {"instruction": "Where is it?", "reference_answer": "With the carrier."},
        {"messages": [QUESTION], "reference": "With the carrier."},
    ),
}
"""Format → a raw row, and the row of the table."""


def turn(pair):
    return dict(zip(("from", "value"), pair, strict=True))


def turns(*pairs):
    return {"conversations": list(map(turn, pairs))}


ASK, TELL = ("human", "Hello there"), ("gpt", "How can I help you?")
USER, SHIPPED = {"role": "user", "content": "Where is order 7?"}, {"role": "assistant", "content": "It was shipped."}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "shipped"}


def called(calls, *after):
    """A row whose model calls tools, with the turns after that."""
    turn_with_calls = {"role": "assistant", "content": None, "tool_calls": calls}
    return {"messages": [USER, turn_with_calls, *after], "tools": [TRACK_TOOL]}


def with_arguments(arguments):
    return {"id": "call_1", "type": "function", "function": {"name": "track", "arguments": arguments}}


def pair(preferred, other, **changes):
    """A preference row in OpenAI's shape, with these names of its answers."""
    prompt = changes.get("input", {"messages": [USER]})
    return {"input": prompt, preferred: [SHIPPED], other: changes.get("rejected", [{**SHIPPED, "content": "No."}])}


PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
LITELLM = {"call_type": "acompletion", "status": "success", "model": "m", "messages": [USER], "response": "Shipped."}
THUMB_DOWN = {"source": "ANNOTATION", "name": "thumb", "dataType": "BOOLEAN", "value": 0}


def langfuse(observation, *scores):
    return {"trace": {"id": "t", "scores": scores}, "observations": [{"id": "o", **observation}]}


def otlp(attributes, **span):
    listed = [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
    return {"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": "1", "attributes": listed, **span}]}]}]}


def several_choices():
    call = logged_call("Where is it?", "With the carrier.")
    return {**call, "response": {"choices": call["response"]["choices"] * 2}}


BROKEN_ARGUMENTS = (
    *(
        '{"order": 7',
        "order=7",
        "",
        "[7]",
        "7",
        '"7"',
        '{"order": NaN}',
        '{"order": 1, "order": 2}',
        '{"a": "\\ud800"}',
    ),
    *(None, [7], 7, True),
)
BROKEN_ROWS = [
    # format, code, one broken row
    ("alpaca", "invalid_json", '{"instruction": "a", "output": "b",}'),
    ("alpaca", "invalid_json", "{'instruction': 'a', 'output': 'b'}"),
    ("alpaca", "invalid_json", b'{"instruction": "a", "output": "b\x00c"}'),
    ("alpaca", "invalid_json", '{"instruction": "a", "output": ' + "[" * 300 + "]" * 300 + "}"),
    ("alpaca", "invalid_json", "\x00\x00\x00"),
    ("alpaca", "not_utf8", b'{"instruction": "caf\xe9", "output": "b"}'),
    ("alpaca", "duplicate_key", '{"instruction": "a", "output": "b", "output": "c"}'),
    ("alpaca", "duplicate_key", '{"instruction" : "a", "output" : "b", "output" : "b"}'),
    ("alpaca", "duplicate_key", '{"instruction": "a", "output": "b", "\\u006futput": "c"}'),
    ("alpaca", "duplicate_key", '{"instruction": "a", "output": "b", "x": 1, "x": 2, "system": {"k": 1, "k": 2}}'),
    ("alpaca", "lone_surrogate", '{"instruction": "a", "output": "half \\ud83d of it"}'),
    ("sharegpt", "lone_surrogate", '{"conversations": [{"from": "human", "value": "a", "\\udc00": 1}]}'),
    ("alpaca", "control_characters", {"instruction": "a", "output": "b\x00c"}),
    ("alpaca", "control_characters", {"instruction": "a\x1b[31m", "output": "b"}),
    ("alpaca", "control_characters", {"instruction": "a", "input": "\x7f", "output": "b"}),
    ("alpaca", "control_characters", {"instruction": "a", "output": "b", "system": "be\x08brief"}),
    ("alpaca", "control_characters", {"instruction": "a", "output": "b", "history": [["q", "an\x0cswer"]]}),
    ("alpaca", "wrong_type", "null"),
    ("alpaca", "wrong_type", '["a", "b"]'),
    ("alpaca", "wrong_type", '"text"'),
    ("alpaca", "wrong_type", "7"),
    ("alpaca", "wrong_type", {"instruction": ["a"], "output": "b"}),
    ("alpaca", "wrong_type", {"instruction": "a", "output": "b", "system": 3}),
    ("alpaca", "wrong_type", {"instruction": "a", "output": "b", "history": "x"}),
    ("alpaca", "wrong_type", {"instruction": "a", "output": "b", "history": [["only a question"]]}),
    ("alpaca", "wrong_format", {"text": "A passage of some length."}),
    ("alpaca", "wrong_format", turns(ASK, TELL)),
    ("sharegpt", "wrong_format", {"instruction": "a", "output": "b"}),
    ("text", "wrong_format", {"instruction": "a", "output": "b"}),
    ("preferences", "wrong_format", {"instruction": "a", "output": "b"}),
    ("unlabelled", "wrong_format", {"text": "A passage of some length."}),
    ("alpaca", "missing_instruction", {"output": "b"}),
    ("alpaca", "missing_instruction", {"instruction": "", "output": "b"}),
    ("alpaca", "missing_instruction", {"instruction": None, "input": "x", "output": "b"}),
    ("alpaca", "missing_instruction", {"instruction": " \u200b\ufeff\u00a0", "output": "b"}),
    ("alpaca", "missing_output", {"instruction": "a"}),
    ("alpaca", "empty_output", {"instruction": "a", "output": " \t\n"}),
    ("alpaca", "empty_output", {"instruction": "a", "output": "\u200b\u200d"}),
    ("sharegpt", "missing_conversations", {"id": 1}),
    ("sharegpt", "empty_conversation", {"conversations": []}),
    ("sharegpt", "empty_conversation", {"conversations": None}),
    ("sharegpt", "empty_conversation", turns(("system", "Be brief."))),
    ("sharegpt", "wrong_type", {"conversations": "Hello"}),
    ("sharegpt", "wrong_type", {"conversations": {"from": "human", "value": "x"}}),
    ("sharegpt", "wrong_type", {"conversations": [["human", "Hello"], ["gpt", "Hi"]]}),
    ("sharegpt", "wrong_type", {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}),
    ("sharegpt", "missing_from", {"conversations": [{"from": None, "value": "x"}, {"from": "gpt", "value": "y"}]}),
    ("sharegpt", "missing_value", {"conversations": [{"from": "human"}, {"from": "gpt", "value": "y"}]}),
    ("sharegpt", "empty_value", turns(ASK, ("gpt", " \u200b"))),
    ("sharegpt", "unknown_role", turns(ASK, ("tool", "{}"), TELL)),
    ("sharegpt", "unknown_role", turns(("Human", "Hello"), TELL)),
    ("sharegpt", "first_turn_not_human", turns(TELL, ASK, TELL)),
    ("sharegpt", "first_turn_not_human", turns(("system", "Be brief."), TELL)),
    ("sharegpt", "non_alternating", turns(ASK, ASK, TELL)),
    ("sharegpt", "last_turn_not_gpt", turns(ASK, TELL, ("human", "Thanks"))),
    ("sharegpt", "last_turn_not_gpt", turns(ASK)),
    ("sharegpt", "no_trained_turn", {"conversations": [turn(ASK), {**turn(TELL), "weight": 0}]}),
    ("sharegpt", "wrong_type", {"conversations": [turn(ASK), {**turn(TELL), "weight": "0"}]}),
    ("sharegpt", "wrong_type", {"conversations": [turn(ASK), {**turn(TELL), "weight": True}]}),
    ("sharegpt", "wrong_type", {"conversations": [turn(ASK), {**turn(TELL), "weight": 2}]}),
    ("sharegpt", "unsupported_shape", {"conversations": [turn(ASK), {**turn(TELL), "weight": 0.5}]}),
    ("alpaca", "wrong_type", {"instruction": "a", "output": "b", "tags": 3}),
    ("sharegpt", "wrong_type", {**turns(ASK, TELL), "tags": ["billing", 3]}),
    ("text", "wrong_type", {"text": "A passage of some length.", "tags": {"billing": True}}),
    ("preferences", "wrong_type", {"prompt": "a", "chosen": "b", "rejected": "c", "tags": [["billing"]]}),
    ("unlabelled", "wrong_type", {"instruction": "a", "tags": [None]}),
    ("unlabelled", "control_characters", {"instruction": "a", "tags": ["bill\x00ing"]}),
    ("sharegpt", "system_not_first", turns(ASK, TELL, ("system", "Be brief."))),
    ("sharegpt", "output_equals_input", turns(("human", "Say this back to me"), ("gpt", "say this back to me."))),
    ("sharegpt", "special_tokens", turns(ASK, ("gpt", "ok<|im_end|>"))),
    ("sharegpt", "refusal_boilerplate", turns(ASK, ("gpt", "As an AI language model, I cannot do that."))),
    ("sharegpt", "unresolved_placeholder", turns(ASK, ("gpt", "Dear {{Customer Name}}, welcome."))),
    ("sharegpt", "too_long", turns(ASK, ("gpt", "word " * 10_001))),
    ("text", "missing_text", {"content": "A passage of some length."}),
    ("text", "empty_text", {"text": "\u2060 \n"}),
    ("text", "too_short", {"text": "  nine chr  "}),
    ("text", "special_tokens", {"text": "The end of this one.<|endoftext|>"}),
    ("alpaca", "too_long", {"instruction": "a", "input": "x" * 25_000, "output": "y" * 25_001}),
    ("preferences", "missing_prompt", {"chosen": "a", "rejected": "b"}),
    (
        "preferences",
        "missing_prompt",
        {"chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]},
    ),
    ("preferences", "empty_prompt", {"prompt": None, "chosen": "a", "rejected": "b"}),
    ("preferences", "missing_chosen", {"prompt": "a", "rejected": "b"}),
    ("preferences", "missing_rejected", {"prompt": "a", "chosen": "b"}),
    ("preferences", "empty_chosen", {"prompt": "a", "chosen": "\u200b", "rejected": "b"}),
    ("preferences", "empty_rejected", {"prompt": "a", "chosen": "b", "rejected": None}),
    (
        "preferences",
        "empty_rejected",
        {"chosen": turns(ASK, TELL)["conversations"], "rejected": turns(ASK, ("gpt", ""))["conversations"]},
    ),
    ("preferences", "chosen_equals_rejected", {"prompt": "a", "chosen": "Yes, it is!", "rejected": " yes,  it is"}),
    (
        "preferences",
        "prompt_mismatch",
        {
            "chosen": turns(ASK, TELL)["conversations"],
            "rejected": turns(("human", "Other"), ("gpt", "No"))["conversations"],
        },
    ),
    (
        "preferences",
        "unsupported_shape",
        {**turns(ASK), "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}},
    ),
    (
        "preferences",
        "unsupported_shape",
        {"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"},
    ),
    ("preferences", "wrong_type", {"prompt": "a", "chosen": "b", "rejected": ["c"]}),
    ("preferences", "wrong_type", {"prompt": 4, "chosen": "b", "rejected": "c"}),
    (
        "preferences",
        "contradicting_pair",
        {"prompt": "where is it", "chosen": "no idea", "rejected": "With the carrier since noon"},
    ),
    ("preferences", "output_equals_input", {"prompt": "Say this back", "chosen": "say this back", "rejected": "c"}),
    ("unlabelled", "last_turn_not_human", turns(ASK, TELL)),
    ("unlabelled", "missing_instruction", {"instruction": ""}),
    ("unlabelled", "missing_instruction", {"question": "x"}),
    ("unlabelled", "non_alternating", turns(ASK, ASK)),
    ("chat", "wrong_format", pair("preferred_output", "non_preferred_output")),
    ("chat", "wrong_format", {"messages": [USER], "reference_answer": "Shipped"}),
    ("chat", "wrong_format", {"conversations": [turn(ASK), turn(TELL)]}),
    ("chat", "wrong_type", {"prompt": "Where is it?", "completion": None}),
    ("chat", "wrong_type", {"prompt": "Where is it?", "completion": {"content": "Shipped."}}),
    ("chat", "missing_conversations", {"completion": "Shipped."}),
    ("chat", "missing_value", {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": []}]}),
    ("chat", "empty_value", {"messages": [USER, {"role": "assistant", "content": "", "refusal": ""}]}),
    ("chat", "missing_value", {"messages": [{"role": "user", "content": []}, SHIPPED]}),
    ("chat", "wrong_type", {"messages": [USER, {"role": "assistant", "refusal": 3}]}),
    ("chat", "wrong_type", {"messages": [{"role": "user", "content": {"text": "x"}}, SHIPPED]}),
    ("chat", "wrong_type", {"messages": [{**USER, "name": 7}, SHIPPED]}),
    ("chat", "unknown_role", {"messages": [USER, {"role": "model", "content": "Shipped."}]}),
    ("chat", "unknown_role", {"messages": [USER, SHIPPED, {"role": "ipython", "content": "7"}, SHIPPED]}),
    ("chat", "unsupported_shape", {"messages": [USER, {**SHIPPED, "refusal": "I cannot say."}]}),
    ("chat", "unsupported_shape", {"messages": [{"role": "system", "content": "A"}, USER, SHIPPED], "system": "B"}),
    ("chat", "wrong_type", {"messages": [USER, SHIPPED], "system": ["B"]}),
    ("chat", "system_not_first", {"messages": [USER, SHIPPED, {"role": "developer", "content": "A"}, USER, SHIPPED]}),
    ("chat", "no_trained_turn", {"messages": [USER, {**SHIPPED, "weight": 0}]}),
    ("chat", "last_turn_not_gpt", {"messages": [USER]}),
    ("chat", "last_turn_not_gpt", called([TRACK], RESULT)),
    ("chat", "answer_cut_off", {"messages": [USER, {"role": "assistant", "content": "<think>\nThe order is"}]}),
    (
        "chat",
        "unsupported_content",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}, SHIPPED]},
    ),
    ("chat", "unsupported_content", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}, SHIPPED]}),
    ("chat", "unsupported_content", {"messages": [{"role": "user", "content": [{"text": "x"}]}, SHIPPED]}),
    ("chat", "unsupported_tool", {"messages": [USER, SHIPPED], "tools": [{"type": "web_search"}]}),
    ("chat", "unsupported_tool", {"messages": [USER, SHIPPED], "tools": [{"type": "custom", "custom": {"name": "a"}}]}),
    ("chat", "unsupported_tool", called([{"id": "1", "type": "custom", "custom": {"name": "track", "input": "7"}}])),
    ("chat", "wrong_type", {"messages": [USER, SHIPPED], "tools": [{"type": "function"}]}),
    ("chat", "unsupported_tool", {"messages": [USER, SHIPPED], "tools": [{"type": "function", "function": "track"}]}),
    ("chat", "wrong_type", {"messages": [USER, SHIPPED], "tools": {"name": "track"}}),
    ("chat", "wrong_type", {"messages": [USER, SHIPPED], "tools": ["track"]}),
    ("chat", "wrong_type", {"messages": [USER, SHIPPED], "tools": "[{"}),
    ("chat", "wrong_type", {"messages": [USER, SHIPPED], "tools": [{"type": "function", "function": {"name": " "}}]}),
    ("chat", "wrong_type", {"messages": [USER, SHIPPED], "functions": [{"name": "track", "parameters": "none"}]}),
    ("chat", "wrong_type", called([{"id": "1", "function": {"arguments": "{}"}}])),
    ("chat", "wrong_type", called([{**TRACK, "id": 3}])),
    ("chat", "wrong_type", called(["track"])),
    ("chat", "wrong_type", called({"name": "track"})),
    *(("chat", "invalid_arguments", called([with_arguments(text)])) for text in BROKEN_ARGUMENTS),
    ("chat", "undeclared_tool", {"messages": called([TRACK])["messages"]}),
    ("chat", "undeclared_tool", {**called([TRACK]), "tools": []}),
    ("chat", "undeclared_tool", {**called([TRACK]), "tools": [{"name": "find", "parameters": {}}]}),
    ("chat", "unanswered_call", called([TRACK], SHIPPED)),
    ("chat", "unanswered_call", called([TRACK], {"role": "user", "content": "And?"}, SHIPPED)),
    ("chat", "unanswered_call", called([TRACK, {**TRACK, "id": "call_2"}], RESULT, SHIPPED)),
    ("chat", "orphaned_result", {"messages": [USER, {**RESULT, "tool_call_id": "call_9"}, SHIPPED]}),
    ("chat", "orphaned_result", called([TRACK], {**RESULT, "tool_call_id": "call_9"}, SHIPPED)),
    ("chat", "orphaned_result", called([TRACK], RESULT, RESULT, SHIPPED)),
    ("chat", "orphaned_result", called([TRACK], {"role": "function", "name": "find", "content": "7"}, SHIPPED)),
    ("chat", "too_long", {"messages": [USER, {**SHIPPED, "reasoning": "word " * 10_001}]}),
    ("preferences", "missing_prompt", pair("preferred_output", "non_preferred_output", input=None)),
    ("preferences", "missing_prompt", pair("preferred_output", "non_preferred_output", input={"messages": []})),
    ("preferences", "missing_chosen", pair("other", "non_preferred_completion")),
    ("preferences", "missing_rejected", pair("preferred_completion", "other")),
    ("preferences", "empty_chosen", {**pair("preferred_output", "non_preferred_output"), "preferred_output": []}),
    (
        "preferences",
        "empty_rejected",
        pair("preferred_output", "non_preferred_output", rejected=[{"role": "assistant", "content": " "}]),
    ),
    (
        "preferences",
        "prompt_mismatch",
        pair("preferred_output", "non_preferred_output", rejected=[SHIPPED, USER, {**SHIPPED, "content": "No."}]),
    ),
    (
        "preferences",
        "undeclared_tool",
        pair("preferred_output", "non_preferred_output", rejected=[{"role": "assistant", "tool_calls": [TRACK]}]),
    ),
    ("preferences", "wrong_type", {**pair("preferred_output", "non_preferred_output"), "preferred_output": 3}),
    ("unlabelled", "orphaned_result", {"messages": [USER, RESULT]}),
    ("unlabelled", "last_turn_not_human", {"messages": [USER, SHIPPED], "reference": "x"}),
    ("traces", "no_content", {"request": None, "response": {"choices": []}}),
    ("traces", "no_content", {"request": {"messages": []}, "response": {"choices": []}}),
    ("traces", "no_content", logged_call("Where is it?", None)),
    ("traces", "no_content", {**logged_call("Where is it?", "x"), "response": None}),
    ("traces", "no_content", {"request": {"input": "Hi", "previous_response_id": "r"}, "response": {"output": []}}),
    ("traces", "no_content", langfuse({"type": "GENERATION", "input": [USER], "output": None})),
    ("traces", "no_content", otlp({"gen_ai.operation.name": "chat"})),
    ("traces", "no_content", {**LITELLM, "messages": "redacted-by-litellm"}),
    ("traces", "no_model_call", langfuse({"type": "SPAN", "input": "a", "output": "b"})),
    ("traces", "no_model_call", otlp({"gen_ai.operation.name": "execute_tool"})),
    ("traces", "failed_call", {**logged_call("Where?", "x"), "response": {"error": {"message": "overloaded"}}}),
    ("traces", "failed_call", logged_call("Where is it?", "With", finish_reason="content_filter")),
    ("traces", "failed_call", {**LITELLM, "status": "failure", "error_str": "timeout"}),
    ("traces", "failed_call", langfuse({"type": "GENERATION", "input": [USER], "output": "x", "level": "ERROR"})),
    ("traces", "failed_call", otlp({"gen_ai.operation.name": "chat"}, status={"code": 2, "message": "timeout"})),
    ("traces", "answer_cut_off", logged_call("Where is it?", "With the", finish_reason="length")),
    ("traces", "several_choices", several_choices()),
    ("traces", "rated_down", langfuse({"type": "GENERATION", "input": [USER], "output": "x"}, THUMB_DOWN)),
    ("traces", "unsupported_shape", langfuse({"type": "GENERATION", "input": "system: a\nuser: b", "output": "x"})),
    ("traces", "unsupported_shape", {**LITELLM, "call_type": "aembedding"}),
    ("traces", "unsupported_content", logged_call("a", "b", request={"messages": [PICTURE]})),
    ("traces", "undeclared_tool", logged_call("Where is it?", {"role": "assistant", "tool_calls": [TRACK]})),
    ("traces", "unsupported_tool", {"request": {"input": "Hi"}, "response": {"output": [{"type": "web_search_call"}]}}),
    ("traces", "wrong_format", {"instruction": "a", "output": "b"}),
    ("traces", "wrong_type", ["a"]),
    ("traces", "wrong_type", {"feedback": {"rating": "up"}}),
    ("traces", "wrong_type", {"feedback": {"id": "a", "rating": 5}}),
    ("alpaca", "special_tokens", {"instruction": "a", "output": "b", "system": "[INST] obey"}),
    ("alpaca", "empty_value", {"instruction": "a", "output": "b", "history": [["q", " "]]}),
    ("chat", "output_equals_input", {"prompt": "Say this back to me", "completion": "say this back to me."}),
    ("traces", "output_equals_input", logged_call("Say this back to me", "say this back to me.")),
    ("alpaca", "special_tokens", {"instruction": "a <｜User｜> b", "output": "c"}),
    ("alpaca", "output_equals_input", {"instruction": "Repeat me, please", "output": " repeat me, PLEASE!"}),
    ("alpaca", "output_equals_input", {"instruction": "Mend this", "input": "It is fine.", "output": "It is fine."}),
    (
        "alpaca",
        "refusal_boilerplate",
        {"instruction": "a", "output": "I'm sorry, but I can't assist with that request."},
    ),
    ("alpaca", "unresolved_placeholder", {"instruction": "Where is {{Order Number}}?", "output": "b"}),
    ("alpaca", "duplicate", GOOD["alpaca"][0]),
    (
        "alpaca",
        "duplicate",
        {
            "output": GOOD["alpaca"][0]["output"],
            "instruction": GOOD["alpaca"][0]["instruction"],
            "input": None,
            "id": 9,
        },
    ),
    ("alpaca", "near_duplicate", {**GOOD["alpaca"][0], "instruction": "WHERE  is order １０４００ !"}),
    ("sharegpt", "near_duplicate", turns(("human", "where is it"), ("gpt", "With the carrier"))),
    ("text", "duplicate", GOOD["text"][0]),
    ("preferences", "duplicate", GOOD["preferences"][0]),
    ("unlabelled", "near_duplicate", {"instruction": "is the shop open today"}),
    ("feedback", "missing_label", {"prompt": "Who brings it?", "completion": "A driver."}),
    ("feedback", "unrated", {"prompt": "Who brings it?", "completion": "A driver.", "label": None}),
    ("feedback", "unknown_label", {"prompt": "Who brings it?", "completion": "A driver.", "label": "meh"}),
    ("feedback", "contradicting_feedback", {**GOOD["feedback"][0], "label": False}),
]
SET_ASIDE_LATER = {
    "excluded",
    "teacher_failed",
    "repetition",
    "answer_length",
    "not_best",
    "train_test_overlap",
    "over_length",
    "earlier_turns",
    "reference_mismatch",
}
"""Codes of rows that no table of a format sets aside."""
READ_BACK: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("chat", {}),
    "sharegpt": ("sharegpt", {"roles": {"function_call": "call", "observation": "tool"}}),
    "alpaca": ("alpaca", {}),
}
"""Shape of `ft export-data` → the format that reads its rows, and the sidecar that is written beside them."""
NEED_A_SIDECAR = {("preferences", "last_turn_not_gpt")}
"""(format, code) of rows that are only broken under a sidecar."""

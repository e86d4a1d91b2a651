"""Calls of tools, read back from what chat templates write and from what models write."""

import json
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import prompt_and_target, stop_strings
from ft_pipeline.models.tool_calls import (
    FAMILIES,
    call_family,
    calls_of_reply,
    read_answer,
    read_calls,
    read_turn,
    require_call_family,
    same_calls,
    same_calls_in_any_order,
    without_ending,
    written_turn,
)
from ft_pipeline.release.export.chat_template import template_with_prompt
from ft_pipeline_tests.tiny import tiny_tokenizer

TEMPLATES = files("trl") / "chat_templates"
BY_NAME = {family.name: family for family in FAMILIES}
TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "book",
                "description": "Book seats",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "note": {"type": "string"},
                        "seats": {"type": "integer"},
                        "price": {"type": ["number", "null"]},
                        "aisle": {"type": "boolean"},
                        "days": {"type": "array", "items": {"type": "string"}},
                        "guest": {"type": "object"},
                        "code": {"enum": ["1", "2"]},
                    },
                },
            },
        },
        {"type": "function", "function": {"name": "cancel", "description": "Cancel", "parameters": {}}},
    ]
)
BEGIN, SEPARATOR, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
"""Marks of DeepSeek."""
MISTRAL = (
    "{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{%- for message in messages %}{% if message.role == 'user' %}[INST]{{ message.content }}[/INST]"
    "{%- elif message.tool_calls %}[TOOL_CALLS]["
    "{%- for call in message.tool_calls %}"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, "id": "{{ call.id }}"}'
    "{%- if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}"
    "{%- else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def tokenizer_with(name: str) -> Any:
    template = MISTRAL if name == "mistral" else (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = tiny_tokenizer(template)
    tokenizer.bos_token = tokenizer.bos_token or "<|pad|>"
    return tokenizer


def book(**arguments: Any) -> dict[str, str]:
    return {"id": "abcd12345", "name": "book", "arguments": json.dumps(arguments, ensure_ascii=False)}


FAMILY_OF = {
    "qwen2_5": "hermes",
    "qwen3": "hermes",
    "qwen3_vl": "hermes",
    "qwen3_5_nothink": "qwen3_xml",
    "qwen3_6": "qwen3_xml",
    "nemotron_3_nano": "qwen3_xml",
    "llama3_2": "llama3_json",
    "glm4moe": "glm45",
    "gptoss": "openai",
    "gemma4": "gemma4",
    "mistral": "mistral",
}
CALLS = {
    "texts": book(note='He said "no",\n{and} left: 5 €, [ok]; x=1', seats=3),
    "types": book(seats=0, price=-2.5, aisle=True, days=["Mon", "1"], guest={"name": "Zoë", "age": 7}),
    "text_of_a_number": book(note="12", code="1", price=None),
    "nothing": {"id": "abcd12345", "name": "cancel", "arguments": "{}"},
}


@pytest.mark.parametrize("name", FAMILY_OF)
@pytest.mark.parametrize("call", CALLS)
def test_what_a_template_writes_is_read_back(name: str, call: str) -> None:
    tokenizer = tokenizer_with(name)
    family = require_call_family(tokenizer)
    assert family.name == FAMILY_OF[name]
    assert same_calls(read_calls(family, written(tokenizer, [CALLS[call]]), TOOLS)[1], [CALLS[call]])


@pytest.mark.parametrize("name", sorted(FAMILY_OF.keys() - {"llama3_2", "gptoss"}))  # these write one call per turn
def test_parallel_calls_are_read_in_order(name: str) -> None:
    tokenizer = tokenizer_with(name)
    calls = [book(note="</tool_call>" if name in {"qwen2_5", "mistral"} else "a"), CALLS["nothing"], book(seats=2)]
    read = read_calls(require_call_family(tokenizer), written(tokenizer, calls), TOOLS)[1]
    assert same_calls(read, calls)
    assert not same_calls(read, calls[::-1]) and same_calls_in_any_order(read, calls[::-1])


TEXTS = st.sampled_from(["Bern", 'a "q"', "two\nlines", "{x}: [y]", "[1]", "12", "true", "None", "", " lead", "ü€"])
PLAIN = TEXTS | st.integers(-5, 99) | st.booleans() | st.none() | st.just(2.5)
VALUES = st.recursive(PLAIN, lambda value: st.lists(value, max_size=3) | st.dictionaries(st.sampled_from("abc"), value))
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_5_nothink", "gemma4", "glm4moe"])
def test_any_arguments_of_declared_types_are_read_back(name: str) -> None:
    tokenizer = tokenizer_with(name)
    family = require_call_family(tokenizer)

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.dictionaries(st.sampled_from("pqrs"), VALUES, max_size=3))
    def read_back(arguments: dict[str, Any]) -> None:
        types = {key: {"type": TYPES.get(type(value), "null")} for key, value in arguments.items()}
        function = {"name": "book", "description": "Book", "parameters": {"type": "object", "properties": types}}
        tools = json.dumps([{"type": "function", "function": function}])
        call = book(**arguments)
        messages = [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        read = read_calls(family, written_turn(tokenizer, messages, tools), tools)[1]
        assert same_calls(read, [call]), (arguments, read)

    read_back()


def written(tokenizer: Any, calls: list[dict[str, str]]) -> str:
    """What the template writes for a turn with the calls, after the prompt."""
    messages = [{"role": "user", "content": "Two seats?"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    return written_turn(tokenizer, messages, TOOLS)


def test_a_template_with_another_form_has_no_family() -> None:
    for name in ("lfm2_2_5", "muse_glimmer"):  # they write tools, and calls in ways that are not read
        with pytest.raises(UserError, match=r"cannot be read back\. Choose a base_model"):
            require_call_family(tokenizer_with(name))
    assert call_family(tiny_tokenizer()) is None  # no tools at all
    twice = (
        (TEMPLATES / "qwen2_5.jinja")
        .read_text(encoding="utf-8")
        .replace("arguments | tojson", "arguments | tojson | tojson")
    )
    assert call_family(tiny_tokenizer(twice)) is None


@pytest.mark.parametrize(
    ("family", "text", "content", "names"),
    [
        ("hermes", "Sure.\n<tool_call>\n{\"name\": \"cancel\", \"arguments\": {}}\n</tool_call>", "Sure.", ["cancel"]),
        ("hermes", '<tool_call>\n{"name": "cancel", "argu', '<tool_call>\n{"name": "cancel", "argu', []),
        ("hermes", '<tool_call>{"name": "cancel", "arguments": "{}"}</tool_call>', None, []),  # encoded twice
        ("hermes", '<tool_call>{"name": "cancel", "arguments": {"a": NaN}}</tool_call>', None, []),
        (
            "hermes",
            '<tool_call>{"name": "cancel", "arguments": {}}</tool_call><tool_call>{"name": "boo',
            '<tool_call>{"name": "boo',
            ["cancel"],
        ),
        ("hermes", "<tool_call>" * 3, None, []),
        ("hermes", '<tool_call>{"name": "a", "arguments": ' + '{"a":' * 100_000, None, []),
        ("hermes", "<think>I could <tool_call>{}</tool_call></think>\n\nNo.", None, []),
        (
            "hermes",
            '<think>Shall I?</think>\n<tool_call>{"name": "cancel", "arguments": {"why": "</think>"}}</tool_call>',
            "<think>Shall I?</think>",
            ["cancel"],
        ),
        ("hermes", '<think>Or <tool_call>{"name": "cancel", "arguments": {}}</tool_call>', None, []),  # never ends
        ("qwen3_xml", "<tool_call>\n<function=book>\n<parameter=note>\nhalf a", None, []),
        ("qwen3_xml", "<tool_call>\n<function=cancel>\n</function>", "", ["cancel"]),  # the stop token came early
        ("llama3_json", '{"name": "cancel", "parameters": {}}', "", ["cancel"]),
        (
            "llama3_json",
            '<|python_tag|>{"name": "cancel", "parameters": {}}; {"name": "book", "parameters": {}}',
            "",
            ["cancel", "book"],
        ),
        ("llama3_json", '{"name": "Ann", "parameters": {}}', None, []),  # an answer in JSON, not a declared tool
        ("llama3_json", '{"name": "cancel", "parameters": {}} is how', None, []),
        (
            "mistral",
            '[TOOL_CALLS]cancel[ARGS]{}[TOOL_CALLS]book[CALL_ID]abc123def[ARGS]{"seats": 2}',
            "",
            ["cancel", "book"],
        ),
        ("mistral", '[TOOL_CALLS][{"name": "cancel", "arguments": {}}, {"name": 3}]', None, []),
        ("mistral", "[TOOL_CALLS][]", None, []),
        ("glm45", "<tool_call>book\n<arg_key>note</arg_key>\n<arg_value>half", None, []),
        ("glm47", "Now <tool_call>book<arg_key>seats</arg_key><arg_value>2</arg_value></tool_call>", "Now", ["book"]),
        ("gemma4", "<|tool_call>call:book{note:<|\"|>half", None, []),
        ("functiongemma", "Ok <start_function_call>call:cancel{}<end_function_call>", "Ok", ["cancel"]),
        ("deepseek_v31", f"Ok<｜tool▁calls▁begin｜>{BEGIN}cancel{SEPARATOR}{{}}{END}", "Ok", ["cancel"]),
        ("deepseek_v3", f"{BEGIN}function{SEPARATOR}cancel\n```json\n{{}}\n```{END}", "", ["cancel"]),
        ("deepseek_v3", f"{BEGIN}function{SEPARATOR}cancel\n```json\n{{", None, []),
        (
            "openai",
            '<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.cancel '
            "<|constrain|>json<|message|>{}<|call|>",
            "",
            ["cancel"],
        ),
        ("openai", "<|channel|>final<|message|>Done.", "Done.", []),
        ("openai", " to=functions.cancel<|channel|>commentary json<|message|>{", None, []),
    ],
)  # fmt: skip
def test_whole_calls_are_read_and_broken_ones_stay_text(
    family: str, text: str, content: str | None, names: list[str]
) -> None:
    read, calls = read_calls(BY_NAME[family], text, TOOLS)
    assert [call["name"] for call in calls] == names
    assert read == (text.strip() if content is None else content)


def test_the_last_call_of_function_gemma_and_its_text() -> None:
    text = "<start_function_call>call:cancel{why:<escape>a{b},c<escape>}<end_function_call>"
    assert read_calls(BY_NAME["functiongemma"], text)[1] == [{"name": "cancel", "arguments": '{"why":"a{b},c"}'}]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": "string"}, "true", "true"),
        ({"type": "integer"}, "12", 12),
        ({"type": "integer"}, "twelve", "twelve"),  # what the model wrote is kept
        ({"type": "integer"}, "true", "true"),
        ({"type": "number"}, "1e3", 1000.0),
        ({"type": "boolean"}, "True", True),  # templates write Python's words
        ({"type": ["string", "null"]}, "None", None),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "7", 7),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({"const": None}, "null", None),
        ({"type": "object"}, '{"a": "1"}', {"a": "1"}),
        ({}, "[1]", [1]),
        ({}, '"quoted"', '"quoted"'),
        ({}, "plain", "plain"),
    ],
)
def test_untyped_arguments_get_the_declared_type(schema: dict[str, Any], text: str, value: Any) -> None:
    tools = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": schema}}}}])
    written = f"<tool_call>\n<function=f>\n<parameter=x>\n{text}\n</parameter>\n</function>\n</tool_call>"
    (call,) = read_calls(BY_NAME["qwen3_xml"], written, tools)[1]
    read = json.loads(call["arguments"])["x"]
    assert read == value and type(read) is type(value)


def test_arguments_are_compared_as_values() -> None:
    def called(arguments: str) -> list[dict[str, str]]:
        return [{"name": "f", "arguments": arguments}]

    assert same_calls(called('{"a": 1, "b": [2.0]}'), called('{"b":[2],"a":1.0}'))
    assert not same_calls(called('{"a": 1}'), called('{"a": true}'))
    assert not same_calls(called('{"a": "1"}'), called('{"a": 1}'))
    assert not same_calls(called("{"), called("{}"))
    assert not same_calls(called("{}"), [])


def test_a_generated_turn_loses_its_control_tokens_but_not_its_calls() -> None:
    tokenizer = tokenizer_with("mistral")
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]"]})
    turn = read_answer(tokenizer, '[TOOL_CALLS][{"name": "cancel", "arguments": {}}]<|im_end|>', TOOLS)
    assert turn == {"role": "assistant", "content": "", "tool_calls": [{"name": "cancel", "arguments": "{}"}]}
    assert read_answer(tokenizer, "Hello <|im_end|>", TOOLS) == {"role": "assistant", "content": "Hello"}


def test_reasoning_is_set_apart() -> None:
    reasoning, reading = read_turn(BY_NAME["hermes"], "Let me see.\n</think>\n\nFine.")
    assert (reasoning, reading.content) == ("Let me see.\n</think>", "Fine.")
    assert read_turn(None, "No reasoning.")[1].content == "No reasoning."


def test_calls_of_a_reply_keep_broken_arguments() -> None:
    def entry(arguments: Any) -> dict[str, Any]:
        return {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}

    calls = calls_of_reply([entry('{"a": 1}'), entry(""), entry('{"a"')])
    assert [call["arguments"] for call in calls] == ['{"a":1}', "{}", '{"a"']
    assert calls_of_reply(None) == []
    for broken in ([entry(None)], ["f"], [{"type": "custom", "custom": {"name": "f", "input": "x"}}]):
        with pytest.raises(ValueError):
            calls_of_reply(broken)


def test_the_template_that_is_served_has_the_same_family() -> None:
    tokenizer = tokenizer_with("qwen2_5")
    examples = [[{"role": "user", "content": "One?"}, {"role": "assistant", "content": "<tool_call> is a tag."}]]
    tokenizer.chat_template = template_with_prompt(tokenizer.chat_template, "Be brief.", examples)
    assert require_call_family(tokenizer).name == "hermes"


@pytest.mark.parametrize(
    ("name", "control", "target", "stop"),
    [
        ("gptoss", ["<|channel|>", "<|message|>", "<|call|>", "<|return|>"], '{"note": "a"}<|call|>', "<|call|>"),
        (
            "gemma4",
            ["<|tool_call>", "<tool_call|>", '<|"|>', "<turn|>", "<|tool_response>"],
            '{note:<|"|>a<|"|>}<tool_call|><|tool_response>',
            "<|tool_response>",
        ),
        # closes each call, so it ends no turn
        ("mistral", ["[TOOL_CALLS]", "<|im_end|>"], '"id": "abcd12345"}]<|im_end|>', "<|im_end|>"),
        ("glm4moe", ["</tool_call>", "<|user|>"], "<arg_value>a</arg_value>\n</tool_call>", None),
    ],
)
def test_a_turn_with_calls_is_trained_to_its_end_and_generation_stops_there(
    name: str, control: list[str], target: str, stop: str | None
) -> None:
    tokenizer = tokenizer_with(name)
    tokenizer.add_special_tokens({"additional_special_tokens": control})
    messages = [
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "", "tool_calls": [book(note="a")]},
    ]
    assert prompt_and_target(tokenizer, messages, TOOLS)[1].endswith(target)
    stops = stop_strings(tokenizer)
    assert stop is None or stop in stops
    assert "</tool_call>" not in stops and "<tool_call|>" not in stops


def test_a_target_is_read_back_from_the_rendered_row() -> None:
    tokenizer = tokenizer_with("qwen3_5_nothink")
    messages = [
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "", "tool_calls": [CALLS["types"]]},
    ]
    _, target = prompt_and_target(tokenizer, messages, TOOLS)
    assert same_calls(
        read_calls(require_call_family(tokenizer), without_ending(tokenizer, target), TOOLS)[1], [CALLS["types"]]
    )

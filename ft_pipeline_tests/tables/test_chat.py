"""Rows of hosted providers: what each shape becomes."""

import json
from pathlib import Path

import pytest

from ft_pipeline.tables.formats.convert import convert
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline_tests.tables.helpers import TRACK, TRACK_TOOL, validate, write_jsonl

OUTSIDE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "outside"
USER, SHIPPED = {"role": "user", "content": "Where is order 7?"}, {"role": "assistant", "content": "It was shipped."}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call_1", "name": "track", "arguments": '{"order":7}'}],
}
TOOLS = json.dumps([TRACK_TOOL], separators=(",", ":"))


def record_of(data_format, row, sidecar=None):
    """The columns of a row that can be used."""
    record = convert(FORMATS[data_format], row, sidecar or Sidecar())
    assert not isinstance(record, Fault), record
    return dict(zip(FORMATS[data_format].column_names, record, strict=True))


def turns_of(row, sidecar=None):
    return record_of("chat", row, sidecar)["messages"]


def test_a_row_may_end_on_a_call():
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [TRACK]}], "tools": [TRACK_TOOL]}
    record = record_of("chat", row)
    assert record["messages"] == [USER, CALL] and record["tools"] == TOOLS


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"order": 7, "city": "Köln"}', '{"order":7,"city":"Köln"}'),
        ({"order": 7, "city": "Köln"}, '{"order":7,"city":"Köln"}'),
        ('{"b": 1, "a": {"d": [1, 2.50], "c": null}}', '{"b":1,"a":{"d":[1,2.5],"c":null}}'),
        ('{"id": 123456789012345678901234567890}', '{"id":123456789012345678901234567890}'),
        ("{}", "{}"),
    ],
)
def test_arguments_become_an_object_in_the_order_of_their_keys(arguments, text):
    call = {"id": "call_1", "type": "function", "function": {"name": "track", "arguments": arguments}}
    (read,) = turns_of({"messages": [USER, {"role": "assistant", "tool_calls": [call]}], "tools": [TRACK_TOOL]})[1][
        "tool_calls"
    ]
    assert read == {"id": "call_1", "name": "track", "arguments": text}
    assert json.loads(text) == (json.loads(arguments) if isinstance(arguments, str) else arguments)


def test_the_older_functions_are_tools():
    row = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "track", "arguments": '{"order": 7}'}},
            {"role": "function", "name": "track", "content": "shipped"},
            {**SHIPPED, "function_call": None},
        ],
        "functions": [TRACK_TOOL["function"]],
    }
    result = {"role": "tool", "content": "shipped", "name": "track"}
    call = {**CALL, "tool_calls": [{"name": "track", "arguments": '{"order":7}'}]}
    assert record_of("chat", row) == {"messages": [USER, call, result, SHIPPED], "tools": TOOLS, "tags": None}


def test_results_of_parallel_calls_get_the_name_of_their_call_in_any_order():
    find = {"id": "call_2", "function": {"name": "find", "arguments": "{}"}}
    row = {
        "messages": [
            USER,
            {"role": "assistant", "tool_calls": [TRACK, find]},
            {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "a"}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "b"},
            SHIPPED,
        ],
        "tools": [TRACK_TOOL, {"name": "find", "description": None, "parameters": {"type": "object"}}],
    }
    record = record_of("chat", row)
    assert [(turn["name"], turn["content"]) for turn in record["messages"][2:4]] == [("find", "a"), ("track", "b")]
    declared = json.loads(record["tools"])[1]
    assert declared == {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("answer", "turn"),
    [
        ({"content": "It was shipped.", "refusal": None, "tool_calls": None}, SHIPPED),
        ({"content": None, "refusal": "That is private."}, {**SHIPPED, "content": "That is private."}),
        ({"content": [{"type": "refusal", "refusal": "That is private."}]}, {**SHIPPED, "content": "That is private."}),
        ({"content": [{"type": "text", "text": "It was"}, {"type": "text", "text": "shipped."}]}, None),
        ({"content": "It was shipped.", "weight": 1}, SHIPPED),
        ({"content": "It was shipped.", "name": "Bo"}, {**SHIPPED, "name": "Bo"}),
        ({"content": "It was shipped.", "reasoning": "See."}, {**SHIPPED, "reasoning_content": "See."}),
        ({"content": "<think>See.</think>Shipped."}, {**SHIPPED, "content": "<think>See.</think>Shipped."}),
    ],
)
def test_an_answer_is_read_in_all_its_forms(answer, turn):
    read = turns_of({"messages": [USER, {"role": "assistant", **answer}]})[1]
    assert read == (turn or {**SHIPPED, "content": "It was\nshipped."})


def test_a_weight_of_zero_is_kept_with_its_turn():
    row = {"messages": [USER, {**SHIPPED, "weight": 0}, USER, {**SHIPPED, "weight": 1}]}
    assert [turn.get("weight") for turn in turns_of(row)] == [None, 0.0, None, None]


def test_text_and_the_calls_after_it_are_one_answer():
    called = {"role": "assistant", "content": None, "tool_calls": [TRACK]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "shipped"}
    look = {"role": "assistant", "content": "I look it up."}
    row = {"messages": [USER, look, called, result, SHIPPED], "tools": [TRACK_TOOL]}
    messages = turns_of(row)
    assert messages[1] == {**CALL, "content": "I look it up."}
    assert [turn["role"] for turn in messages] == ["user", "assistant", "tool", "assistant"]
    pair = {
        "prompt": None,
        "chosen": row["messages"],
        "rejected": [*row["messages"][:-1], {**SHIPPED, "content": "No."}],
    }
    assert record_of("preferences", {**pair, "tools": row["tools"]})["prompt_messages"] == messages[:-1]


@pytest.mark.parametrize(("weights", "weight"), [((1, 1), None), ((0, 0), 0.0), ((0, 1), None), ((1, 0), None)])
def test_an_answer_of_two_turns_is_trained_if_one_of_them_is(weights, weight):
    look = {"role": "assistant", "content": "I look it up.", "weight": weights[0]}
    called = {"role": "assistant", "tool_calls": [TRACK], "weight": weights[1]}
    row = {"messages": [USER, SHIPPED, USER, look, called], "tools": [TRACK_TOOL]}
    assert turns_of(row)[-1].get("weight") == weight


def test_a_row_whose_only_trained_turn_is_a_call_after_a_shown_text_is_kept():
    look = {"role": "assistant", "content": "I look it up.", "weight": 0}
    row = {"messages": [USER, look, {"role": "assistant", "tool_calls": [TRACK], "weight": 1}], "tools": [TRACK_TOOL]}
    assert turns_of(row) == [USER, {**CALL, "content": "I look it up."}]


def test_two_texts_in_a_row_are_no_answer_unless_a_sidecar_allows_it():
    row = {"messages": [USER, SHIPPED, {**SHIPPED, "content": "On Monday."}]}
    fault = convert(FORMATS["chat"], row)
    assert isinstance(fault, Fault) and fault.code == "non_alternating"
    assert "allow: [non_alternating]" in fault.message
    allowed = Sidecar(allow={"non_alternating"})
    assert turns_of(row, allowed) == [USER, {**SHIPPED, "content": "It was shipped.\nOn Monday."}]
    spoken = [
        {"from": "human", "value": "Hi"},
        {"from": "human", "value": "Where is it?"},
        {"from": "gpt", "value": "Out."},
    ]
    read = record_of("sharegpt", {"conversations": spoken}, allowed)["messages"]
    assert [turn["role"] for turn in read] == ["user", "user", "assistant"]
    pair = {"chosen": row["messages"], "rejected": [USER, {**SHIPPED, "content": "No."}]}
    assert record_of("preferences", pair, allowed)["chosen"][0]["content"] == "It was shipped.\nOn Monday."


def part(kind, value):
    """A part of a turn of LLaMA-Factory v1."""
    return {"type": kind, "value": value}


def v1_turn(role, *parts, weight=1.0):
    return {"role": role, "content": list(parts), "loss_weight": weight}


V1_USER = v1_turn("user", part("text", "Where is "), part("text", "order 7?"), weight=0.0)
V1_SHIPPED = v1_turn("assistant", part("text", "It was shipped."))


def test_rows_of_llamafactory_v1_are_conversations():
    value = '{"name": "track", "arguments": {"order": 7}}'
    row = {
        "messages": [
            V1_USER,
            v1_turn("assistant", part("reasoning", "Look."), part("text", "One moment."), part("tool_call", value)),
            v1_turn("tool", part("text", "shipped"), weight=0.0),
            v1_turn("assistant", part("text", "It was shipped."), weight=0.0),
        ],
        "tools": json.dumps([TRACK_TOOL]),
    }
    call = {"name": "track", "arguments": '{"order":7}'}
    assert record_of("chat", row) == {
        "messages": [
            USER,
            {"role": "assistant", "content": "One moment.", "reasoning_content": "Look.", "tool_calls": [call]},
            {"role": "tool", "content": "shipped", "name": "track"},
            {**SHIPPED, "weight": 0.0},
        ],
        "tools": TOOLS,
        "tags": None,
    }


def test_pairs_of_llamafactory_v1_are_preferences(tmp_path):
    other = v1_turn("assistant", part("text", "No."))
    row = {"chosen_messages": [V1_USER, V1_SHIPPED], "rejected_messages": [V1_USER, other]}
    record = record_of("preferences", row)
    assert (record["prompt_messages"], record["chosen"][0], record["rejected"][0]["content"]) == (
        [USER],
        SHIPPED,
        "No.",
    )
    again = {name: [v1_turn("user", part("text", "And 8?"), weight=0), turns[1]] for name, turns in row.items()}
    report = validate(write_jsonl(tmp_path / "a.jsonl", [row, again]), "preferences")
    assert (report["accepted"], report["warnings"]) == (2, [])


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (v1_turn("assistant", part("text", None)), "part 1 of turn 2 has null as its `value`"),
        (v1_turn("assistant", part("tool_call", "track(7)")), "turn 2"),
        (v1_turn("assistant", part("image_url", "a.png")), "part 1 of turn 2 is of the type 'image_url'"),
        (v1_turn("assistant", part("text", "Out."), weight=0.5), "weight 0.5"),
        ({"role": "assistant", "content": [{"type": "text", "text": None}]}, "has null as its `text`"),
        ({"role": "assistant", "content": [{"type": "text", "body": "a"}]}, "has no `text`; it has 'type', 'body'"),
    ],
)
def test_a_fault_in_a_part_names_it(turn, words):
    fault = convert(FORMATS["chat"], {"messages": [USER, turn]})
    assert isinstance(fault, Fault) and words in fault.message


def test_loss_weights_of_other_turns_are_named_only_if_they_would_train_them(tmp_path):
    rows = [
        {"messages": [V1_USER, V1_SHIPPED]},
        {"messages": [v1_turn("user", part("text", "8?"), weight=0), V1_SHIPPED]},
    ]
    assert validate(write_jsonl(tmp_path / "a.jsonl", rows), "chat")["warnings"] == []
    rows[1]["messages"][0] = v1_turn("user", part("text", "And 8?"))
    (warning,) = validate(write_jsonl(tmp_path / "a.jsonl", rows), "chat")["warnings"]
    assert "'loss_weight' of turns that are not the model's" in warning["message"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Where is order 7?", "completion": "It was shipped."},
        {"prompt": [USER], "completion": [SHIPPED]},
    ],
)
def test_a_prompt_and_its_completion_are_a_conversation(row):
    assert turns_of(row) == [USER, SHIPPED]


def test_a_system_prompt_may_be_a_column():
    assert turns_of({"messages": [USER, SHIPPED], "system": "Be brief."})[0]["content"] == "Be brief."
    system = {"role": "system", "content": "Be brief."}
    assert turns_of({"messages": [system, USER, SHIPPED], "system": "Be brief. "}) == [system, USER, SHIPPED]


def test_a_sidecar_turns_the_text_of_a_role_into_a_call():
    row = {
        "conversations": [
            {"from": "human", "value": "Where is order 7?"},
            {"from": "function_call", "value": '{"name": "track", "arguments": {"order": 7}}'},
            {"from": "observation", "value": "shipped"},
            {"from": "gpt", "value": "It was shipped."},
        ],
        "tools": json.dumps([TRACK_TOOL["function"]]),
    }
    record = record_of("sharegpt", row, Sidecar(roles={"function_call": "call", "observation": "tool"}))
    call = {**CALL, "tool_calls": [{"name": "track", "arguments": '{"order":7}'}]}
    assert record["messages"] == [USER, call, {"role": "tool", "content": "shipped", "name": "track"}, SHIPPED]
    assert record["tools"] == TOOLS


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        (
            {"conversation": "messages", "speaker": "role", "body": "content"},
            {
                "conversation": [
                    {"speaker": "user", "body": "Where is order 7?"},
                    {"speaker": "assistant", "body": "It was shipped."},
                ]
            },
        ),
        ({"messages": "conversation"}, {"conversation": [USER, SHIPPED]}),  # the direction of dataset_info.json
        ({"conversations": "messages"}, {"conversations": [USER, SHIPPED]}),
        ({"messages": "completion"}, {"prompt": [USER], "messages": [SHIPPED]}),
    ],
)
def test_a_sidecar_names_the_turns_and_their_keys(tmp_path, columns, row):
    assert turns_of({"id": 1, **row}, Sidecar(columns=columns)) == [USER, SHIPPED]
    rows = [row, json.loads(json.dumps(row).replace("7?", "8?"))]
    report = validate(write_jsonl(tmp_path / "a.jsonl", rows), "chat", sidecar={"columns": columns})
    assert (report["status"], report["accepted"], report["warnings"]) == ("accepted", 2, [])


@pytest.mark.parametrize("names", [("preferred_output", "non_preferred_output")])
@pytest.mark.parametrize("older", [False, True])
def test_openai_preferences_are_pairs(names, older):
    names = [name.replace("output", "completion") for name in names] if older else names
    other = {**SHIPPED, "content": "No."}
    row = {"input": {"messages": [USER], "tools": [TRACK_TOOL]}, names[0]: [SHIPPED], names[1]: [other]}
    expected = {"prompt_messages": [USER], "chosen": [SHIPPED], "rejected": [other], "tools": TOOLS, "tags": None}
    assert record_of("preferences", row) == expected


def test_a_pair_may_differ_after_a_common_call():
    calls = [{"role": "assistant", "tool_calls": [TRACK]}, {"role": "tool", "tool_call_id": "call_1", "content": "7"}]
    row = {
        "input": {"messages": [USER], "tools": [TRACK_TOOL]},
        "preferred_output": [*calls, SHIPPED],
        "non_preferred_output": [*calls, {**SHIPPED, "content": "No."}],
    }
    record = record_of("preferences", row)
    assert [turn["role"] for turn in record["prompt_messages"]] == ["user", "assistant", "tool"]
    assert record["chosen"] == [SHIPPED]


def test_both_sides_may_be_objects_with_messages():
    row = {"chosen": {"messages": [USER, SHIPPED]}, "rejected": {"messages": [USER, {**SHIPPED, "content": "No."}]}}
    assert record_of("preferences", row)["prompt_messages"] == [USER]


@pytest.mark.parametrize(
    ("reference", "text"), [("A-1", "A-1"), (7, "7"), ({"sku": "A-1"}, '{"sku":"A-1"}'), (" ", None)]
)
@pytest.mark.parametrize("key", ["reference", "reference_answer", "ground_truth", "target"])
def test_a_row_for_reinforcement_is_a_prompt_with_a_reference(key, reference, text):
    row = {"messages": [{"role": "developer", "content": "Be brief."}, USER], "tools": [TRACK_TOOL], key: reference}
    record = record_of("unlabelled", row)
    assert record["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (record["reference"], record["tools"]) == (text, TOOLS)


def test_keys_that_nothing_reads_are_named(tmp_path):
    row = {"messages": [USER, {**SHIPPED, "audio": {"id": "a"}, "annotations": None}], "parallel_tool_calls": True}
    report = validate(
        write_jsonl(tmp_path / "a.jsonl", [row, {"messages": [{**USER, "content": "And 8?"}, SHIPPED]}]), "chat"
    )
    warning = next(warning for warning in report["warnings"] if warning["code"] == "ignored_columns")
    assert "'audio' of turns" in warning["message"] and "'parallel_tool_calls'" in warning["message"]
    assert "annotations" not in warning["message"]


@pytest.mark.skipif(not OUTSIDE.exists(), reason="../shared/data/outside is not here")
@pytest.mark.parametrize(
    ("file", "data_format", "read", "reasons"),
    [
        ("openai_sft_tools_stock/stock_toolcall_training.jsonl", "chat", 86, {"refusal_boilerplate": [12]}),
        ("fireworks_sft_text2sql/text2sql_dataset.jsonl", "chat", 100, {}),
        ("openai_dpo_orca/validation.jsonl", "preferences", 284, {"refusal_boilerplate": [125]}),
        ("fireworks_orpo_think/dataset.jsonl", "preferences", 60, {"too_long": [29, 32, 34, 54, 57]}),
        ("openai_rft_tools/train_tool.jsonl", "unlabelled", 10, {}),
        ("openai_rft_tools/valid_tool.jsonl", "unlabelled", 10, {}),
    ],
)
def test_real_files_are_read(file, data_format, read, reasons):
    report = validate(OUTSIDE / file, data_format)
    assert (report["status"], report["read"], report["reasons"]) == ("accepted", read, reasons)
    assert report["accepted"] == read - sum(map(len, reasons.values()))

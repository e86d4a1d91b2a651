"""Tool turns, reasoning, and warnings about keys and columns that are not read."""

import pyarrow.parquet as pq
import pytest

from ft_pipeline.tables.formats.turns import plain
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.tables.helpers import build, build_chat_tables, validate, write_jsonl

TOOLS = {"roles": {"function_call": "gpt", "observation": "tool"}}
ASK, CALL = ("human", "Where is order 10400?"), ("function_call", '{"name": "track", "order": 10400}')
RESULT, TELL = ("observation", '{"state": "shipped"}'), ("gpt", "It was shipped on Monday.")


def conversation(*turns):
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]}


def reasons_of(tmp_path, row, sidecar=None, data_format="sharegpt"):
    path = write_jsonl(tmp_path / "a.jsonl", [*GOOD[data_format], row])
    return validate(path, data_format, sidecar=sidecar)["reasons"]


def set_aside_messages(tmp_path, row, sidecar=None, data_format="sharegpt"):
    build(tmp_path, data_format, {"a.jsonl": [*GOOD[data_format], row]}, sidecars={"a.jsonl": sidecar or {}})
    return pq.read_table(tmp_path / "out" / "set_aside.parquet")["message"].to_pylist()


def test_mapped_tool_turns_reach_the_conversations(tmp_path):
    rows = [conversation(("system", "Be brief."), ASK, CALL, RESULT, TELL), *GOOD["sharegpt"]]
    _, written, _ = build_chat_tables(tmp_path, {}, {"a.jsonl": rows}, sidecars={"a.jsonl": TOOLS})
    assert [(turn["role"], turn["content"]) for turn in written[0]["messages"]] == [
        ("system", "Be brief."),
        ("user", ASK[1]),
        ("assistant", CALL[1]),
        ("tool", RESULT[1]),
        ("assistant", TELL[1]),
    ]


@pytest.mark.parametrize(
    ("code", "turns"),
    [
        (None, [ASK, CALL, RESULT, RESULT, TELL]),
        (None, [ASK, RESULT, TELL]),
        (None, [ASK, CALL, RESULT, CALL, RESULT, TELL, ("human", "Thank you!"), ("gpt", "You are welcome.")]),
        ("first_turn_not_human", [RESULT, ASK, TELL]),
        ("first_turn_not_human", [("system", "Be brief."), RESULT, TELL]),
        ("non_alternating", [ASK, CALL, RESULT, ("human", "And?"), TELL]),
        ("non_alternating", [ASK, CALL, TELL]),
        ("last_turn_not_gpt", [ASK, CALL, RESULT]),
        ("system_not_first", [ASK, CALL, ("system", "Be brief."), TELL]),
        ("empty_value", [ASK, CALL, ("observation", " "), TELL]),
        ("special_tokens", [ASK, CALL, ("observation", "<|im_end|>"), TELL]),
        ("unknown_role", [ASK, CALL, ("tool", "unmapped"), TELL]),
    ],
)
def test_tool_turns_must_follow_the_order_of_turns(tmp_path, code, turns):
    assert reasons_of(tmp_path, conversation(*turns), TOOLS) == ({code: [3]} if code else {})


def test_an_unmapped_tool_role_is_named_with_its_fix(tmp_path):
    (message,) = set_aside_messages(tmp_path, conversation(ASK, CALL, RESULT, TELL))
    assert "turn 2" in message and "'function_call'" in message and "roles: {function_call: call}" in message


def row_with_reasoning(thoughts, answer="Shipped."):
    return {
        "messages": [
            {"role": "user", "content": "Where is order 7?", "reasoning_content": "not read here"},
            {"role": "assistant", "content": answer, "reasoning_content": thoughts},
        ]
    }


def test_reasoning_is_kept_unless_it_is_empty(tmp_path):
    rows = [
        row_with_reasoning("Let me see."),
        row_with_reasoning("  ", "On its way."),
        row_with_reasoning(None, "No idea."),
        *GOOD["sharegpt"],
    ]
    _, written, _ = build_chat_tables(tmp_path, {}, {"a.jsonl": rows})
    assert [plain(row["messages"])[1:] for row in written[:3]] == [
        [{"role": "assistant", "content": "Shipped.", "reasoning_content": "Let me see."}],
        [{"role": "assistant", "content": "On its way."}],
        [{"role": "assistant", "content": "No idea."}],
    ]
    assert all("reasoning_content" not in message for message in plain(written[0]["messages"])[:1])


@pytest.mark.parametrize(
    ("code", "thoughts"), [("wrong_type", ["a"]), ("special_tokens", "x <|im_end|>"), ("too_long", "word " * 10_001)]
)
def test_reasoning_is_checked_like_any_text(tmp_path, code, thoughts):
    assert reasons_of(tmp_path, row_with_reasoning(thoughts)) == {code: [3]}


def test_rows_that_differ_only_in_reasoning_are_not_duplicates(tmp_path):
    first, second = "I look the order up in the list of parcels", "Orders below ten were all sent out last week"
    path = write_jsonl(
        tmp_path / "a.jsonl", [row_with_reasoning(first), row_with_reasoning(second), row_with_reasoning(first)]
    )
    assert validate(path, "sharegpt")["reasons"] == {"duplicate": [3]}


def ignored_columns_warning(tmp_path, rows, data_format="sharegpt", sidecar=None):
    """The message of the warning about ignored columns, or None."""
    report = validate(write_jsonl(tmp_path / "a.jsonl", rows), data_format, sidecar=sidecar)
    messages = [warning["message"] for warning in report["warnings"] if warning["code"] == "ignored_columns"]
    assert len(messages) < 2
    return messages[0] if messages else None


def test_unread_keys_are_named(tmp_path):
    turns = GOOD["sharegpt"][0]["conversations"]
    assert ignored_columns_warning(tmp_path, GOOD["sharegpt"]) is None
    assert (
        ignored_columns_warning(tmp_path, [{"conversations": [{**turn, "loss": None} for turn in turns]}] * 2) is None
    )
    rows_with_loss = [{"conversations": [{**turn, "loss": False, "role": "x"} for turn in turns], "messages": []}] * 2
    message = ignored_columns_warning(tmp_path, rows_with_loss)
    for name in ("'loss' of turns", "'role' of turns ('from' is read)", "'messages' ('conversations' is read)"):
        assert name in message
    assert "'reasoning_content' of turns that are not" in ignored_columns_warning(
        tmp_path, [row_with_reasoning("a"), row_with_reasoning("b")]
    )


def test_columns_replaced_by_a_mapping_are_named(tmp_path):
    rows = [{"q": "Where?", "instruction": "not read", "output": str(n)} for n in "ab"]
    message = ignored_columns_warning(tmp_path, rows, "alpaca", {"columns": {"q": "instruction"}})
    assert "'instruction' (the sidecar maps 'q' to it)" in message
    turns = [{"from": "human", "said": "Hello there", "value": "other"}, {"from": "gpt", "said": "Hi!", "value": "x"}]
    message = ignored_columns_warning(tmp_path, [{"conversations": turns}] * 2, sidecar={"columns": {"said": "value"}})
    assert "'value' (the sidecar maps 'said' to it) of turns" in message
    build(
        tmp_path,
        "sharegpt",
        {"a.jsonl": [{"conversations": turns}] * 2},
        sidecars={"a.jsonl": {"columns": {"said": "value"}}},
    )
    assert plain(pq.read_table(tmp_path / "out" / "rows.parquet")["messages"][0].as_py())[0]["content"] == "Hello there"


def test_columns_ignored_in_favor_of_another_are_named(tmp_path):
    rows = [{"instruction": f"Ask {n}", **conversation(ASK), "system": "Be brief."} for n in "ab"]
    assert "'conversations' ('instruction' is read)" in ignored_columns_warning(tmp_path, rows, "unlabelled")
    rows = [{**conversation(("human", f"Ask {n}")), "input": "Be brief."} for n in "ab"]
    assert "'input' ('conversations' is read)" in ignored_columns_warning(tmp_path, rows, "unlabelled")
    rows = [{**row, **conversation(ASK)} for row in GOOD["preferences"]]
    assert "'conversations' ('prompt' is read)" in ignored_columns_warning(tmp_path, rows, "preferences")

"""Turns of tools, reasoning, and what is done with keys of turns that nothing reads."""

import pyarrow.parquet as pq
import pytest

from ft_pipeline.tables.formats.turns import plain
from ft_pipeline_tests.tables.helpers import GOOD, build, conversations, jsonl, validate

TOOLS = {"roles": {"function_call": "gpt", "observation": "tool"}}
ASK, CALL = ("human", "Where is order 10400?"), ("function_call", '{"name": "track", "order": 10400}')
SEEN, TELL = ("observation", '{"state": "shipped"}'), ("gpt", "It was shipped on Monday.")


def talk(*turns):
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]}


def account(tmp_path, row, sidecar=None, data_format="sharegpt"):
    path = jsonl(tmp_path / "a.jsonl", [*GOOD[data_format], row])
    return validate(path, data_format, sidecar=sidecar)["reasons"]


def message_of(tmp_path, row, sidecar=None, data_format="sharegpt"):
    build(tmp_path, data_format, {"a.jsonl": [*GOOD[data_format], row]}, sidecars={"a.jsonl": sidecar or {}})
    return pq.read_table(tmp_path / "out" / "set_aside.parquet")["message"].to_pylist()


def test_mapped_tool_turns_reach_the_conversations(tmp_path):
    rows = [talk(("system", "Be brief."), ASK, CALL, SEEN, TELL), *GOOD["sharegpt"]]
    _, written, _ = conversations(tmp_path, {}, {"a.jsonl": rows}, sidecars={"a.jsonl": TOOLS})
    assert [(turn["role"], turn["content"]) for turn in written[0]["messages"]] == [
        ("system", "Be brief."),
        ("user", ASK[1]),
        ("assistant", CALL[1]),
        ("tool", SEEN[1]),
        ("assistant", TELL[1]),
    ]


@pytest.mark.parametrize(
    ("code", "turns"),
    [
        (None, [ASK, CALL, SEEN, SEEN, TELL]),
        (None, [ASK, SEEN, TELL]),
        (None, [ASK, CALL, SEEN, CALL, SEEN, TELL, ("human", "Thank you!"), ("gpt", "You are welcome.")]),
        ("first_turn_not_human", [SEEN, ASK, TELL]),
        ("first_turn_not_human", [("system", "Be brief."), SEEN, TELL]),
        ("non_alternating", [ASK, CALL, SEEN, ("human", "And?"), TELL]),
        ("non_alternating", [ASK, CALL, TELL]),
        ("last_turn_not_gpt", [ASK, CALL, SEEN]),
        ("system_not_first", [ASK, CALL, ("system", "Be brief."), TELL]),
        ("empty_value", [ASK, CALL, ("observation", " "), TELL]),
        ("special_tokens", [ASK, CALL, ("observation", "<|im_end|>"), TELL]),
        ("unknown_role", [ASK, CALL, ("tool", "unmapped"), TELL]),
    ],
)
def test_tool_turns_stand_between_the_others(tmp_path, code, turns):
    assert account(tmp_path, talk(*turns), TOOLS) == ({code: [3]} if code else {})


def test_an_unmapped_tool_role_is_named_with_its_fix(tmp_path):
    (message,) = message_of(tmp_path, talk(ASK, CALL, SEEN, TELL))
    assert "turn 2" in message and "'function_call'" in message and "roles: {function_call: tool}" in message


@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
def test_calls_beside_the_text_are_refused(tmp_path, key):
    turns = [
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": None, key: [{"function": {"name": "track"}}]},
        {"role": "tool", "content": "shipped"},
        {"role": "assistant", "content": "Shipped."},
    ]
    assert account(tmp_path, {"messages": turns}, {"roles": {"tool": "tool"}}) == {"unsupported_shape": [3]}
    turns[1] = {"role": "assistant", "content": "I will look.", key: None}
    assert account(tmp_path, {"messages": turns}, {"roles": {"tool": "tool"}}) == {}


def thinking(thoughts, answer="Shipped."):
    return {
        "messages": [
            {"role": "user", "content": "Where is order 7?", "reasoning_content": "not read here"},
            {"role": "assistant", "content": answer, "reasoning_content": thoughts},
        ]
    }


def test_reasoning_is_kept_where_there_is_some(tmp_path):
    rows = [thinking("Let me see."), thinking("  ", "On its way."), thinking(None, "No idea."), *GOOD["sharegpt"]]
    _, written, _ = conversations(tmp_path, {}, {"a.jsonl": rows})
    assert [plain(row["messages"])[1:] for row in written[:3]] == [
        [{"role": "assistant", "content": "Shipped.", "reasoning_content": "Let me see."}],
        [{"role": "assistant", "content": "On its way."}],
        [{"role": "assistant", "content": "No idea."}],
    ]
    assert all("reasoning_content" not in message for message in plain(written[0]["messages"])[:1])


@pytest.mark.parametrize(
    ("code", "thoughts"), [("wrong_type", ["a"]), ("special_tokens", "x <|im_end|>"), ("too_long", "word " * 10_001)]
)
def test_reasoning_is_judged_like_any_text(tmp_path, code, thoughts):
    assert account(tmp_path, thinking(thoughts)) == {code: [3]}


def test_rows_that_differ_in_their_reasoning_only_are_no_copies(tmp_path):
    one, other = "I look the order up in the list of parcels", "Orders below ten were all sent out last week"
    path = jsonl(tmp_path / "a.jsonl", [thinking(one), thinking(other), thinking(one)])
    assert validate(path, "sharegpt")["reasons"] == {"duplicate": [3]}


def ignored(tmp_path, rows, data_format="sharegpt", sidecar=None):
    """What the warning names, in one text; None without a warning."""
    report = validate(jsonl(tmp_path / "a.jsonl", rows), data_format, sidecar=sidecar)
    found = [warning["message"] for warning in report["warnings"] if warning["code"] == "ignored_columns"]
    assert len(found) < 2
    return found[0] if found else None


def test_keys_that_nothing_reads_are_named(tmp_path):
    talk = GOOD["sharegpt"][0]["conversations"]
    assert ignored(tmp_path, GOOD["sharegpt"]) is None
    assert ignored(tmp_path, [{"conversations": [{**turn, "loss": None} for turn in talk]}] * 2) is None
    weighed = [{"conversations": [{**turn, "loss": False, "role": "x"} for turn in talk], "messages": []}] * 2
    message = ignored(tmp_path, weighed)
    for name in ("'loss' of turns", "'role' of turns ('from' is read)", "'messages' ('conversations' is read)"):
        assert name in message
    assert "'reasoning_content' of turns that are not" in ignored(tmp_path, [thinking("a"), thinking("b")])


def test_columns_that_a_mapping_outvotes_are_named(tmp_path):
    rows = [{"q": "Where?", "instruction": "not read", "output": str(n)} for n in "ab"]
    message = ignored(tmp_path, rows, "alpaca", {"columns": {"q": "instruction"}})
    assert "'instruction' (the sidecar maps 'q' to it)" in message
    turns = [{"from": "human", "said": "Hello there", "value": "other"}, {"from": "gpt", "said": "Hi!", "value": "x"}]
    message = ignored(tmp_path, [{"conversations": turns}] * 2, sidecar={"columns": {"said": "value"}})
    assert "'value' (the sidecar maps 'said' to it) of turns" in message
    build(
        tmp_path,
        "sharegpt",
        {"a.jsonl": [{"conversations": turns}] * 2},
        sidecars={"a.jsonl": {"columns": {"said": "value"}}},
    )
    assert plain(pq.read_table(tmp_path / "out" / "rows.parquet")["messages"][0].as_py())[0]["content"] == "Hello there"


def test_columns_that_another_one_outvotes_are_named(tmp_path):
    rows = [{"instruction": f"Ask {n}", **talk(ASK), "system": "Be brief."} for n in "ab"]
    assert "'conversations' ('instruction' is read)" in ignored(tmp_path, rows, "unlabelled")
    rows = [{**talk(("human", f"Ask {n}")), "system": "Be brief."} for n in "ab"]
    assert "'system' ('conversations' is read)" in ignored(tmp_path, rows, "unlabelled")
    rows = [{**row, **talk(ASK)} for row in GOOD["preferences"]]
    assert "'conversations' ('prompt' is read)" in ignored(tmp_path, rows, "preferences")

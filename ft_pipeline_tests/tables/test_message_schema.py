"""Weights, tags, tools and calls of tools: from raw rows and from tables to conversations, without loss."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.audit.rows import texts_of
from ft_pipeline.tables.checks.row_rules import Rows, find_faults
from ft_pipeline.tables.conversations import build_conversations
from ft_pipeline.tables.dedup.keys import keys_of, write_keys
from ft_pipeline.tables.formats.arrow_schema import ORIGIN, columns_of, schema_of
from ft_pipeline.tables.formats.convert import convert
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.row_ids import row_id, row_ids
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.tables.helpers import SETTINGS, build, build_chat_tables, validate, write_jsonl

TOOLS = json.dumps(
    [{"type": "function", "function": {"name": "track", "description": "Track", "parameters": {"type": "object"}}}],
    separators=(",", ":"),
)
ASK = {"role": "user", "content": "Where is order 10400?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call_1", "name": "track", "arguments": '{"order":10400,"city":"Köln"}'}],
}
RESULT = {"role": "tool", "content": "shipped", "tool_call_id": "call_1", "name": "track"}
TELL = {"role": "assistant", "content": "It was shipped.", "reasoning_content": "The tool says so."}
CONVERSATION = [ASK, CALL, RESULT, TELL]


def table_of(data_format, records):
    """The records as a table of their format, as build_table writes it."""
    row_format = FORMATS[data_format]
    records = [(*record, None, None)[: len(row_format.columns)] for record in records]
    origin = {"file": ["a.jsonl"] * len(records), "row": range(1, len(records) + 1)}
    columns = {**columns_of(row_format, records), **origin, "id": row_ids(row_format, records)}
    return pa.table(columns, schema=schema_of(row_format, *ORIGIN))


def faults_of(data_format, table):
    row_format = FORMATS[data_format]
    columns = {name: table[name].combine_chunks() for name in row_format.column_names}
    return find_faults(Rows.of(row_format, columns, row_format.comparison_texts(columns)), frozenset())


def write_table(folder, data_format, records, table=None):
    """Write the artifact of a table. `table`: what is written instead of the table of the records."""
    build(folder, data_format, {"a.jsonl": GOOD[data_format]})
    keys = keys_of(FORMATS[data_format], records)
    pq.write_table(table or table_of(data_format, records), folder / "out" / "rows.parquet")
    write_keys(keys, keys.exact == keys.exact, folder / "out" / "keys.parquet")
    return folder / "out"


def conversations_of(tmp_path, folders):
    build_conversations(folders, tmp_path / "conversations", settings=SETTINGS, suite=SuiteTexts(["What is it?"]))
    return pq.read_table(tmp_path / "conversations" / "rows.parquet")


def test_tools_calls_weights_and_tags_of_a_table_reach_the_conversations(tmp_path):
    later = [{**ASK, "content": "Thanks"}, {"role": "assistant", "content": "Bye!", "weight": 0.0}]
    other = [{**ASK, "content": "Do you sell lamps?"}, TELL]
    records = [([*CONVERSATION, *later], TOOLS, ["orders", "vip"]), (other, None, None)]
    (tmp_path / "s").mkdir()
    rows = conversations_of(tmp_path, {"sharegpt": write_table(tmp_path / "s", "sharegpt", records)}).to_pylist()
    assert [(plain(row["messages"]), row["tools"], row["tags"]) for row in rows] == records
    assert len({row["id"] for row in rows}) == 2


def test_a_table_of_an_older_version_becomes_conversations(tmp_path):
    folders = {}
    for name in ("alpaca", "sharegpt"):
        (tmp_path / name).mkdir()
        records = [convert(FORMATS[name], row) for row in GOOD[name]]
        table = table_of(name, records).drop_columns(["tools", "tags"])
        if name == "sharegpt":
            kept = pa.list_(pa.struct([(key, pa.string()) for key in ("role", "content", "reasoning_content")]))
            old = pa.array(
                [[{"role": turn["role"], "content": turn["content"]} for turn in row] for (row, *_) in records], kept
            )
            table = table.set_column(0, "messages", old)
        folders[name] = write_table(tmp_path / name, name, records, table)
    rows = conversations_of(tmp_path, folders)
    assert rows["tools"].null_count == rows["tags"].null_count == len(rows) == 4
    assert {key for row in rows["messages"].to_pylist() for turn in plain(row) for key in turn} == {"role", "content"}


def test_tags_are_read_and_are_no_part_of_the_row(tmp_path):
    written_by_people = {name: rows for name, rows in GOOD.items() if name != "traces"}
    tagged = {name: [{**row, "tags": ["orders", "vip"]} for row in rows] for name, rows in written_by_people.items()}
    for name, rows in tagged.items():
        (tmp_path / name).mkdir()
        build(tmp_path / name, name, {"a.jsonl": rows, "b.jsonl": [*rows, *GOOD[name]]})
        table = pq.read_table(tmp_path / name / "out" / "rows.parquet").to_pylist()
        assert [row["tags"] for row in table] == [["orders", "vip"]] * 2  # all others are duplicates of these
        assert {row["id"] for row in table} == {id_without_labels(name, row) for row in GOOD[name]}
    _, rows, _ = build_chat_tables(tmp_path, {"a.jsonl": tagged["alpaca"]}, {"a.jsonl": tagged["sharegpt"]})
    assert [row["tags"] for row in rows] == [["orders", "vip"]] * 4


def id_without_labels(name, raw):
    record = dict(zip(FORMATS[name].column_names, convert(FORMATS[name], raw), strict=True))
    columns = {
        key: cell for key, cell in record.items() if key != "tags" and (key not in {"tools", "reference"} or cell)
    }
    return hashlib.sha256(json.dumps(columns, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@pytest.mark.parametrize("tags", [None, [], "", " "])
def test_a_row_without_tags_has_null(tags):
    assert convert(FORMATS["text"], {"text": "Returns are free.", "tags": tags}) == ("Returns are free.", None)


def test_a_cell_of_a_csv_file_is_one_tag(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("instruction,output,tags\nWhere is it?,With the carrier.,BIL\nIs it open?,Yes it is.,\n")
    assert validate(path, "alpaca")["accepted"] == 2
    assert convert(FORMATS["alpaca"], {"instruction": "a", "output": "b", "tags": "BIL"})[-1] == ["BIL"]


def weighted(*weights):
    return {
        "messages": [
            turn
            for number, weight in enumerate(weights)
            for turn in (
                {"role": "user", "content": f"Question {number}?"},
                {"role": "assistant", "content": f"The answer {number}."}
                | ({} if weight == "" else {"weight": weight}),
            )
        ]
    }


def test_only_the_weight_zero_is_kept_and_the_id_does_not_depend_on_it():
    (messages, *_), (unweighted, *_) = (
        convert(FORMATS["sharegpt"], row) for row in (weighted(0, 1, 1.0, None), weighted("", "", "", ""))
    )
    assert [turn.get("weight") for turn in messages[1::2]] == [0.0, None, None, None]
    assert all("weight" not in turn for turn in messages[2:])
    assert row_id({"messages": messages}) == row_id({"messages": unweighted, "tools": None, "tags": ["a"]})


def test_a_weight_that_is_not_read_is_named(tmp_path):
    rows = [{"messages": [{**turn, "weight": 1} for turn in weighted(0, 1)["messages"]]}, *GOOD["sharegpt"]]
    (warning,) = validate(write_jsonl(tmp_path / "a.jsonl", rows), "sharegpt")["warnings"]
    assert "'weight' of turns that are not the model's" in warning["message"]
    sides = {side: [ASK, {"role": "assistant", "content": side, "weight": 0}] for side in ("chosen", "rejected")}
    (warning,) = validate(write_jsonl(tmp_path / "b.jsonl", [sides, *GOOD["preferences"]]), "preferences")["warnings"]
    assert "'weight' of turns" in warning["message"]
    assert convert(FORMATS["preferences"], sides)[1] == [{"role": "assistant", "content": "chosen"}]


def test_null_tools_are_no_part_of_an_id_and_tools_are():
    row = {"messages": [ASK, TELL]}
    assert row_id(row) == row_id({**row, "tools": None}) != row_id({**row, "tools": TOOLS})
    assert row_id(row) != row_id({"messages": [ASK, CALL]})


@pytest.mark.parametrize(
    ("code", "record"),
    [
        (
            "special_tokens",
            ([ASK, {**CALL, "tool_calls": [{"name": "find", "arguments": '{"q":"<|im_end|>"}'}]}, RESULT, TELL],),
        ),
        ("special_tokens", ([ASK, {**CALL, "tool_calls": [{"name": "[INST]", "arguments": "{}"}]}, RESULT, TELL],)),
        ("special_tokens", ([ASK, CALL, {**RESULT, "name": "</s>"}, TELL],)),
        ("special_tokens", (CONVERSATION, TOOLS.replace("Track", "<|im_start|>system"))),
        (
            "unresolved_placeholder",
            ([ASK, {**CALL, "tool_calls": [{"name": "find", "arguments": '{"q":"{{ order }}"}'}]}, RESULT, TELL],),
        ),
        (None, (CONVERSATION, TOOLS, ["orders"])),
    ],
)
def test_every_text_of_a_call_and_of_tools_is_checked(code, record):
    faults = faults_of("sharegpt", table_of("sharegpt", [record]))
    assert [fault.code for fault in faults.values()] == ([code] if code else [])


def test_pairs_whose_answers_are_different_calls_are_kept():
    other = {**CALL, "tool_calls": [{"name": "track", "arguments": '{"order":7}'}]}
    row_format = FORMATS["preferences"]
    table = table_of("preferences", [([ASK], [CALL], [other], TOOLS, None), ([ASK], [CALL], [CALL], TOOLS, None)])
    faults = faults_of("preferences", table)
    assert {row: fault.code for row, fault in faults.items()} == {1: "chosen_equals_rejected"}
    assert len({chosen for _, chosen, _ in row_format.pair_texts(table)}) == 1
    assert len({rejected for _, _, rejected in row_format.pair_texts(table)}) == 2


def test_the_audit_finds_a_sentence_inside_the_arguments_of_a_call():
    arguments = json.dumps({"note": 'Say "hello"\nto Ada'})
    turn = {**CALL, "tool_calls": [{"id": None, "name": "send", "arguments": arguments}], "reasoning_content": "Greet"}
    assert texts_of({"messages": [ASK, turn]}) == [ASK["content"], "Greet", 'Say "hello"\nto Ada']

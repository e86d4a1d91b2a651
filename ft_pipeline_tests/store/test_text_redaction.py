"""Erased texts leave every column of a table, those inside calls of tools too."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.store.text_redaction import ErasedTexts
from ft_pipeline.tables.conversations import SCHEMA

ADDRESS = 'Ada "Fenwick", 7 Mill Lane'
MARKER = "excluded:" + "ab" * 32


def row(identity: str, address: str) -> dict[str, Any]:
    call = {"id": "call_1", "name": "ship", "arguments": json.dumps({"to": address, "fast": True})}
    messages = [
        {"role": "user", "content": "Ship it, please"},
        {"role": "assistant", "content": "", "tool_calls": [call], "weight": 0.0},
        {"role": "tool", "content": "shipped", "tool_call_id": "call_1", "name": "ship"},
        {"role": "assistant", "content": "It is under way."},
    ]
    labels = {"tools": '[{"type":"function","function":{"name":"ship"}}]', "tags": [address]}
    return {"id": identity, "split": "train", "group": "g", "messages": messages, **labels, "file": "a", "row": 1}


def redacted(folder: Path, rows: list[dict[str, Any]], erased: ErasedTexts) -> list[dict[str, Any]]:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "rows.parquet")
    assert erased.redact_file(folder / "rows.parquet", folder / "new.parquet")
    assert b"Fenwick" not in (folder / "new.parquet").read_bytes()
    table = pq.read_table(folder / "new.parquet")
    assert table.schema.equals(SCHEMA)
    return table.to_pylist()


def test_an_erased_row_keeps_only_its_shape(tmp_path: Path) -> None:
    erased, other = redacted(
        tmp_path,
        [row("1", ADDRESS), row("2", "Bob")],
        ErasedTexts({"1": MARKER}, frozenset({ADDRESS}), frozenset({ADDRESS})),
    )
    assert (erased["id"], erased["tools"], erased["tags"]) == (MARKER, None, ["[forgotten]"])
    (call,) = erased["messages"][1]["tool_calls"]
    assert (call["name"], json.loads(call["arguments"])) == ("[forgotten]", "[forgotten]")
    assert erased["messages"][1]["weight"] == 0.0 and erased["messages"][2]["tool_call_id"] == "[forgotten]"
    assert json.loads(other["messages"][1]["tool_calls"][0]["arguments"])["to"] == "Bob" and other["tools"]


def test_an_erased_text_leaves_the_arguments_of_other_rows_which_stay_json(tmp_path: Path) -> None:
    (other,) = redacted(tmp_path, [row("2", ADDRESS)], ErasedTexts({}, frozenset({ADDRESS}), frozenset({ADDRESS})))
    (call,) = other["messages"][1]["tool_calls"]
    assert json.loads(call["arguments"]) == {"to": "[forgotten]", "fast": True}
    assert other["tags"] == ["[forgotten]"]


def test_the_cluster_of_an_erased_row_stays_and_changes_no_row_that_is_like_it() -> None:
    erased = ErasedTexts({"aaaa": MARKER}, cells=frozenset({"refund"}))
    first = {"id": "aaaa", "group": "g", "cluster": "test 1", "answer": "refund"}
    like = {**first, "id": "bbbb"}
    redacted_row = erased.redact_row(first)
    assert (redacted_row["id"], redacted_row["cluster"]) == (MARKER, "test 1")
    assert redacted_row["answer"] != "refund"
    assert erased.redact_row(like) == like

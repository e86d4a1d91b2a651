"""`ft export-data`: shapes, provenance, what a shape cannot hold, and the way back."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.exchange.export_rows import export_rows
from ft_pipeline.exchange.row_shapes import CannotHold, alpaca_row, openai_row, sharegpt_row
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.conversations import build_conversations
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline_tests.exchange.helpers import question
from ft_pipeline_tests.projects import project_of
from ft_pipeline_tests.tables.helpers import build

TOOLS = [{"type": "function", "function": {"name": "find", "description": "Find", "parameters": {"type": "object"}}}]


def call(number: int, **keys: Any) -> dict[str, Any]:
    function = {"name": "find", "arguments": f'{{"what":"{answer(number)}","order":[1,{{"b":2,"a":1}}]}}'}
    return {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function, **keys}]}


def answer(number: int) -> str:
    """An answer like that of no other row."""
    letters = random.Random(number)
    return " ".join("".join(letters.choices("abcdefghijklmnop", k=5)) for _ in range(14)) + "."


def turns(number: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question(number)}, {"role": "assistant", "content": answer(number)}]


ROWS: list[dict[str, Any]] = [
    {"messages": turns(0), "tags": ["vip", "mail"]},
    {"messages": [{"role": "system", "content": "Be brief."}, *turns(1), *turns(2)]},
    {"messages": [turns(3)[0], call(3, id="call_a")], "tools": TOOLS},
    {
        "messages": [
            turns(4)[0],
            call(4, id="call_b"),
            {"role": "tool", "tool_call_id": "call_b", "content": "[]"},
            turns(4)[1],
        ],
        "tools": TOOLS,
    },
    {"messages": [turns(5)[0], {**turns(5)[1], "weight": 0}, *turns(6)]},
    {"messages": [turns(7)[0], {**turns(7)[1], "reasoning_content": "Think \u2028 first."}]},
    *({"messages": turns(number)} for number in range(8, 40)),
    {"messages": [turns(40)[0], call(40)], "tools": TOOLS},
    {
        "messages": [
            turns(41)[0],
            {**call(41), "tool_calls": [*call(41)["tool_calls"], *call(42)["tool_calls"]]},
            {"role": "tool", "name": "find", "content": "[1]"},
            {"role": "tool", "name": "find", "content": "[2]"},
            turns(41)[1],
        ],
        "tools": TOOLS,
    },
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose store has these rows as conversations."""
    folder = tmp_path_factory.mktemp("project")
    project_of(folder)
    settings = DataSettings(validation_share=0.2, test_share=0.2)
    (folder / "tables").mkdir()
    build(folder / "tables", "chat", {"rows.jsonl": ROWS}, shares=settings)
    store = ArtifactStore(folder / "data" / "store")
    draft = store.begin(Spec("conversations", {}, {}))
    tables = {"chat": folder / "tables" / "out"}
    report = build_conversations(tables, draft.out, settings=settings, suite=SuiteTexts())
    artifact = store.commit(draft, {})
    assert report.accepted == len(ROWS)
    AssetPointers(store.root).write("conversations", None, artifact)
    return folder


def export(root: Path, out: Path, data_format: str, *options: str) -> dict[str, Any]:
    command = ["export-data", "--project", str(root), "--format", data_format, "--json", *options, str(out)]
    result = CliRunner().invoke(app, command)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return dict(json.loads(result.stdout))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def stored(root: Path) -> list[dict[str, Any]]:
    store = ArtifactStore(root / "data" / "store")
    pointer = AssetPointers(store.root).read("conversations")
    assert pointer is not None
    rows = pq.read_table(store.require(pointer.kind, pointer.fingerprint).path / "rows.parquet").to_pylist()
    return list(rows)


def test_openai_rows_come_back_as_the_same_rows(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    report = export(root, out, "openai")
    assert (report["written"], report["left_out"]) == (len(ROWS), {})
    (tmp_path / "back").mkdir()
    build(tmp_path / "back", "chat", {"rows.jsonl": lines(out)})
    back = pq.read_table(tmp_path / "back" / "out" / "rows.parquet")["id"].to_pylist()
    assert back == [row["id"] for row in stored(root)]


def test_openai_rows_have_what_a_provider_wants(root: Path, tmp_path: Path) -> None:
    export(root, tmp_path / "rows.jsonl", "openai")
    rows = {row["messages"][0]["content"]: row for row in lines(tmp_path / "rows.jsonl")}
    asked = rows[question(4)]
    assert asked["tools"] == TOOLS
    (made,) = asked["messages"][1]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"what": answer(4), "order": [1, {"b": 2, "a": 1}]}
    assert (made["id"], asked["messages"][2]["tool_call_id"]) == ("call_b", "call_b")
    assert asked["messages"][1]["content"] is None
    assert [turn.get("weight") for turn in rows[question(5)]["messages"]] == [None, 0, None, None]


def test_each_row_has_its_origin_in_the_same_line(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    report = export(root, out, "openai")
    origins = lines(tmp_path / "rows.jsonl.provenance.jsonl")
    assert report["files"] == [str(out), f"{out}.provenance.jsonl"]
    for row, origin in zip(lines(out), origins, strict=True):
        raw = ROWS[origin["row"] - 1]
        said = [turn["content"] for turn in row["messages"]]
        assert said == [turn["content"] for turn in raw["messages"]]
        assert (origin["table"], origin["file"], origin["tags"]) == ("chat", "rows.jsonl", raw.get("tags"))
    assert [(origin["id"], origin["split"]) for origin in origins] == [
        (row["id"], row["split"]) for row in stored(root)
    ]


def test_splits(root: Path, tmp_path: Path) -> None:
    counts = {
        name: export(root, tmp_path / f"{name}.jsonl", "openai", "--split", name)["written"]
        for name in ("train", "test")
    }
    both = export(root, tmp_path / "both.jsonl", "openai", "--split", "train", "--split", "test")
    assert both["splits"] == counts
    assert all(counts.values())


def test_sharegpt_rows_come_back_as_the_same_conversations(root: Path, tmp_path: Path) -> None:
    report = export(root, tmp_path / "rows.jsonl", "sharegpt")
    assert (report["written"], report["left_out"]) == (len(ROWS), {})
    assert report["extra_keys"] == {"tags": 1, "weight": 1, "reasoning_content": 1}
    (tmp_path / "back").mkdir()
    sidecar = {"roles": {"function_call": "call", "observation": "tool"}}
    assert "function_call: call" in (tmp_path / "rows.yaml").read_text(encoding="utf-8")
    build(tmp_path / "back", "sharegpt", {"r.jsonl": lines(tmp_path / "rows.jsonl")}, sidecars={"r.jsonl": sidecar})
    back = pq.read_table(tmp_path / "back" / "out" / "rows.parquet").to_pylist()

    def said(row: dict[str, Any]) -> Any:
        keys = ("role", "content", "reasoning_content", "weight")
        calls = [[(made["name"], made["arguments"]) for made in turn["tool_calls"] or ()] for turn in row["messages"]]
        return [[turn[key] for key in keys] for turn in row["messages"]], calls, row["tools"], row["tags"]

    assert [said(row) for row in back] == [said(row) for row in stored(root)]


def test_alpaca_counts_and_names_what_it_cannot_hold(root: Path, tmp_path: Path) -> None:
    report = export(root, tmp_path / "rows.jsonl", "alpaca")
    assert report["left_out"] == {"tools": 4, "weights of turns": 1, "reasoning": 1}
    assert sorted(report["left_out_rows"]["tools"]) == [f"chat/rows.jsonl:{row}" for row in (3, 39, 4, 40)]
    assert report["written"] == len(ROWS) - 6 == len(lines(tmp_path / "rows.jsonl.provenance.jsonl"))
    rows = {row["instruction"]: row for row in lines(tmp_path / "rows.jsonl")}
    assert rows[question(2)] == {
        "instruction": question(2),
        "input": "",
        "output": answer(2),
        "system": "Be brief.",
        "history": [[question(1), answer(1)]],
    }


def test_parquet_has_the_origin_in_columns(root: Path, tmp_path: Path) -> None:
    report = export(root, tmp_path / "rows.parquet", "parquet", "--split", "train")
    table = pq.read_table(tmp_path / "rows.parquet")
    assert {"id", "messages", "tools", "tags", "table", "file", "row", "split"} <= set(table.column_names)
    assert table.to_pylist() == [row for row in stored(root) if row["split"] == "train"]
    assert report["files"] == [str(tmp_path / "rows.parquet")]


def test_the_report_in_words(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    result = CliRunner().invoke(app, ["export-data", "--project", str(root), "--format", "alpaca", str(out)])
    assert "Left out, since the format cannot hold tools: 4 (chat/rows.jsonl:" in result.stdout.replace("\n", " ")


def test_calls_without_ids_get_some() -> None:
    messages = [
        {"role": "user", "content": "Two things."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "a", "arguments": "{}"}, {"name": "b", "arguments": "{}"}],
        },
        {"role": "tool", "content": "B", "name": "b"},
        {"role": "tool", "content": "A", "name": "a"},
        {"role": "assistant", "content": "Done."},
    ]
    row = openai_row(messages, json.dumps(TOOLS))
    assert [made["id"] for made in row["messages"][1]["tool_calls"]] == ["ftcall001", "ftcall002"]
    assert [turn["tool_call_id"] for turn in row["messages"][2:4]] == ["ftcall002", "ftcall001"]


def test_a_result_without_its_call_has_no_place_in_openai_rows() -> None:
    with pytest.raises(CannotHold, match="result"):
        openai_row([{"role": "user", "content": "Hi"}, {"role": "tool", "content": "A"}], None)


def test_text_beside_a_call_has_no_place_in_sharegpt() -> None:
    made = {"role": "assistant", "content": "I look.", "tool_calls": [{"name": "a", "arguments": "{}"}]}
    with pytest.raises(CannotHold, match="beside a call"):
        sharegpt_row([{"role": "user", "content": "Hi"}, made], None)


def test_declared_tools_have_no_place_in_alpaca() -> None:
    with pytest.raises(CannotHold, match="tools"):
        alpaca_row(turns(1), json.dumps(TOOLS))


def test_mistakes_are_refused(root: Path, tmp_path: Path) -> None:
    store = ArtifactStore(root / "data" / "store")
    out = tmp_path / "rows.jsonl"
    with pytest.raises(UserError, match=r"Unknown format 'xml'\. Choose one of"):
        export_rows(store, out, "xml", ())
    with pytest.raises(UserError, match=r"Unknown split 'dev'\. Choose one of"):
        export_rows(store, out, "openai", ("dev",))
    with pytest.raises(UserError, match="no conversations yet"):
        export_rows(ArtifactStore(tmp_path / "empty"), out, "openai", ())
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="exists already"):
        export_rows(store, out, "openai", ())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["rows.jsonl"]
    assert out.read_text(encoding="utf-8") == "mine"

"""The list of training rows: whoever has a row finds it there, with the code on the card and without this project."""

import contextlib
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.release.card.files import ROW_RECIPE
from ft_pipeline.release.disclosure.row_list import RowList, count_erased, leaf_hash, list_of_rows, tree_root
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline_tests.audit.conftest import Command, ft, ft_json, opened, released, released_once, shop
from ft_pipeline_tests.audit.shop import SECRET, Shop

__all__ = ["ft", "ft_json", "opened", "released", "released_once", "shop"]
MODEL, OTHER_MODEL = "ab" * 32, "cd" * 32
HARD = 'Tabs\t, "quotes", \\ and\u2028separators, £5 for 🪴?'
RFC_ENTRIES = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
"""Entries of the reference implementation of RFC 6962, and the roots of their trees."""
RFC_ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
CALL = {"name": "track", "arguments": '{"order":"LF-1"}', "id": "c1"}
TOOLS = [{"type": "function", "function": {"name": "track", "description": "Track", "parameters": {"type": "object"}}}]
SHAPES = {
    "alpaca": (
        {"instruction": HARD, "output": "It costs £3.95."},
        {"instruction": HARD, "input": "", "output": "It costs £3.95.", "system": None, "history": None},
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": HARD}, {"from": "gpt", "value": "In two days."}]},
        {"messages": [{"role": "user", "content": HARD}, {"role": "assistant", "content": "In two days."}]},
    ),
    "chat": (
        {
            "messages": [
                {"role": "user", "content": "Where is LF-1?"},
                {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": CALL}]},
                {"role": "tool", "tool_call_id": "c1", "content": "Dispatched"},
                {"role": "assistant", "content": "On its way.", "weight": 1},
            ],
            "tools": TOOLS,
        },
        None,
    ),
    "text": ({"text": f"Delivery times. {HARD}"}, {"text": f"Delivery times. {HARD}"}),
    "preferences": (
        {"prompt": HARD, "chosen": "In two days.", "rejected": "How dare you ask?"},
        {
            "prompt_messages": [{"role": "user", "content": HARD}],
            "chosen": [{"role": "assistant", "content": "In two days."}],
            "rejected": [{"role": "assistant", "content": "How dare you ask?"}],
        },
    ),
}
"""Format → a raw row, and the row as the card asks for it."""
OTHERS = {
    "alpaca": {"instruction": "Do you repair clocks?", "output": "Only those that we sold, within two years."},
    "sharegpt": {"conversations": [{"from": "human", "value": "Is it new?"}, {"from": "gpt", "value": "It is, yes."}]},
    "text": {"text": "Barometers need no winding, and no oil."},
    "preferences": {"prompt": "Is it new?", "chosen": "It is, yes.", "rejected": "What a question that is."},
}
"""Format → another row: a file needs two."""


def look_up(folder: Path, row: dict[str, Any]) -> str:
    """Run the code on the card in the folder with the list, with a row put in."""
    lines = [f"row = {row!r}" if line.startswith("row = ") else line for line in ROW_RECIPE.splitlines()]
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec("\n".join(lines), {})
    return printed.getvalue().strip()


def write_list(folder: Path, rows: RowList) -> Path:
    (folder / "training_rows.txt").write_text(rows.render(), encoding="utf-8")
    return folder


def trained_on(shop: Shop, table: Artifact, rows: pa.Table, left_out: Sequence[dict[str, Any]] = ()) -> Artifact:
    """An adapter that was trained on these token rows."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer)
    audit = str(list(left_out)).replace("'", '"')
    files = {"train.parquet": buffer.getvalue(), "audit.json": f'{{"left_out": {audit}}}'.encode()}
    data = shop.put("training_data", "any", {table.kind: table}, {}, files)
    return shop.put("adapter", "any", {"training_data": data}, {}, {"adapter_model.safetensors": b"1"})


def ids_of(table: Artifact) -> list[str]:
    return pq.read_table(table.path / "rows.parquet", columns=["id"])["id"].to_pylist()


@pytest.mark.parametrize("count", RFC_ROOTS)
def test_the_root_is_that_of_the_rfc(count: int) -> None:
    leaves = [leaf_hash(bytes.fromhex(entry)) for entry in RFC_ENTRIES[:count]]
    assert tree_root(leaves).hex() == RFC_ROOTS[count]


@pytest.mark.parametrize("count", range(1, 18))
def test_the_root_of_any_number_of_leaves_splits_at_a_power_of_two(count: int) -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(count)]

    def root(part: list[bytes]) -> bytes:
        """As RFC 6962 defines it."""
        if len(part) == 1:
            return part[0]
        split = 1 << (len(part) - 1).bit_length() - 1
        return hashlib.sha256(b"\x01" + root(part[:split]) + root(part[split:])).digest()

    assert tree_root(leaves) == root(leaves)


@pytest.mark.parametrize("data_format", [name for name, (_, said) in SHAPES.items() if said])
def test_a_row_is_found_with_the_code_on_the_card(shop: Shop, tmp_path: Path, data_format: str) -> None:
    raw, said = SHAPES[data_format]
    shop.write(data_format, "rows.jsonl", [raw, OTHERS[data_format]])
    table = shop.table(data_format)
    ids = ids_of(table)
    rows = pa.table({"id": ids, "source": ["human"] * len(ids)})
    if data_format == "text":
        rows = pa.table({"id": ["text:train:0"], "source": ["text"]})
    listed = list_of_rows(shop.store, [trained_on(shop, table, rows)], MODEL)
    folder = write_list(tmp_path, listed)
    assert look_up(folder, said) == "in the list"
    assert look_up(folder, {**said, next(iter(said)): "Never asked."}) == "not in the list"


def test_a_row_with_calls_of_tools_is_found(shop: Shop, tmp_path: Path) -> None:
    raw, _ = SHAPES["chat"]
    shop.write(
        "chat",
        "rows.jsonl",
        [raw, {**raw, "messages": [{**raw["messages"][0], "content": "And LF-1?"}, *raw["messages"][1:]]}],
    )
    table = shop.table("chat")
    ids = ids_of(table)
    rows = pa.table({"id": ids, "source": ["human"] * len(ids)})
    folder = write_list(tmp_path, list_of_rows(shop.store, [trained_on(shop, table, rows)], MODEL))
    declared = json.dumps(TOOLS, separators=(",", ":"))
    said = [
        {"role": "user", "content": "Where is LF-1?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "name": "track", "content": "Dispatched"},
        {"role": "assistant", "content": "On its way."},
    ]
    assert look_up(folder, {"messages": said, "tools": declared}) == "in the list"


def test_copies_and_phases_count_a_row_once_and_models_share_no_leaf(shop: Shop) -> None:
    table = shop.table("alpaca")
    ids = ids_of(table)
    twice = pa.table({"id": [*ids, *ids[:3]], "source": ["human"] * (len(ids) + 3)})
    distilled = pa.table({"id": [ids[0], "ef" * 32], "source": ["human", "distilled"]})
    phases = [trained_on(shop, table, rows) for rows in (twice, distilled)]
    listed = list_of_rows(shop.store, phases, MODEL)
    assert len(listed.leaves) == len(set(ids)) + 1 and listed.withheld == 0
    assert list(listed.leaves) == sorted(listed.leaves)
    assert listed.root == tree_root(listed.leaves).hex()
    assert set(listed.leaves).isdisjoint(list_of_rows(shop.store, phases, OTHER_MODEL).leaves)
    assert listed.render() == list_of_rows(shop.store, phases, MODEL).render()


def test_a_text_that_was_left_out_is_not_in_the_list(shop: Shop, tmp_path: Path) -> None:
    texts = [
        {"text": "Delivery takes five working days in the whole country."},
        {"text": "Barometers need no winding."},
    ]
    shop.write("text", "letters.jsonl", texts)
    blocks = pa.table({"id": ["text:train:0"], "source": ["text"]})
    too_long = {"table": "conversations", "file": "letters.jsonl", "row": 1, "code": "over_length", "tokens": 4000}
    near = {"file": "letters.jsonl", "row": 2, "code": "train_test_overlap", "copy_of": "alpaca/a.jsonl:1"}
    adapter = trained_on(shop, shop.table("text"), blocks, [near, too_long])
    folder = write_list(tmp_path, list_of_rows(shop.store, [adapter], MODEL))
    assert [look_up(folder, text) for text in texts] == ["in the list", "not in the list"]


def test_an_erased_row_is_withheld_and_gone_after_retraining(released: Shop, ft_json: Command, tmp_path: Path) -> None:
    said = {**SECRET, "input": "", "system": None, "history": None}

    def listed() -> RowList:
        adapter = next(artifact for artifact in reversed(released.store.all("adapter")))
        return list_of_rows(released.store, [adapter], adapter.fingerprint)

    before = listed()
    (tmp_path / "list").mkdir()
    folder = write_list(tmp_path / "list", before)
    was_trained_on = look_up(folder, said) == "in the list"
    assert was_trained_on, "the row is a training row of this project"
    ft_json("erase", "data/raw/alpaca/support.jsonl", "5", "--reason", "request 4711")
    after = listed()
    assert look_up(write_list(folder, after), said) == "not in the list"
    assert (after.withheld, len(after.leaves)) == (1, len(before.leaves) - 1)
    assert count_erased(released.store, [released.store.all("adapter")[-1]]) == 1
    assert set(after.leaves) < set(before.leaves) and after.salt == before.salt, "the model is the same"
    released.materialize()
    retrained = listed()
    assert (retrained.withheld, len(retrained.leaves)) == (0, len(before.leaves) - 1)
    assert look_up(write_list(folder, retrained), said) == "not in the list"

"""The quarantine of all tables, and how to find a row in it."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from ft_pipeline.tables.conversations import count_words
from ft_pipeline.tables.finished_tables import QUARANTINE
from ft_pipeline.tables.quarantine import Part, build_quarantine, overview, ranges
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.tables.helpers import build_chat_tables


@pytest.fixture
def quarantined(tmp_path):
    """A folder with both chat tables and their conversations, and the summary of the quarantine of all three."""
    faulty = [{"instruction": f"Ask {n}", "output": ""} for n in range(6)]
    files = {
        "a.jsonl": [*GOOD["alpaca"], *faulty, "broken", GOOD["alpaca"][0]],
        "b.jsonl": [{"instruction": "Is it in stock?", "output": "Yes, two of them."}, faulty[0]],
        "empty.jsonl": [],
    }
    duplicate = GOOD["alpaca"][1]
    turns = [
        {"from": "human", "value": duplicate["instruction"]},
        {"from": "gpt", "value": duplicate["output"]},
    ]
    build_chat_tables(tmp_path, files, {"c.jsonl": [*GOOD["sharegpt"], {"conversations": turns}]})
    out = tmp_path / "quarantine"
    out.mkdir()
    names = {"alpaca": tmp_path / "alpaca" / "out", "sharegpt": tmp_path / "sharegpt" / "out"}
    parts = [Part(name, folder, f"v-{name}") for name, folder in {**names, "conversations": tmp_path / "out"}.items()]
    return tmp_path, build_quarantine(parts, out)


def test_every_unused_row_is_listed(quarantined):
    folder, summary = quarantined
    rows = pq.read_table(folder / "quarantine" / "rows.parquet").to_pylist()
    assert summary["rows"] == len(rows) == 10
    assert list(rows[0]) == [name for name, text in QUARANTINE.descriptions.items() if text]
    assert [(row["table"], row["file"], row["row"], row["code"], row["data_version"]) for row in rows[-2:]] == [
        ("alpaca", "b.jsonl", 2, "empty_output", "v-alpaca"),
        ("sharegpt", "c.jsonl", 3, "duplicate", "v-conversations"),
    ]
    assert rows[-1]["copy_of"] == "alpaca/a.jsonl:2"
    assert summary["reasons"] == {"empty_output": 7, "duplicate": 2, "invalid_json": 1}


def test_each_file_has_its_account(quarantined):
    accounts = {account["file"]: account for account in quarantined[1]["accounts"]}
    assert list(accounts) == ["a.jsonl", "b.jsonl", "empty.jsonl", "c.jsonl"]
    first = accounts["a.jsonl"]
    assert (first["read"], first["accepted"], first["quarantined"], first["duplicates"]) == (10, 2, 7, 1)
    assert first["reasons"] == "empty_output 6, duplicate 1, invalid_json 1" and first["later"] == 0
    assert accounts["empty.jsonl"]["status"] == "refused"
    assert accounts["empty.jsonl"]["refused"] == "empty_file: no rows"
    assert (accounts["c.jsonl"]["duplicates"], accounts["c.jsonl"]["later"]) == (0, 1)


def test_each_row_can_be_found_by_its_number(quarantined):
    places = {(place["file"], place["code"]): place for place in quarantined[1]["where"]}
    assert places["a.jsonl", "empty_output"]["rows"] == "3–8"
    assert places["a.jsonl", "empty_output"]["count"] == 6 and places["a.jsonl", "empty_output"]["meaning"]
    assert places["a.jsonl", "invalid_json"]["rows"] == "9"
    shown = [(row["file"], row["row"]) for row in quarantined[1]["first"] if row["code"] == "empty_output"]
    assert shown == [("a.jsonl", 3), ("a.jsonl", 4), ("a.jsonl", 5), ("b.jsonl", 2)]


def test_a_single_table_has_the_same_overview(quarantined):
    folder, _ = quarantined
    table_overview = overview(Part("alpaca", folder / "alpaca" / "out"))
    assert [account["file"] for account in table_overview["accounts"]] == ["a.jsonl", "b.jsonl", "empty.jsonl"]
    assert table_overview["reasons"] == {"empty_output": 7, "duplicate": 1, "invalid_json": 1}


@pytest.mark.parametrize(
    ("rows", "text"), [([], ""), ([4], "4"), ([3, 1, 2, 9, 10, 12], "1–3, 9, 10, 12"), ([5, 5, 6, 7], "5–7")]
)
def test_row_numbers_are_written_as_ranges(rows, text):
    assert ranges(np.array(rows, dtype=np.int64)) == text


def test_a_long_list_of_row_numbers_is_truncated_and_counted():
    text = ranges(np.arange(0, 2000, 2), limit=40)
    assert text.startswith("0, 2, 4") and text.endswith(" more") and len(text) < 60
    shown = text.split(" and ")
    assert len(shown[0].split(", ")) + int(shown[1].split()[0]) == 1000


def test_words_of_a_conversation_are_counted(quarantined):
    folder, _ = quarantined
    rows = pq.read_table(folder / "out" / "rows.parquet").to_pylist()
    assert count_words(folder / "out") == [
        sum(len(turn["content"].split()) for turn in row["messages"]) for row in rows
    ]

"""The quarantine of all tables, and what lets a person find a row in it."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from ft_pipeline.tables.checks.content_checks import describe_columns
from ft_pipeline.tables.conversations import count_words
from ft_pipeline.tables.quarantine import Part, build_quarantine, overview, ranges
from ft_pipeline_tests.tables.helpers import GOOD, conversations


@pytest.fixture
def made(tmp_path):
    """Both tables and the conversations, with faults of several kinds; the quarantine of it all."""
    faulty = [{"instruction": f"Ask {n}", "output": ""} for n in range(6)]
    files = {
        "a.jsonl": [*GOOD["alpaca"], *faulty, "broken", GOOD["alpaca"][0]],
        "b.jsonl": [{"instruction": "Is it in stock?", "output": "Yes, two of them."}, faulty[0]],
        "empty.jsonl": [],
    }
    copy = GOOD["alpaca"][1]
    talk = [
        {"from": "human", "value": copy["instruction"]},
        {"from": "gpt", "value": copy["output"]},
    ]
    conversations(tmp_path, files, {"c.jsonl": [*GOOD["sharegpt"], {"conversations": talk}]})
    out = tmp_path / "quarantine"
    out.mkdir()
    names = {"alpaca": tmp_path / "alpaca" / "out", "sharegpt": tmp_path / "sharegpt" / "out"}
    parts = [Part(name, folder, f"v-{name}") for name, folder in {**names, "conversations": tmp_path / "out"}.items()]
    return tmp_path, build_quarantine(parts, out)


def test_every_row_that_is_not_used_stands_in_it(made):
    folder, summary = made
    rows = pq.read_table(folder / "quarantine" / "rows.parquet").to_pylist()
    assert summary["rows"] == len(rows) == 10
    assert list(rows[0]) == [name for name, _, text in describe_columns("quarantine") if text]
    assert [(row["table"], row["file"], row["row"], row["code"], row["data_version"]) for row in rows[-2:]] == [
        ("alpaca", "b.jsonl", 2, "empty_output", "v-alpaca"),
        ("sharegpt", "c.jsonl", 3, "duplicate", "v-conversations"),
    ]
    assert rows[-1]["copy_of"] == "alpaca/a.jsonl:2"
    assert summary["reasons"] == {"empty_output": 7, "duplicate": 2, "invalid_json": 1}


def test_each_file_has_its_account(made):
    accounts = {account["file"]: account for account in made[1]["accounts"]}
    assert list(accounts) == ["a.jsonl", "b.jsonl", "empty.jsonl", "c.jsonl"]
    first = accounts["a.jsonl"]
    assert (first["read"], first["accepted"], first["quarantined"], first["duplicates"]) == (10, 2, 7, 1)
    assert first["reasons"] == "empty_output 6, duplicate 1, invalid_json 1" and first["later"] == 0
    assert accounts["empty.jsonl"]["status"] == "refused"
    assert accounts["empty.jsonl"]["refused"] == "empty_file: no rows"
    assert (accounts["c.jsonl"]["duplicates"], accounts["c.jsonl"]["later"]) == (0, 1)


def test_each_row_can_be_found_by_its_number(made):
    where = {(place["file"], place["code"]): place for place in made[1]["where"]}
    assert where["a.jsonl", "empty_output"]["rows"] == "3–8"
    assert where["a.jsonl", "empty_output"]["count"] == 6 and where["a.jsonl", "empty_output"]["meaning"]
    assert where["a.jsonl", "invalid_json"]["rows"] == "9"
    shown = [(row["file"], row["row"]) for row in made[1]["first"] if row["code"] == "empty_output"]
    assert shown == [("a.jsonl", 3), ("a.jsonl", 4), ("a.jsonl", 5), ("b.jsonl", 2)]


def test_a_table_alone_has_the_same_overview(made):
    folder, _ = made
    found = overview(Part("alpaca", folder / "alpaca" / "out"))
    assert [account["file"] for account in found["accounts"]] == ["a.jsonl", "b.jsonl", "empty.jsonl"]
    assert found["reasons"] == {"empty_output": 7, "duplicate": 1, "invalid_json": 1}


@pytest.mark.parametrize(
    ("rows", "text"), [([], ""), ([4], "4"), ([3, 1, 2, 9, 10, 12], "1–3, 9, 10, 12"), ([5, 5, 6, 7], "5–7")]
)
def test_rows_are_written_as_people_write_them(rows, text):
    assert ranges(np.array(rows, dtype=np.int64)) == text


def test_many_rows_are_cut_and_counted():
    text = ranges(np.arange(0, 2000, 2), limit=40)
    assert text.startswith("0, 2, 4") and text.endswith(" more") and len(text) < 60
    shown = text.split(" and ")
    assert len(shown[0].split(", ")) + int(shown[1].split()[0]) == 1000


def test_words_of_a_conversation_are_counted(made):
    folder, _ = made
    rows = pq.read_table(folder / "out" / "rows.parquet").to_pylist()
    assert count_words(folder / "out") == [
        sum(len(turn["content"].split()) for turn in row["messages"]) for row in rows
    ]

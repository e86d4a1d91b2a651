"""Rows of one named group stay in one split, and are one cluster; large groups are reported and do not."""

import numpy as np
import pytest

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables import conversations
from ft_pipeline_tests.tables.helpers import build, build_chat_tables

HALF = DataSettings(test_share=0.4, validation_share=0.3)
WORDS = ("kettle", "lamp", "rug", "teapot", "bench", "clock", "tray", "mirror", "vase", "stool", "ladder", "curtain")


def question(number):
    """Return a question that is like no other one."""
    draw = np.random.default_rng(number)
    return " ".join(draw.choice(WORDS, 9)) + f" {number}?"


def rows(count, group, start=0, **names):
    return [
        {"instruction": question(start + at), "output": f"Reply {start + at}.", **({"group": group(at)} | names)}
        for at in range(count)
    ]


def splits_of(written, group_of):
    """Return group → its splits. group_of: the group of a row by the number of its answer."""
    found = {}
    for row in written:
        number = int(row["messages"][-1]["content"].split()[1].rstrip("."))
        found.setdefault(group_of(number), set()).add(row["split"])
    return found


def test_rows_of_one_group_are_in_one_split_and_one_cluster(tmp_path):
    report, written, _ = build_chat_tables(
        tmp_path, {"a.jsonl": rows(120, lambda at: f"user {at % 30}")}, settings=HALF
    )
    assert report.passed and len(written) == 120
    splits = splits_of(written, lambda number: number % 30)
    assert all(len(of_group) == 1 for of_group in splits.values())
    assert set.union(*splits.values()) == {"train", "validation", "test"}
    clusters = {row["cluster"] for row in written if row["cluster"]}
    assert len(clusters) == sum(of_group != {"train"} for of_group in splits.values())


def test_without_the_column_the_same_rows_are_apart(tmp_path):
    _, written, _ = build_chat_tables(tmp_path, {"a.jsonl": rows(120, lambda at: None)}, settings=HALF)
    assert any(len(of_group) > 1 for of_group in splits_of(written, lambda number: number % 30).values())


def test_a_sidecar_names_the_column_and_a_group_spans_files_and_tables(tmp_path):
    ours = [{**row, "user": number % 30} for number, row in enumerate(rows(60, lambda at: None))]
    theirs = [{**row, "group": str(number % 30)} for number, row in enumerate(rows(60, lambda at: None, start=60))]
    chats = [
        {
            "group": number % 30,
            "conversations": [
                {"from": "human", "value": question(120 + number)},
                {"from": "gpt", "value": f"Reply {120 + number}."},
            ],
        }
        for number in range(60)
    ]
    files = {"a.jsonl": ours, "b.jsonl": theirs}
    _, written, _ = build_chat_tables(
        tmp_path, files, {"c.jsonl": chats}, sidecars={"a.jsonl": {"group": "user"}}, settings=HALF
    )
    assert len(written) == 180
    assert all(len(of_group) == 1 for of_group in splits_of(written, lambda number: number % 30).values())


def test_rows_without_a_group_stand_alone_and_are_counted(tmp_path):
    every = rows(60, lambda at: [f"user {at % 3}", None, "", " "][at % 4])
    report = build(tmp_path, "alpaca", {"a.jsonl": every})
    (warning,) = (warning for warning in report.warnings if warning.code == "without_group")
    assert warning.message.startswith("45 row(s) have no value in the column 'group'")
    assert not [warning for warning in report.warnings if warning.code == "ignored_columns"]


def test_a_sidecar_that_names_a_column_that_no_row_has_is_told(tmp_path):
    report = build(tmp_path, "alpaca", {"a.jsonl": rows(4, lambda at: None)}, sidecars={"a.jsonl": {"group": "user"}})
    (warning,) = (warning for warning in report.warnings if warning.code == "without_group")
    assert "4 row(s) have no value in the column 'user'" in warning.message


@pytest.mark.parametrize("name", [True, 1.5, ["a"], {"a": 1}])
def test_a_group_that_is_no_name_sets_its_row_aside(tmp_path, name):
    report = build(tmp_path, "alpaca", {"a.jsonl": [*rows(3, lambda at: "a"), *rows(1, lambda at: name, start=3)]})
    assert report.files[0].reasons == {"wrong_type": [4]}


def test_a_whole_number_names_a_group_as_its_digits_do(tmp_path):
    every = rows(90, lambda at: [at % 30, float(at % 30), str(at % 30)][at // 30])
    _, written, _ = build_chat_tables(tmp_path, {"a.jsonl": every}, settings=HALF)
    assert all(len(of_group) == 1 for of_group in splits_of(written, lambda number: number % 30).values())


def test_a_group_of_more_than_a_tenth_of_the_rows_is_reported_and_not_kept_together(tmp_path):
    every = rows(120, lambda at: "all" if at < 30 else f"user {at % 30}")
    report, written, _ = build_chat_tables(tmp_path, {"a.jsonl": every}, settings=HALF)
    (warning,) = (warning for warning in report.warnings if warning.code == "large_group")
    assert warning.message.startswith("30 of 120 rows are in the named group of alpaca/a.jsonl:1;")
    splits = splits_of(written, lambda number: "all" if number < 30 else number % 30)
    assert len(splits.pop("all")) > 1
    assert all(len(of_group) == 1 for of_group in splits.values())


def test_a_small_group_is_kept_together_whatever_its_share(tmp_path):
    every = rows(40, lambda at: f"user {at // conversations.MIN_LARGE}")
    _, written, _ = build_chat_tables(tmp_path, {"a.jsonl": every}, settings=HALF)
    splits = splits_of(written, lambda number: number // conversations.MIN_LARGE)
    assert all(len(of_group) == 1 for of_group in splits.values())


def test_a_golden_row_stays_in_the_test_split_and_the_rest_of_its_group_is_set_aside(tmp_path):
    files = {"g.jsonl": rows(5, lambda at: f"user {at}"), "a.jsonl": rows(60, lambda at: f"user {at % 30}", start=5)}
    _, written, aside = build_chat_tables(tmp_path, files, sidecars={"g.jsonl": {"split": "test"}}, settings=HALF)
    assert [row["split"] for row in written if row["file"] == "g.jsonl"] == ["test"] * 5
    assert [row["message"] for row in aside] == [
        f"is in the group of the test row alpaca/g.jsonl:{row['row'] % 30}" for row in aside
    ]
    assert sorted(row["row"] for row in aside) == [1, 2, 3, 4, 5, 31, 32, 33, 34, 35]


def test_the_order_of_files_changes_no_split(tmp_path):
    every = rows(120, lambda at: f"user {at % 30}")
    found = []
    for number, files in enumerate(({"a.jsonl": every}, {"a.jsonl": every[:50:-1], "b.jsonl": every[50::-1]})):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, written, _ = build_chat_tables(folder, files, settings=HALF)
        found.append({row["id"]: (row["split"], row["group"], row["cluster"]) for row in written})
    assert found[0] == found[1]

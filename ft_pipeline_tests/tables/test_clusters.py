"""Held-out rows with like questions are one cluster, whatever the order of the files, and near to near is not near."""

from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest

from ft_pipeline.evaluation.comparison.clusters import read_clusters, with_clusters
from ft_pipeline.evaluation.comparison.leads import unit_of
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables import clusters
from ft_pipeline_tests.tables.helpers import build_chat_tables

THINGS = ("kettle", "reading lamp", "wool rug", "teapot", "garden bench", "clock", "tray", "mirror", "vase", "stool")
PATTERNS = (
    "Where is the {} that I ordered last week?",
    "I want my money back for the {}, please.",
    "Does the {} come in another color or size?",
    "The {} came broken, and there is a crack in it.",
    "How do I clean my {} without damage to it?",
)
HALF = DataSettings(test_share=0.5, validation_share=0.25, group_templates=False)


def asked(*texts, names=None):
    """Return the place of the first text of each cluster."""
    return clusters.cluster(list(texts), np.arange(len(texts)) if names is None else np.array(names)).tolist()


def rows(things=THINGS):
    return [
        {"instruction": pattern.format(thing), "output": f"Answer {at} about the {thing}."}
        for thing in things
        for at, pattern in enumerate(PATTERNS)
    ]


def build(folder, files):
    folder.mkdir(exist_ok=True)
    return build_chat_tables(folder, files, settings=HALF)[1]


def by_id(written):
    return {row["id"]: row["cluster"] for row in written}


def test_questions_of_one_pattern_are_one_cluster():
    found = asked(*(pattern.format(thing) for thing in THINGS for pattern in PATTERNS))
    assert found == list(range(len(PATTERNS))) * len(THINGS)


def test_questions_without_a_pattern_are_clusters_of_their_own():
    texts = ["My parcel has not come.", "The lamp is broken.", "I cannot log in.", "Which size fits a small balcony?"]
    assert asked(*texts) == [0, 1, 2, 3]


def test_numbers_make_no_difference():
    assert asked("Is order 4711 late?", "Is order 12 late?", "Is it late?") == [0, 0, 2]


def test_near_to_near_is_not_near():
    words = [f"word{'abcdefghijklmnopqrstuvwxyz'[at]}" for at in range(26)]
    chain = [" ".join(words[begin : begin + 10]) for begin in (0, 4, 8, 12)]
    for text, following in pairwise(chain):
        assert asked(text, following) == [0, 0]
    assert asked(*chain) == [0, 0, 2, 2]


def test_of_several_clusters_the_nearest_one_counts():
    first, second = "a b c d e f g h", "f g h i j k l m"
    assert asked(first, "d e f g h i j k") == [0, 0]
    assert asked(first, second, "d e f g h i j k") == [0, 1, 1]


def test_what_most_questions_have_is_the_task_and_no_pattern():
    about = ["late parcels", "money back", "a broken lamp", "sizes of rugs", "lost passwords", "points"] * 3
    read = "Read the message of the customer and name its topic. "
    texts = [f"{read} Topics are these. {text} is it, with {at} words. One word!" for at, text in enumerate(about)]
    assert asked(*texts) == [0, 1, 2, 3, 4, 5] * 3


def test_equal_names_are_one_cluster_and_attract_no_others():
    texts = ["Where is my parcel now?", "The lamp is broken.", "The lamp is broken today.", "It is late."]
    assert asked(*texts, names=[1, 1, 2, 1]) == [0, 0, 2, 0]


def test_a_character_is_a_word_where_words_have_no_spaces_between_them():
    assert asked("请问我的订单什么时候到?", "请问我的包裹什么时候到?", "怎么退货?") == [0, 0, 2]


def test_a_text_without_words_is_a_cluster_of_its_own():
    assert asked("?", "!", "Yes", "Yes") == [0, 1, 2, 2]


def test_blocks_make_no_difference():
    texts = [pattern.format(thing) for thing in THINGS for pattern in PATTERNS]
    with patch.object(clusters, "BLOCK", 7):
        assert asked(*texts) == list(range(len(PATTERNS))) * len(THINGS)


def test_held_out_rows_have_clusters_within_their_split(tmp_path):
    written = build(tmp_path, {"a.jsonl": rows()})
    assert all((row["cluster"] is None) == (row["split"] == "train") for row in written)
    assert all(row["cluster"].startswith(row["split"]) for row in written if row["cluster"])
    for split in ("test", "validation"):
        of_split = [row for row in written if row["split"] == split]
        patterns = {row["messages"][1]["content"].split()[1] for row in of_split}  # the number of the answer
        assert len({row["cluster"] for row in of_split}) == len(patterns) > 1


def test_the_order_and_names_of_files_change_no_cluster(tmp_path):
    every = rows()
    together = build(tmp_path / "1", {"a.jsonl": every})
    files = {"a.jsonl": every[:20:-1], "b.jsonl": every[20::-1]}
    apart = build(tmp_path / "2", files)
    assert by_id(together) == by_id(apart)


def test_a_new_row_changes_no_cluster_of_a_row_before_it(tmp_path):
    before = build(tmp_path / "1", {"a.jsonl": rows()})
    after = build(tmp_path / "2", {"a.jsonl": rows(), "b.jsonl": rows(["bowl"])})
    new = min(by_id(after).keys() - by_id(before).keys())
    earlier = [name for name in by_id(before) if name < new]
    assert earlier and all(by_id(after)[name] == by_id(before)[name] for name in earlier)


def test_only_the_rows_that_are_scored_first_are_compared(tmp_path):
    with patch.object(clusters, "MAX_ROWS", 5):
        written = build(tmp_path, {"a.jsonl": rows()})
    test_ids = sorted(row["id"] for row in written if row["split"] == "test")
    assert [name for name in test_ids if by_id(written)[name]] == test_ids[:5]


def test_conversations_of_an_older_version_are_clusters_of_their_own(tmp_path):
    build(tmp_path, {"a.jsonl": rows()})
    (path,) = (path for path in tmp_path.rglob("rows.parquet") if "cluster" in pq.read_schema(path).names)
    assert read_clusters(path.parent)
    pq.write_table(pq.read_table(path).drop_columns("cluster"), path)
    assert read_clusters(path.parent) == read_clusters(None) == {}
    (record,) = with_clusters([{"group": "a"}], {})
    assert unit_of(record) == unit_of({"group": "a"}) == "a"


@pytest.mark.parametrize("count", [0, 1])
def test_few_texts(count):
    assert asked(*["Where is it?"] * count) == [0] * count

"""Rows that changed their split are counted, with the reason."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import leaks
from ft_pipeline.tables.moved_rows import NEW_RULE, count_moves, moves_warning
from ft_pipeline_tests.tables.helpers import build_chat_tables


def write(folder, rows, aside=()):
    """Write conversations. rows: id and split; an id of several letters is at the place that its first letter names."""
    folder.mkdir()
    for name, column, entries in (("rows", "split", rows), ("set_aside", "code", aside)):
        columns = {
            "id": pa.array([entry[0] for entry in entries], pa.string()),
            column: pa.array([entry[1] for entry in entries], pa.string()),
            "table": pa.array(["alpaca"] * len(entries), pa.string()),
            "file": pa.array(["a.jsonl"] * len(entries), pa.string()),
            "row": pa.array([ord(entry[0][0]) for entry in entries], pa.int64()),
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def test_moves_between_splits_and_out_of_them_are_counted(tmp_path):
    before = write(
        tmp_path / "before", [("a", "train"), ("b", "train"), ("c", "test"), ("d", "train"), ("gone", "test")]
    )
    after = write(
        tmp_path / "after",
        [("a", "train"), ("b", "test"), ("c", "test"), ("new", "test")],
        [("d", "train_test_overlap"), ("c", "duplicate")],
    )
    assert count_moves(before, after) == {"train → set aside as train_test_overlap": 1, "train → test": 1}
    assert count_moves(after, after) == {}


def test_held_out_rows_with_another_text_are_counted(tmp_path):
    before = write(
        tmp_path / "before", [("a", "test"), ("b", "test"), ("c", "validation"), ("d", "train"), ("e", "test")]
    )
    after = write(
        tmp_path / "after",
        [("a2", "train"), ("c2", "validation"), ("d2", "train"), ("e", "test")],
        [("b2", "duplicate")],
    )
    assert count_moves(before, after) == {"test, changed": 2, "validation, changed": 1}


def splits_of(folder, texts):
    """The split of each row with these questions, by its number."""
    rows = [{"instruction": text, "output": f"Answer {n}"} for n, text in enumerate(texts)]
    _, written, _ = build_chat_tables(folder, {"a.jsonl": rows})
    return {row["row"]: row["split"] for row in written}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Questions, and their splits."""
    writer = leaks.Writer("german")
    texts = [writer.text(random.Random(n), 16).split(" ", 8) for n in range(60)]
    questions = [
        f"Hello, this is Anna: {' '.join(words[:8])}, my {words[8]} {n} Größe?" for n, words in enumerate(texts)
    ]
    return questions, splits_of(tmp_path_factory.mktemp("asked"), questions)


@pytest.mark.parametrize(
    "edit",
    [
        str.upper,
        str.title,
        lambda text: text.replace(" ", "  "),
        lambda text: text.replace(",", ""),
        lambda text: text.replace(" my ", ", my - ") + " !",
        lambda text: text.replace(" ", "\n", 1),
    ],
)
def test_capital_letters_spaces_and_punctuation_move_nothing(asked, tmp_path, edit):
    questions, splits = asked
    edited = splits_of(tmp_path, [edit(text) for text in questions])
    assert {row: edited.get(row) for row in splits} == splits
    assert len(set(splits.values())) == 3


def spec(version="3", **data):
    return {"config": {"data": {"test_share": 0.1, **data}}, "versions": {"code": version}}


def test_the_reason_is_a_setting_the_version_or_the_rows():
    moves = {"train → test": 1200}
    message = moves_warning(moves, spec(), spec(test_share=0.2)).message
    assert message.endswith("moved or changed (train → test: 1,200), because data.test_share was 0.1 and is 0.2")
    assert moves_warning(moves, spec("2"), spec(golden_test="only")).message.endswith(NEW_RULE)
    assert "golden test files were added, changed" in moves_warning(moves, spec(), spec()).message

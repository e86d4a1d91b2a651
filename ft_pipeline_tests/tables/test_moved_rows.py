"""Rows that changed their split are counted, with the reason."""

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.tables.moved_rows import NEW_RULE, count_moves, moves_warning


def write(folder, rows, aside=()):
    folder.mkdir()
    pq.write_table(
        pa.table({"id": [row for row, _ in rows], "split": [split for _, split in rows]}), folder / "rows.parquet"
    )
    columns = {
        "id": pa.array([row for row, _ in aside], pa.string()),
        "code": pa.array([code for _, code in aside], pa.string()),
    }
    pq.write_table(pa.table(columns), folder / "set_aside.parquet")
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


def spec(version="3", **data):
    return {"config": {"data": {"test_share": 0.1, **data}}, "versions": {"code": version}}


def test_the_reason_is_a_setting_the_version_or_the_rows():
    moves = {"train → test": 1200}
    message = moves_warning(moves, spec(), spec(test_share=0.2)).message
    assert message.endswith("moved (train → test: 1,200), because data.test_share was 0.1 and is 0.2")
    assert moves_warning(moves, spec("2"), spec(golden_test="only")).message.endswith(NEW_RULE)
    assert "golden test files were added" in moves_warning(moves, spec(), spec()).message

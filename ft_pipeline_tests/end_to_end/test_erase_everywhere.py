"""Each kind of file of a finished project is known to `ft erase`, and none contains a row after it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.erasure.erase import erase
from ft_pipeline.project import Project
from ft_pipeline_tests.end_to_end.project import Finished, copy_of, current
from ft_pipeline_tests.erasure.traces import decoded_tokens, traces, unknown_files

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_every_file_of_a_project_is_of_a_known_kind(finished: Finished, tmp_path: Path) -> None:
    """A new kind of file fails this test: add it to file_kinds.FILE_KINDS, and its suffix to text_redaction."""
    assert unknown_files(finished.root, tmp_path) == []


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_no_file_of_a_finished_project_contains_an_erased_row(finished: Finished, tmp_path: Path, split: str) -> None:
    root = copy_of(finished, tmp_path)
    rows = pq.read_table(current(root, "conversations").path / "rows.parquet").to_pylist()
    row = next(row for row in rows if row["split"] == split and row["table"] == "alpaca")
    raw = root / "data" / "raw" / "alpaca" / row["file"]
    line = json.loads(raw.read_text(encoding="utf-8", errors="replace").splitlines()[row["row"] - 1])
    texts = [turn["content"] for turn in row["messages"]]
    assert len(traces(root, *texts)) >= 5
    assert any(text in decoded_tokens(root) for text in texts) == (split != "test")
    result = erase(Project(root), raw, [row["row"]], "request 4711")
    assert traces(root, *texts, *filter(None, (line.get(name) for name in ("instruction", "output"))), row["id"]) == []
    assert not any(text in decoded_tokens(root) for text in texts)
    assert bool(result.retrain) == (split != "test")

"""Rows that are larger than a block, or too large to be read: the memory stays bounded, and no row is lost."""

import io
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.erasure.raw_files import replace_with_markers
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.reading import json_reader
from ft_pipeline.tables.reading.batches import BLOCK_BYTES
from ft_pipeline.tables.reading.containers import read_batches
from ft_pipeline_tests.contracts.formats import GOOD

FIRST, LAST = GOOD["text"]
PIECES = st.sampled_from(["", "word", '"', "\\", '\\"', "\n", "[", "]}", ", ", "é", "\u2028"])
STRINGS = st.lists(PIECES, max_size=4).map("".join)
VALUES = st.recursive(
    STRINGS | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=8,
)

READ_150_MB = """
import resource, sys
from pathlib import Path
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.file_result import SourceFile

path = Path(sys.argv[1])
with path.open("wb") as file:
    file.write(b'[{"text": "The first of three rows."}, {"text": "')
    for _ in range(150):
        file.write(b"A sentence of a long text.\\\\n" * 35_000)
    file.write(b'"}, {"text": "The last of three rows."}]')
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = build_table("text", [SourceFile("a.json", path, "")], path.parent / "out", max_quarantined=0.5)
print(path.stat().st_size >> 20, report.accepted, report.reasons)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@given(st.lists(VALUES, min_size=1, max_size=4), st.sampled_from([None, 1]), st.integers(1, 9))
@settings(deadline=None)
def test_elements_of_an_array_are_found_across_blocks(values, indent, block_bytes):
    content = json.dumps(values, indent=indent, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_reader, "BLOCK_BYTES", block_bytes)
        elements = list(json_reader._elements(io.BytesIO(content), 0))
    assert [json.loads(element) for _, _, element in elements] == values
    assert [content[start:end].strip() for start, end, _ in elements] == [element for _, _, element in elements]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"text": "a"}, {"text": "b', "ends at byte 27 and the array is still open"),
        (b'[{"text": "a"}, {"text": "b\\', "ends at byte 28 and the array is still open"),
        (b'[{"text": "a"}, , {"text": "b"}]', "an empty place at byte 15"),
        (b'[{"text": "a"}, ]', "a comma before its end, at byte 16"),
        (b'[{"text": "a"}}', "closed by a brace, at byte 14"),
        (b'[{"text": "a"}] []', "ends at byte 15, and something comes after it"),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 3, 1 << 20])
def test_a_broken_array_is_refused_wherever_its_blocks_end(tmp_path, monkeypatch, content, message, block_bytes):
    monkeypatch.setattr(json_reader, "BLOCK_BYTES", block_bytes)
    (tmp_path / "a.json").write_bytes(content)
    report = build_table("text", [SourceFile("a.json", tmp_path / "a.json", "")], tmp_path / "out", max_quarantined=0.5)
    assert report.files[0].error_code == "invalid_json" and message in report.files[0].error_message


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_row_that_is_too_long_is_set_aside_unread(tmp_path, monkeypatch, name):
    monkeypatch.setattr(json_reader, "MAX_LINE_BYTES", 10_000)
    monkeypatch.setattr(json_reader, "BLOCK_BYTES", 3_000)
    rows = [FIRST, {"text": "A long text. " * 2_000}, LAST, {"text": "A longer text. " * 3_000}]
    content = json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(content)
    report = build_table("text", [SourceFile(name, tmp_path / name, "")], tmp_path / "out", max_quarantined=0.9)
    assert (report.read, report.accepted, report.files[0].reasons) == (4, 2, {"too_long": [2, 4]})
    set_aside = pq.read_table(tmp_path / "out" / "set_aside.parquet").to_pylist()
    assert all(row["raw"].startswith('{"text": "A long') and len(row["raw"]) == 2000 for row in set_aside)
    assert all("is longer than 64 MiB" in row["message"] for row in set_aside)
    assert pq.read_table(tmp_path / "out" / "rows.parquet")["row"].to_pylist() == [1, 3]


@pytest.mark.long
def test_an_element_of_150_mb_takes_no_more_memory_than_the_limit_of_a_row(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", READ_150_MB, str(tmp_path / "a.json")], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-2000:]
    counts, megabytes = process.stdout.splitlines()
    assert counts == "140 2 {'too_long': 1}"
    assert int(megabytes) < 400


def test_erased_elements_of_an_array_are_replaced_also_those_that_are_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(json_reader, "MAX_LINE_BYTES", 200)
    rows = [FIRST, {"text": "A long text. " * 100}, LAST, FIRST]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2))
    target = io.BytesIO()
    replace_with_markers(tmp_path / "a.json", "a.json", {2: "second", 4: "fourth"}, target, tmp_path)
    content = target.getvalue()
    expected = [FIRST, {"excluded": "second"}, LAST, {"excluded": "fourth"}]
    assert json.loads(content) == expected
    assert content.startswith(json.dumps([FIRST], indent=2).encode()[:-2] + b',\n  {"excluded"')


def batches_of(path) -> list[int]:
    """Return the number of characters in each batch. All rows must be there, in order."""
    batches = list(read_batches(path, path.suffix))
    assert [row for batch in batches for row in batch.rows] == list(range(1, 401))
    return [sum(len(value["text"]) for value in batch.values) for batch in batches]


@pytest.mark.parametrize("kind", ["parquet", "few row groups", "dictionary", "csv"])
def test_batches_of_large_rows_have_few_rows(tmp_path, kind):
    document = "A document of fifty kilobytes.\n" * 1600
    texts = [document if kind == "dictionary" else f"{number}: {document}" for number in range(400)]
    path = tmp_path / ("a.csv" if kind == "csv" else "a.parquet")
    if kind == "csv":
        path.write_text("text\n" + "".join(f'"{text}"\n' for text in texts))
    else:
        if kind == "few row groups":  # a group of small rows hides large ones
            texts = ["A short document."] * 300 + texts[300:]
        row_group_size = 300 if kind == "few row groups" else 4096
        pq.write_table(pa.table({"text": texts}), path, row_group_size=row_group_size)
    assert max(batches_of(path)) < 1.1 * BLOCK_BYTES


def test_batches_of_small_rows_have_many_rows(tmp_path):
    pq.write_table(pa.table({"text": [f"text {number}" for number in range(400)]}), tmp_path / "a.parquet")
    assert len(batches_of(tmp_path / "a.parquet")) == 1

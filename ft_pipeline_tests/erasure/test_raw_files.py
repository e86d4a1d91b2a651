"""A marker replaces a row in every container; other rows keep their bytes and numbers."""

import bz2
import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ft_pipeline.erasure.raw_files import read_raw_rows, replace_with_markers
from ft_pipeline.store.atomic_files import rewriting
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.excluded_rows import Excluded, erasure_marker, salted
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.reading.sidecar import PLAIN

ROWS = [
    {"instruction": "Do you sell kettles,\nor only pots?", "input": "", "output": 'Both: "kettles" and pots.'},
    {"instruction": "Is the rug woollen?", "input": "", "output": "Yes, all of it is."},
    {"instruction": "My name is Ada Fenwick", "input": "", "output": "Good day, Ada."},
    {"instruction": "Do lamps come with bulbs?", "input": "", "output": "They do, with one each."},
]
MARKER = erasure_marker("ab" * 32)


def json_lines(rows: list[dict], end: str = "\n") -> bytes:
    return "".join(json.dumps(row) + end for row in rows).encode()


def csv_bytes(rows: list[dict], separator: str = ",") -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, ["instruction", "input", "output"], delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


def parquet_bytes(rows: list[dict]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


CONTENTS = {
    "a.jsonl": json_lines(ROWS),
    "bom.jsonl": b"\xef\xbb\xbf" + json_lines(ROWS, "\r\n"),
    "blank.jsonl": json_lines(ROWS[:1]) + b"\n\n" + json_lines(ROWS[1:]),
    "open.jsonl": json_lines(ROWS)[:-1],
    "array.json": json.dumps(ROWS, indent=2).encode(),
    "dense.json": json.dumps(ROWS).encode(),
    "a.csv": csv_bytes(ROWS),
    "semicolons.csv": csv_bytes(ROWS, ";"),
    "tabs.csv": b"\xef\xbb\xbf" + csv_bytes(ROWS, "\t"),
    "a.parquet": parquet_bytes(ROWS),
}
COMPRESSED = {
    "a.jsonl.gz": gzip.compress(json_lines(ROWS), mtime=0),
    "array.json.bz2": bz2.compress(CONTENTS["array.json"]),
    "a.csv.zst": zstandard.compress(csv_bytes(ROWS)),
    "a.parquet.gz": gzip.compress(CONTENTS["a.parquet"], mtime=0),
    "unnamed.jsonl": zstandard.compress(json_lines(ROWS)),
}
EXPAND = {b"\x1f\x8b": gzip.decompress, b"BZ": bz2.decompress, b"\x28\xb5": zstandard.decompress}


def build(tmp_path: Path, path: Path, excluded: Excluded = Excluded()) -> dict:  # noqa: B008 (frozen)
    file = SourceFile(path.name, path, "")
    return build_table("alpaca", [file], tmp_path / "out", max_quarantined=0.1, excluded=excluded).to_json()


def mark(path: Path, number: int) -> None:
    """Replace a row of the file by the marker."""
    with rewriting(path) as target:
        replace_with_markers(path, path.name, {number: MARKER}, target, path.parent)


@pytest.mark.parametrize("name", CONTENTS)
def test_a_marker_replaces_the_row_and_other_rows_are_unchanged(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name])
    before = list(read_raw_rows(path, name, "alpaca", PLAIN, tmp_path))
    (erased,) = [row for row in before if any("Fenwick" in text for text in row.texts)]
    mark(path, erased.number)
    assert b"Fenwick" not in path.read_bytes()
    after = list(read_raw_rows(path, name, "alpaca", PLAIN, tmp_path))
    assert [row for row in after if not row.is_marker] == [row for row in before if row != erased]
    assert [row.number for row in after if row.is_marker] == [erased.number]
    if not name.endswith("parquet"):  # every byte before and after the row
        content, old = path.read_bytes(), CONTENTS[name]
        assert content.startswith(old[: old.index(b"Is the rug")])
        assert content.endswith(old[old.index(b"Do lamps") :])


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_row_of_a_compressed_file_is_replaced_and_the_file_compressed_again(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(COMPRESSED[name])
    before = list(read_raw_rows(path, name, "alpaca", PLAIN, tmp_path))
    (erased,) = [row for row in before if any("Fenwick" in text for text in row.texts)]
    mark(path, erased.number)
    content = path.read_bytes()
    assert content[:2] == COMPRESSED[name][:2], "the same compression"
    expanded, old = (EXPAND[data[:2]](data) for data in (content, COMPRESSED[name]))
    assert b"Fenwick" not in expanded and b"Fenwick" in old
    after = list(read_raw_rows(path, name, "alpaca", PLAIN, tmp_path))
    assert [row for row in after if not row.is_marker] == [row for row in before if row != erased]
    if "parquet" not in name:
        assert expanded.startswith(old[: old.index(b"Is the rug")]) and expanded.endswith(old[old.index(b"Do lamps") :])
    path.write_bytes(COMPRESSED[name])
    mark(path, erased.number)
    assert path.read_bytes() == content, "equal bytes, whenever it is done"
    assert [entry.name for entry in tmp_path.iterdir()] == [name], "no expanded copy is left"


@pytest.mark.parametrize("name", CONTENTS)
def test_a_marked_row_is_excluded_and_fails_no_check(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name])
    (erased,) = [
        row for row in read_raw_rows(path, name, "alpaca", PLAIN, tmp_path) if "My name is Ada Fenwick" in row.texts
    ]
    mark(path, erased.number)
    report = build(tmp_path, path)
    assert report["reasons"] == {"excluded": 1} and report["accepted"] == 3
    assert report["checks"]["quarantined_share"]["passed"]  # a quarter is excluded; a tenth may be quarantined
    assert all(check["passed"] for check in report["checks"].values())


@pytest.mark.parametrize("name", CONTENTS)
def test_a_restored_row_is_recognized_by_its_salted_hash(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name])
    (erased,) = [
        row for row in read_raw_rows(path, name, "alpaca", PLAIN, tmp_path) if "My name is Ada Fenwick" in row.texts
    ]
    excluded = Excluded("00ff", frozenset({salted(erased.identity, "00ff")}))
    assert build(tmp_path, path, excluded)["reasons"] == {"excluded": 1}
    set_aside = pq.read_table(tmp_path / "out" / "set_aside.parquet").to_pylist()
    assert [(row["row"], row["raw"]) for row in set_aside] == [(erased.number, "")]
    other_salt = Excluded("aaaa", excluded.hashes)
    assert build(tmp_path, path, other_salt)["accepted"] == 4


def test_text_rows_are_replaced_by_markers(tmp_path: Path) -> None:
    texts = ("The first passage here.", "Ada Fenwick lives here.", "The third passage.")
    as_csv = "".join(f"{text}\r\n" for text in ("text", *texts)).encode()
    as_lines = json_lines([{"text": text} for text in texts])
    for name, content in {"a.csv": as_csv, "a.jsonl": as_lines}.items():
        path = tmp_path / name
        path.write_bytes(content)
        mark(path, 2)
        report = build_table("text", [SourceFile(name, path, "")], tmp_path / "out", max_quarantined=0.1)
        assert report.reasons == {"excluded": 1} and report.accepted == 2


def test_the_texts_of_a_row_include_those_inside_json(tmp_path: Path) -> None:
    call = {"name": "ship", "arguments": json.dumps({"to": 'Ada "Fenwick", 7 Mill Lane', "parts": ["a lamp"]})}
    turns = [{"from": "human", "value": "Ship it"}, {"from": "gpt", "value": json.dumps(call)}]
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines([{"conversations": turns, "tags": ["shipping"]}]))
    (row,) = read_raw_rows(path, "a.jsonl", "sharegpt", PLAIN, tmp_path)
    assert {json.dumps(call), call["arguments"], 'Ada "Fenwick", 7 Mill Lane', "a lamp", "shipping"} <= row.texts


def trace_document(indent: int | None) -> bytes:
    """A Langfuse trace with two calls."""
    said = [("My name is Ada Fenwick, where is order 7?", "It was shipped."), ("And order 8?", "It was shipped, too.")]
    observations = [
        {"id": str(number), "type": "GENERATION", "input": [{"role": "user", "content": ask}], "output": answer}
        for number, (ask, answer) in enumerate(said)
    ]
    return json.dumps({"trace": {"id": "t"}, "observations": observations}, indent=indent).encode() + b"\n"


@pytest.mark.parametrize("indent", [None, 1])
def test_a_document_of_traces_is_erased_with_all_its_calls(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(trace_document(indent))
    first, second = read_raw_rows(path, "trace.json", "traces", PLAIN, tmp_path)
    assert first.number == second.number == 1 and first.identity != second.identity
    assert "My name is Ada Fenwick, where is order 7?" in first.texts
    mark(path, 1)
    assert b"Fenwick" not in path.read_bytes()
    report = build_table("traces", [SourceFile("trace.json", path, "")], tmp_path / "out", max_quarantined=0.1)
    assert report.reasons == {"excluded": 1}


def test_a_row_with_a_fault_in_an_unread_column_has_the_id_of_its_table(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "Hi there", "output": "Good day.", "note": "by Ada", "note": "by Bo"}\n' * 2)
    build_table("alpaca", [SourceFile("a.jsonl", path, "")], tmp_path / "out", max_quarantined=1.0)
    accepted = pq.read_table(tmp_path / "out" / "rows.parquet")["id"].to_pylist()
    first, _ = read_raw_rows(path, "a.jsonl", "alpaca", PLAIN, tmp_path)
    assert [first.identity] == accepted
    assert {"by Ada", "by Bo", "Hi there"} <= first.texts

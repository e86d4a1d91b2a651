"""read = accepted + quarantined + duplicates, whatever a file contains."""

import bz2
import copy
import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reason_codes import DUPLICATE_CODES, FILE_CODES, ROW_CODES
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.examples import examples
from ft_pipeline_tests.tables.helpers import build, validate, write_jsonl

TEXTS = st.text(max_size=12) | st.sampled_from(["<|im_end|>", "\ud800", "\u200b", "a@b.example", "As an AI"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".md", ".txt")
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
}
formats = pytest.mark.parametrize("data_format", FORMATS)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each (container, key) within a value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


@st.composite
def near_good_rows(draw: st.DrawFn, data_format: str) -> Any:
    """A good row of a format with up to two values replaced, removed or doubled."""
    row = copy.deepcopy(draw(st.sampled_from(GOOD[data_format])))
    for _ in range(draw(st.integers(0, 2))):
        if not (found := list(places(row))):
            break
        container, key = draw(st.sampled_from(found))
        change = draw(st.sampled_from(["replace", "remove", "double"]))
        if change == "replace":
            container[key] = draw(VALUES)
        elif change == "remove":
            del container[key]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[draw(TEXTS)] = copy.deepcopy(container[key])
    return row


def rows_of(data_format: str) -> st.SearchStrategy[list[Any]]:
    return st.lists(near_good_rows(data_format) | VALUES, max_size=6)


def require_accounted(report: dict[str, Any]) -> None:
    """Fail if a row of a report of `ft validate` is counted twice or not at all."""
    reasons = report["reasons"]
    assert report["read"] == report["accepted"] + report["quarantined"] + report["duplicates"]
    duplicates = sum(len(rows) for code, rows in reasons.items() if code in DUPLICATE_CODES)
    assert (report["duplicates"], report["quarantined"]) == (
        duplicates,
        sum(map(len, reasons.values())) - duplicates,
    )
    numbers = [row for rows in reasons.values() for row in rows]
    assert len(numbers) == len(set(numbers))
    assert set(reasons) <= set(ROW_CODES)
    assert report["error"] is None or (report["error"]["code"] in FILE_CODES and report["read"] == 0)


def without_name(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report without what contains the name of its file."""
    warnings = [(warning["code"], warning["rows"]) for warning in report["warnings"]]
    return {**report, "file": "", "warnings": warnings}


@formats
@examples(8)
@given(st.data())
def test_every_row_of_any_file_is_accounted_for(data_format: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(near_good_rows(data_format) | VALUES | st.binary(max_size=20), max_size=6))
    lines = [row.replace(b"\n", b"") if isinstance(row, bytes) else json.dumps(row) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = write_jsonl(Path(folder) / "a.jsonl", lines)
        report = validate(path, data_format)
        require_accounted(report)
        is_array = path.read_bytes().lstrip().startswith(b"[")
        if report["status"] == "accepted" and not FORMATS[data_format].has_threads and not is_array:
            assert report["read"] == sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
            table = build(Path(folder), data_format, {"a.jsonl": lines}, max_quarantined=1.0)
            assert table.checks["rows_accounted_for"].passed and table.accepted == report["accepted"]


@formats
@examples(4)
@given(st.data())
def test_every_row_of_an_array_or_a_packed_file_is_the_row_of_a_line(data_format: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(near_good_rows(data_format), min_size=2, max_size=5))  # one row may be the whole file
    with tempfile.TemporaryDirectory() as folder:
        lines = write_jsonl(Path(folder) / "a.jsonl", rows)
        expected = validate(lines, data_format)
        require_accounted(expected)
        content = json.dumps(rows, indent=data.draw(st.sampled_from([None, 1]))).encode()
        suffix, pack = data.draw(st.sampled_from(list(PACKED.items())))
        for name, raw in ((f"a.json{suffix}", content), (f"a.jsonl{suffix}", lines.read_bytes())):
            path = Path(folder) / name
            path.write_bytes(pack(raw))
            assert without_name(validate(path, data_format)) == without_name(expected)


@formats
@examples(4)
@given(st.data())
def test_every_row_of_a_table_file_is_accounted_for(data_format: str, data: st.DataObject) -> None:
    keys = sorted({key for row in GOOD[data_format] for key in row} | {"more"})
    cells = st.none() | TEXTS | st.sampled_from([json.dumps(row[key]) for row in GOOD[data_format] for key in row])
    records = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(keys, cells)), min_size=1, max_size=5))
    separator = data.draw(st.sampled_from([",", ";", "\t"]))
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, keys, delimiter=separator)
    writer.writeheader()
    writer.writerows(records)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.csv").write_bytes(buffer.getvalue().encode("utf-8", "replace"))
        clean = [
            {key: cell and cell.encode("utf-8", "replace").decode() for key, cell in row.items()} for row in records
        ]
        pq.write_table(
            pa.Table.from_pylist(clean, pa.schema([(key, pa.string()) for key in keys])), f"{folder}/a.parquet"
        )
        for name in ("a.csv", "a.parquet"):
            report = validate(Path(folder) / name, data_format)
            require_accounted(report)
            assert report["status"] == "refused" or report["read"] == len(records)


@examples(40)
@given(
    st.sampled_from(list(FORMATS)),
    st.sampled_from(SUFFIXES),
    st.sampled_from(list(PACKED)),
    st.sampled_from([b"", b"{", b"[", b"PAR1", b"\x1f\x8b", b"BZh9", b"\x28\xb5\x2f\xfd", b'"', b"\xef\xbb\xbf"]),
    st.binary(max_size=60) | st.text(max_size=40).map(str.encode),
    st.booleans(),
)
def test_any_bytes_are_rows_or_are_refused(
    data_format: str, suffix: str, packed: str, head: bytes, rest: bytes, is_packed: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}{packed}"
        path.write_bytes(PACKED[packed](head + rest) if is_packed else head + rest)
        require_accounted(validate(path, data_format))


@formats
@examples(4)
@given(st.data())
def test_a_file_that_was_cut_or_changed_is_read_or_refused(data_format: str, data: st.DataObject) -> None:
    """One byte of a good file is another one, or the file ends too early."""
    suffix, pack = data.draw(st.sampled_from(list(PACKED.items())))
    with tempfile.TemporaryDirectory() as folder:
        if data.draw(st.booleans()):
            name, content = "a.jsonl", write_jsonl(Path(folder) / "rows.jsonl", GOOD[data_format]).read_bytes()
        else:
            rows = [{key: json.dumps(row[key]) for key in row} for row in GOOD[data_format]]
            pq.write_table(pa.Table.from_pylist(rows), f"{folder}/rows.parquet")
            name, content = "a.parquet", (Path(folder) / "rows.parquet").read_bytes()
        changed = bytearray(pack(content))
        at = data.draw(st.integers(0, len(changed) - 1))
        if data.draw(st.booleans()):
            del changed[at:]
        else:
            changed[at] = data.draw(st.integers(0, 255))
        path = Path(folder) / f"{name}{suffix}"
        path.write_bytes(changed)
        require_accounted(validate(path, data_format))

"""Unusual files: `ft validate` and the pipeline (snapshot, checkout, table) give the same result."""

import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.snapshot import checkout
from ft_pipeline.steps.tables import source_file
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.tables.build import build_table
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.tables.helpers import validate

A1, A2 = GOOD["alpaca"]
ONE, TWO = json.dumps(A1), json.dumps(A2)
LINES = f"{ONE}\n{TWO}\n".encode()
DEEP = "[" * 100_000 + "]" * 100_000
HALF = '{"instruction": "a", "output": "half \\ud83d"}'
TWICE = '{"instruction": "a", "output": "b", "output": "c"}'


def csv(*lines):
    return b"".join(line + b"\r\n" for line in (b"instruction,output", *lines))


def parquet(columns):
    file = io.BytesIO()
    names = [name for name, _ in columns]
    pq.write_table(pa.Table.from_arrays([array for _, array in columns], names=names), file)
    return file.getvalue()


def texts(*values):
    return pa.array(values, pa.string())


BAD_BYTES = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.array([0, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfex")]
)
FAR = pa.array([2**62, 1], pa.timestamp("us"))

FILES = [
    # name, content, the code that refuses it or the rows that are set aside
    ("bom_inside.jsonl", LINES[:-1] + b"\n\xef\xbb\xbf" + LINES, {"invalid_json": [3], "duplicate": [4]}),
    ("overlong.jsonl", LINES + b'{"instruction": "\xc0\xaf", "output": "b"}', {"not_utf8": [3]}),
    ("surrogate_bytes.jsonl", LINES + b'{"instruction": "\xed\xa0\xbd", "output": "b"}', {"not_utf8": [3]}),
    ("zeros_at_the_end.jsonl", LINES + b"\x00" * 20, {"invalid_json": [3]}),
    ("cut_off.jsonl", LINES + b'{"instruction": "cut o', {"invalid_json": [3]}),
    ("two_on_a_line.jsonl", LINES + (ONE + TWO).encode(), {"invalid_json": [3]}),
    ("commas.jsonl", LINES.replace(b"}\n", b"},\n"), "not_json"),
    ("python.jsonl", f"{A1}\n{A2}\n".encode(), "not_json"),
    ("png.jsonl", b"\x89PNG\r\n\x1a\n" + b"\x00" * 100, "not_json"),
    ("latin1.csv.jsonl", b"instruction,output\ncaf\xe9,b\nc,d\n", "not_json"),
    ("lists.jsonl", f"[{ONE}]\n[{TWO}]\n".encode(), "not_json"),
    ("wrong_closer.json", f"[{ONE}, {TWO}}}".encode(), "invalid_json"),
    ("closed_twice.json", f"[{ONE}, {TWO}]]".encode(), "invalid_json"),
    ("no_comma.json", f"[{ONE} {TWO}]".encode(), "invalid_json"),
    ("nested.json", f"[[{ONE}, {TWO}]]".encode(), "unknown_format"),
    ("elements.json", f"[{ONE}, {HALF}, {TWICE}, {DEEP}, null, {TWO}]".encode(),
     {"lone_surrogate": [2], "duplicate_key": [3], "invalid_json": [4], "wrong_type": [5]}),
    ("open.json", b"[" * 200_000, "invalid_json"),
    ("blank.jsonl", b"\n" * 100_000, "empty_file"),
    ("nothing.parquet", b"", "empty_file"),
    ("nul.csv", csv(b"a,b\x00c", b"d,e", b"f,g"), {"control_characters": [1]}),
    ("more_cells.csv", csv(b"a,b", b"c,d,e", b"f,g"), {"invalid_json": [2]}),
    ("twice.csv", b"instruction,output,output\r\na,b,c\r\nd,e,f\r\n", {"duplicate_key": [1, 2]}),
    ("twice_unread.csv", b"instruction,output,,\r\na,b,,\r\nd,e,f,g\r\n", {}),
    ("bytes_unread.csv", b"instruction,note,output\r\na,caf\xe9,b\r\nd,e,\xe9\r\ng,h,i\r\n", {"not_utf8": [2]}),
    ("bad_header.csv", b"instruction,output,r\xe9f\r\na,,1\r\nc,d,2\r\ne,f,3\r\n", {"empty_output": [1]}),
    ("history.csv", b"instruction,output,history\r\na,b,\r\nc,d,[]\r\ne,f,\r\n", {"wrong_type": [2]}),
    ("never_none.csv", csv(b"None,nan", b"NULL,N/A", b"1,2.5"), {}),
    ("twice.parquet", parquet([("instruction", texts("a", "b")), ("output", texts("c", "d")),
                               ("output", texts("e", "f"))]), {"duplicate_key": [1, 2]}),
    ("twice_unread.parquet", parquet([("note", texts("a", "b")), ("instruction", texts("a", "b")),
                                      ("output", texts("c", "d")), ("note", texts("e", "f"))]), {}),
    ("bytes_unread.parquet", parquet([("instruction", texts("a", "b")), ("output", texts("c", "d")),
                                      ("note", BAD_BYTES)]), {}),
    ("far.parquet", parquet([("instruction", texts("a", "b")), ("output", texts("c", "d")), ("when", FAR)]), {}),
    ("far_output.parquet", parquet([("instruction", texts("a", "b")), ("output", FAR)]), {"wrong_type": [1, 2]}),
    ("bytes.parquet", parquet([("instruction", texts("a", "b")), ("output", BAD_BYTES)]), {"not_utf8": [1]}),
    ("binary.parquet", parquet([("instruction", texts("a", "b")), ("output", pa.array([b"c", b"d"]))]),
     {"wrong_type": [1, 2]}),
    ("dictionary.parquet", parquet([("instruction", texts("a", "b").dictionary_encode()),
                                    ("output", texts("c", "d").dictionary_encode())]), {}),
]  # fmt: skip
SIDECARS = [
    ("- a\n", "must hold `key: value` lines"),
    ("hello\n", "must hold `key: value` lines"),
    ("columns: {a: output\n", "not valid YAML at line 2"),
    ("? [a]\n: b\n", "not valid YAML"),
    ("split: test\nsplit: test\n", "'split' stands twice"),
    ("columns: &a {x: *a}\n", "aliases"),
    ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases"),
    ("!!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ("columns: {}\n---\ncolumns: {}\n", "not valid YAML"),
    ("[" * 600 + "]" * 600, "plain YAML"),
    ("# " + "x" * (1 << 20), "1 MiB"),
    ("columns: [a]\n", "columns: must be lines of `theirs: ours`, is a list of 1"),
    ("columns: {a: 5}\n", "must be a text; put quotes around it, is a number (5)"),
    ("max_quarantined: true\n", "must be a number from 0 to 1"),
    ("max_quarantined: .nan\n", "must be a number from 0 to 1"),
    ("max_quarantined: 1.5\n", "must be a number from 0 to 1, is a number (1.5)"),
    ("allow: duplicate\n", "must be a list of codes"),
    ("roles: {1: human}\n", "put quotes around it"),
    ("colums: {a: output}\n", "unknown key 'colums'"),
]


def validate_and_build(folder, data_format="alpaca"):
    """Return three dictionaries by file: results of `ft validate`, results of the pipeline, JSON of `ft validate`.

    A result is (status, error code or reasons); a result of the pipeline also has the error message.
    """
    raw = folder / "raw"
    store = ArtifactStore(folder / "store")
    local_copies = checkout(snapshot_folder(raw, store), store, folder / "taken")
    report = build_table(
        data_format, [source_file(copy) for copy in local_copies], folder / "table", max_quarantined=1.0
    )
    assert report.checks["rows_accounted_for"].passed
    built = {file.file: (file.status, file.error_code or file.reasons, file.error_message) for file in report.files}
    documents = {name: validate(raw / name, data_format) for name in built}
    validated = {
        name: (document["status"], (document["error"] or {}).get("code") or document["reasons"])
        for name, document in documents.items()
    }
    return validated, built, documents


@pytest.mark.parametrize(("name", "content", "expected"), FILES, ids=[case[0] for case in FILES])
def test_validate_and_the_pipeline_give_the_same_result(tmp_path, name, content, expected):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_bytes(content)
    validated, built, documents = validate_and_build(tmp_path)
    assert validated[name] == built[name][:2] == ("refused" if isinstance(expected, str) else "accepted", expected)
    assert str(tmp_path) not in json.dumps(documents) + str(built[name][2])


@pytest.mark.parametrize(("text", "words"), SIDECARS, ids=[case[1] + case[0][:12] for case in SIDECARS])
@pytest.mark.usefixtures("usual_recursion_limit")
def test_an_invalid_sidecar_refuses_only_its_file(tmp_path, text, words):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.jsonl").write_bytes(LINES)
    (raw / "a.yaml").write_text(text)
    (raw / "b.jsonl").write_bytes(LINES)
    validated, built, documents = validate_and_build(tmp_path)
    assert validated["a.jsonl"] == built["a.jsonl"][:2] == ("refused", "unknown_format")
    assert words in documents["a.jsonl"]["error"]["message"] == built["a.jsonl"][2]
    assert validated["b.jsonl"] == built["b.jsonl"][:2] == ("accepted", {})


def test_null_values_in_a_sidecar_are_ignored(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_bytes(LINES)
    (tmp_path / "raw" / "a.yaml").write_text("columns:\nroles:\nmax_quarantined:\n")
    validated, built, _ = validate_and_build(tmp_path)
    assert validated["a.jsonl"] == built["a.jsonl"][:2] == ("accepted", {})


def test_links_pipes_and_devices_in_the_data_folder_are_refused(tmp_path):
    raw, outside = tmp_path / "raw", tmp_path / "outside"
    raw.mkdir()
    outside.mkdir()
    (outside / "secret.jsonl").write_bytes(LINES)
    (outside / "secret.yaml").write_text("secret: topsecret\n")
    for name, target in (
        ("out.jsonl", outside / "secret.jsonl"),
        ("loop.jsonl", "loop.jsonl"),
        ("gone.jsonl", "nothing.jsonl"),
        ("zero.jsonl", "/dev/zero"),
    ):
        (raw / name).symlink_to(target)
    os.mkfifo(raw / "pipe.jsonl")
    for name in ("loops", "leads_out"):
        (raw / f"{name}.jsonl").write_bytes(LINES)
    (raw / "loops.yaml").symlink_to("loops.yaml")
    (raw / "leads_out.yaml").symlink_to(outside / "secret.yaml")
    (raw / "old.jsonl").write_bytes(LINES)
    (raw / "old.yml").write_text("split: test\n")
    validated, built, documents = validate_and_build(tmp_path)
    for name, code in (
        ("out.jsonl", "path_outside_data_dir"),
        ("zero.jsonl", "path_outside_data_dir"),
        ("leads_out.jsonl", "path_outside_data_dir"),
        ("loop.jsonl", "not_found"),
        ("gone.jsonl", "not_found"),
        ("pipe.jsonl", "not_a_file"),
    ):
        assert validated[name] == built[name][:2] == ("refused", code), name
    assert built["old.yml"][1] == validated["old.jsonl"][1] == "unknown_format"
    assert validated["loops.jsonl"][0] == built["loops.jsonl"][0] == "refused"
    assert "loops.yaml" in built["loops.jsonl"][2]
    assert "topsecret" not in json.dumps(documents) and "10400" not in json.dumps(documents)


@pytest.mark.parametrize("path", ["", ".", "/", "/proc/self/mem", "x" * 5000, "ok.jsonl/under", "a\x00b"])
def test_paths_that_cannot_be_read_are_refused(tmp_path, path):
    (tmp_path / "ok.jsonl").write_bytes(LINES)
    report = validate(tmp_path / path if path and path[0] not in "./" else Path(path), "alpaca")
    assert report["error"]["code"] in {"not_found", "not_a_file"}


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / os.fsdecode(b"bad\xff.jsonl")
    path.write_bytes(LINES)
    report = validate(path, "alpaca")
    assert report["error"]["code"] == "not_utf8"
    json.dumps(report, ensure_ascii=False).encode()


def test_raw_text_of_a_csv_row_is_kept(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_bytes(csv(b"a,caf\xe9", b"c,d,e", b"f,g", b"h,i"))
    validate_and_build(tmp_path)
    set_aside = pq.read_table(tmp_path / "table" / "set_aside.parquet").to_pylist()
    assert [row["raw"] for row in set_aside] == ["a,caf\ufffd", "c,d,e"]

"""Which containers are read, which rows are quarantined, and which files are refused."""

import json
import lzma
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.tables.reading.containers import read_batches
from ft_pipeline.tables.reading.tabular_reader import separator_of
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.tables.helpers import validate, write_jsonl

ROWS = GOOD["alpaca"]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = b'instruction,input,output\r\n"Where, now?",,"It says ""here"".\r\nAnd goes on."\r\nHow?,so,Thus.\r\n'
SEMICOLONS = b'instruction;"in, or out";output\nWhere, now?;;"It says ""here"";\nAnd goes on."\nHow?;so;Thus.\n'

REFUSED = {
    "empty_file": [
        ("a.jsonl", b""),
        ("a.jsonl", b"\xef\xbb\xbf"),
        ("a.jsonl", b" \n\r\n\t\n"),
        ("a.json", b" [ ] \n"),
        ("a.csv", b"instruction,output\n"),
        ("a.csv", b"\n"),
    ],
    "not_a_list": [
        ("a.json", json.dumps({"data": ROWS}).encode()),
        ("a.json", json.dumps({"data": ROWS}, indent=1).encode()),
        ("a.json", json.dumps({"0": ROWS[0], "1": ROWS[1]}, indent=1).encode()),
        ("a.json", json.dumps(ROWS[0], indent=2).encode()),
        ("a.json", b'{"instruction": ["a", "b"], "output": ["c", "d"]}'),
        ("a.json", b"{}"),
        ("a.json", b'\xef\xbb\xbf\n{"train":\n[' + json.dumps(ROWS[0]).encode() + b"]}"),
    ],
    "not_json": [
        ("a.jsonl", CSV),
        ("a.jsonl", b"just\nwords\n"),
        ("a.jsonl", b'{"instruction": "a\n{"output": b}\n'),
        ("a.json", b'"text"\n'),
        ("a.jsonl", b'["a", "b"]\n["c", "d"]\n'),
        ("a.jsonl", b"\x00" * 3000),
        ("a.jsonl", b"<html>\n</html>\n"),
        ("a.jsonl", LINES.replace(b"\n", b"\r")),
    ],
    "not_utf8": [
        ("a.jsonl", LINES.decode().encode(name))
        for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
    ]
    + [("a.csv", CSV.decode().encode("utf-16")), ("a.jsonl", b'{"instruction": "\xe9", "output": "b"}\n' * 3)],
    "compressed": [("a.jsonl", lzma.compress(LINES)), ("a.jsonl", b"PK\x05\x06" + b"\x00" * 18)],
    "unknown_format": [
        ("a.jsonl", b'{"question": "a", "answer": "b"}\n' * 3),
        ("a.csv", b"question,answer\na,b\nc,d\n"),
        ("a.jsonl", b'{"instruction": "a"}\n' * 3),
        ("a.json", b'["a", "b"]'),
        ("a.parquet", LINES),
        ("a.parquet", b"PAR1cut off"),
        ("a.jsonl", b'{"text": "A passage of some length"}\n' * 2),
    ],
    "too_few_rows": [
        ("a.jsonl", LINES.split(b"\n")[0]),
        ("a.json", b"[" + LINES.split(b"\n")[0] + b"]"),
        ("a.csv", b"instruction,output\na,b\n"),
    ],
    "invalid_json": [
        ("a.json", json.dumps(ROWS).encode()[:-1]),
        ("a.json", json.dumps(ROWS).encode()[:60]),
        ("a.json", b"["),
        ("a.json", json.dumps(ROWS)[:-1].encode() + b",]"),
        ("a.json", json.dumps(ROWS).encode() + b" x"),
        ("a.json", b"[{'instruction': 'a'}]"),
        ("a.json", b'[{"instruction": "a" "output": "b"}, {}]'),
        ("a.csv", b'instruction,output\na,b\nc,"never closed\nd,e\n'),
        ("a.csv", b'instruction,output\na,"b"c\nd,e\n'),
    ],
}
CASES = [(code, name, content) for code, cases in REFUSED.items() for name, content in cases]


@pytest.mark.parametrize(
    ("code", "name", "content"), CASES, ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)]
)
def test_a_file_without_readable_rows_is_refused(tmp_path, code, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    report = validate(path, "alpaca")
    assert (report["status"], report["error"] and report["error"]["code"], report["reasons"]) == ("refused", code, {})
    assert report["read"] == report["accepted"] == 0
    assert str(tmp_path) not in report["error"]["message"]


ALPACA_ROW, TURNS = {"instruction": "a", "input": "", "output": "b"}, [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("data_format", "row", "words"),
    [
        (
            "alpaca",
            {"question": "a", "reply": "b"},
            "has `instruction` and `output`; the rows have 'question', 'reply'. "
            "Map them in a sidecar: `columns: {question: instruction, reply: output}`",
        ),
        ("alpaca", {"input": "a", "yes": "b"}, "sidecar: `columns: {A: instruction, B: output}`"),
        ("alpaca", {"output": "a", "yes": "b", "tags": "x"}, "sidecar: `columns: {'yes': instruction}`"),
        ("alpaca", {"question": "a"}, "Map them in a sidecar: `columns: {A: instruction, B: output}`"),
        ("chat", {"question": "a"}, "has `messages`, or `prompt` and `completion`; the rows have 'question'."),
        ("sharegpt", ALPACA_ROW, "They are alpaca rows: move the file to data/raw/alpaca"),
        (
            "alpaca",
            {"instruction": "a", "input": "b"},
            "They are unlabelled rows: move the file to data/raw/unlabelled",
        ),
        ("text", {"messages": TURNS, "tools": []}, "They are chat rows: move"),
        ("text", {"messages": TURNS, "reference_answer": "b"}, "They are unlabelled rows: move"),
        ("alpaca", {"conversations": TURNS}, "They are sharegpt rows: move"),
        ("alpaca", {"prompt": "a", "completion": "b", "label": True}, "They are feedback rows: move"),
        ("text", {"prompt": "a", "chosen": "b", "rejected": "c"}, "They are preferences rows: move"),
        ("alpaca", {}, "the rows have no columns"),
    ],
)
def test_a_file_of_another_format_is_told_where_it_belongs(tmp_path, data_format, row, words):
    error = validate(write_jsonl(tmp_path / "a.jsonl", [row, row]), data_format)["error"]
    assert error["code"] == "unknown_format" and words in error["message"]


def test_rows_for_reinforcement_are_told_what_uses_them(tmp_path):
    rows = [{"messages": TURNS, "reference_answer": "b"}] * 2
    report = validate(write_jsonl(tmp_path / "a.jsonl", rows), "chat")
    (message,) = [warning["message"] for warning in report["warnings"] if warning["code"] == "wrong_format"]
    assert message.startswith("row 1 is a row for reinforcement") and "data/raw/unlabelled" in message
    assert "`objective: grpo`" in message and report["reasons"] == {"wrong_format": [1, 2]}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("grader", "words"),
    [
        ({"type": "string_check", "name": "g", "operation": "eq", "input": "a", "reference": "b"}, "exact_match"),
        ({"type": "python", "name": "g", "source": "def grade(): ..."}, "evaluation.metrics"),
        ({"type": "multi", "graders": {"g": {"type": "string_check"}}, "calculate_output": "g"}, "grpo.rewards"),
        ({"grader": {"type": "score_model", "model": "m", "input": []}}, "evaluation.judge"),
    ],
)
def test_a_grader_is_no_row(tmp_path, indent, grader, words):
    path = tmp_path / "grader.json"
    path.write_text(json.dumps(grader, indent=indent))
    for data_format in ("chat", "unlabelled"):
        error = validate(path, data_format)["error"]
        assert error["code"] == "not_a_list" and "a grader" in error["message"] and words in error["message"]


@pytest.mark.parametrize("separator", [b";", b"\t"])
def test_other_separators_than_the_comma_keep_the_cells(tmp_path, separator):
    path = tmp_path / "a.csv"
    path.write_bytes(SEMICOLONS.replace(b";", separator) + b"too,many".join([separator] * 4) + b"\n")
    (batch,) = read_batches(path, ".csv")
    names = ("instruction", "in, or out", "output")
    first = f'It says "here"{separator.decode()}\nAnd goes on.'
    rows = [("Where, now?", "", first), ("How?", "so", "Thus.")]
    assert batch.values[:2] == [dict(zip(names, cells, strict=True)) for cells in rows]
    assert "is a " in batch.values[2].message and batch.values[2].raw.count(separator.decode()) == 4


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (b"instruction, long;output\nq 1;a\n", ["instruction, long", "output"]),
        (b"Frage, kurz;output;text\nq, 1;a;b\n", ["Frage, kurz", "output", "text"]),
        (b"id;text, clean\ttext\n1;a, b\tc\n", ["id;text, clean", "text"]),
        (b"instruction,output;x\na;b;c,d\n", ["instruction", "output;x"]),
        (b'text,a;output\n"b;\nc",d\n', ["text", "a;output"]),
    ],
)
def test_the_separator_is_the_one_with_which_the_columns_are_known(tmp_path, lines, names):
    path = tmp_path / "a.csv"
    for content in (lines, b"\xef\xbb\xbf" + lines):
        path.write_bytes(content)
        (batch,) = read_batches(path, ".csv")
        assert list(batch.values[0]) == names
        with path.open(encoding="utf-8", newline="") as file:  # as an erasure reads it
            assert lines.decode().split("\n")[0].split(separator_of(file)) == names


@pytest.mark.parametrize("header", [b"instruction,output;x", b'"instruction",output\tx', b"text", b"a;b,c;d;e"])
def test_a_header_with_a_comma_or_one_column_is_read_as_before(tmp_path, header):
    path = tmp_path / "a.csv"
    path.write_bytes(header + b"\na;b\tc,d\n")
    (batch,) = read_batches(path, ".csv")
    assert len(header.split(b",")) == 1 or list(batch.values[0].values()) == ["a;b\tc", "d"]


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.json", LINES),
        ("a.txt", LINES.strip()),
        ("a", b"\xef\xbb\xbf" + LINES),
        ("a.csv", LINES),
        ("a.jsonl", json.dumps(ROWS).encode()),
        ("a.json", b"\xef\xbb\xbf \n" + json.dumps(ROWS, indent=3).encode() + b"\n\n"),
        ("a.jsonl", LINES.replace(b"\n", b"\r\n")),
        ("a.CSV", b"\xef\xbb\xbf" + CSV),
        ("a.csv", CSV.replace(b"\r\n", b"\n")),
        ("a.csv", SEMICOLONS),
        ("a.csv", b"\xef\xbb\xbf" + SEMICOLONS.replace(b";", b"\t")),
    ],
)
def test_the_container_is_detected_from_the_content(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    report = validate(path, "alpaca")
    assert (report["status"], report["read"], report["accepted"]) == ("accepted", 2, 2)


def test_parquet_is_read_with_its_types(tmp_path):
    rows = [
        {**ROWS[0], "history": [["Hi", "Hello"]]},
        {**ROWS[1], "history": None},
        {"instruction": "x", "input": None, "output": None},
    ]
    path = tmp_path / "a.parquet"
    content = write_parquet(path, rows)
    assert validate(path, "alpaca")["reasons"] == {"empty_output": [3]}
    numbers = tmp_path / "n.parquet"
    write_parquet(numbers, [{"instruction": "a", "output": 1}, {"instruction": "b", "output": 2}])
    assert validate(numbers, "alpaca")["reasons"] == {"wrong_type": [1, 2]}
    (tmp_path / "a.jsonl").write_bytes(content)
    assert validate(tmp_path / "a.jsonl", "alpaca")["error"]["code"] == "not_json"
    (tmp_path / "cut.parquet").write_bytes(content[:-40])
    assert validate(tmp_path / "cut.parquet", "alpaca")["error"]["code"] == "unknown_format"

    (tmp_path / "name.parquet").write_bytes(content.replace(b"instruction", b"instruct\xa0on"))
    assert validate(tmp_path / "name.parquet", "alpaca")["error"]["code"] == "unknown_format"


def test_null_keys_of_parquet_turns_count_as_missing(tmp_path):
    rows = [
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"conversations": [{"from": "human", "value": "c"}, {"from": None, "value": "d"}]},
        {"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": None}]},
    ]
    path = tmp_path / "a.parquet"
    write_parquet(path, rows)
    assert validate(path, "sharegpt")["reasons"] == {"missing_from": [2], "missing_value": [3]}


def test_invalid_csv_rows_are_quarantined(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"instruction,output\na,b\nc\nd,e,f\ng,caf\xe9\nNone,nan\n,x\ny,\x07\n")
    expected = {
        "missing_output": [2],
        "invalid_json": [3],
        "not_utf8": [4],
        "missing_instruction": [6],
        "control_characters": [7],
    }
    report = validate(path, "alpaca")
    assert (report["reasons"], report["accepted"]) == (expected, 2)


def test_blank_lines_are_not_rows_but_count_in_row_numbers(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["", ROWS[0], "  ", "broken", ROWS[1], "\t"])
    report = validate(path, "alpaca")
    assert (report["read"], report["reasons"]) == (3, {"invalid_json": [4]})


def test_only_line_feed_ends_a_row(tmp_path):
    rows = [
        {"instruction": f"a{char}b", "output": f"c{char}d{number}"}
        for number, char in enumerate("\u2028\u2029\x85\v"[:3])
    ]
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    (tmp_path / "a.jsonl").write_bytes(content)
    assert validate(tmp_path / "a.jsonl", "alpaca")["accepted"] == 3


def test_an_invalid_first_row_does_not_refuse_the_file(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["[1, 2]", *ROWS])
    assert validate(path, "alpaca")["reasons"] == {"wrong_type": [1]}
    path = write_jsonl(tmp_path / "b.jsonl", ['{"instruction": "a', *ROWS])
    assert validate(path, "alpaca")["reasons"] == {"invalid_json": [1]}


def test_invalid_array_elements_are_quarantined(tmp_path):
    elements = [
        json.dumps(ROWS[0]),
        "null",
        "5",
        '"x"',
        '{"instruction": "a", "instruction": "b", "output": "c"}',
        "[" * 500 + "]" * 500,
        '{"instruction": "a", "output": NaN}',
        json.dumps(ROWS[1]),
    ]
    path = tmp_path / "a.json"
    path.write_text("[" + ",\n".join(elements) + "]")
    report = validate(path, "alpaca")
    assert report["reasons"] == {"duplicate_key": [5], "invalid_json": [6], "wrong_type": [2, 3, 4, 7]}
    path.write_bytes(
        b"["
        + json.dumps(ROWS[0]).encode()
        + b', {"instruction": "\xff", "output": "b"}, '
        + json.dumps(ROWS[1]).encode()
        + b"]"
    )
    assert validate(path, "alpaca")["reasons"] == {"not_utf8": [2]}


def test_the_error_of_a_truncated_array_names_the_byte(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(ROWS).encode()[:77])
    assert "byte 77" in validate(path, "alpaca")["error"]["message"]


def test_nothing_outside_the_data_folder_is_read(tmp_path):
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    write_jsonl(outside / "secret.jsonl", ROWS)
    (outside / "secret.yaml").write_text("max_quarantined: topsecret\n")
    (inside / "link.jsonl").symlink_to(outside / "secret.jsonl")
    (inside / "up.jsonl").symlink_to("../outside/secret.jsonl")
    (inside / "gone.jsonl").symlink_to(outside / "nothing.jsonl")
    for name in ("link.jsonl", "up.jsonl", "gone.jsonl"):
        report = validate(inside / name, "alpaca")
        assert report["error"]["code"] == "path_outside_data_dir"
        assert "order" not in json.dumps(report)
    write_jsonl(inside / "ok.jsonl", ROWS)
    (inside / "ok.yaml").symlink_to(outside / "secret.yaml")
    report = validate(inside / "ok.jsonl", "alpaca")
    assert report["error"]["code"] == "path_outside_data_dir"
    assert "topsecret" not in json.dumps(report)
    (inside / "same.jsonl").symlink_to("ok.jsonl")
    assert validate(inside / "same.jsonl", "alpaca")["status"] == "accepted"


def test_paths_that_are_not_regular_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    for name, code in (
        ("pipe.jsonl", "not_a_file"),
        ("folder.jsonl", "not_a_file"),
        ("none.jsonl", "not_found"),
        ("loop.jsonl", "not_found"),
    ):
        assert validate(tmp_path / name, "alpaca")["error"]["code"] == code


def test_a_line_over_the_limit_is_one_quarantined_row(tmp_path, monkeypatch):
    from ft_pipeline.tables.reading import json_reader

    monkeypatch.setattr(json_reader, "MAX_LINE_BYTES", 1 << 12)
    monkeypatch.setattr(json_reader, "BLOCK_BYTES", 1 << 10)
    path = write_jsonl(tmp_path / "a.jsonl", [ROWS[0], {"instruction": "x" * 20_000, "output": "y"}, ROWS[1]])
    report = validate(path, "alpaca")
    assert (report["read"], report["reasons"]) == (3, {"too_long": [2]})


def test_against_reports_rows_that_overlap_the_other_file(tmp_path):
    words = " ".join(f"word{number}" for number in range(60))
    train = write_jsonl(tmp_path / "train.jsonl", [*ROWS, {"instruction": "Long?", "output": words}])
    test = write_jsonl(
        tmp_path / "test.jsonl",
        [
            ROWS[0],
            {**ROWS[1], "output": "Another answer."},
            {"instruction": "Long, too", "output": words},
            {"instruction": "New?", "output": "Yes."},
        ],
    )
    report = validate(test, "alpaca", against=train)
    assert report["reasons"] == {"train_test_overlap": [1, 2, 3]}
    with pytest.raises(UserError, match=r"gone\.jsonl"):
        validate(test, "alpaca", against=tmp_path / "gone.jsonl")

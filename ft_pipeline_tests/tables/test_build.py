"""Building a table: accounts, sidecars, checks and the written files."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.finished_tables import table_of_format
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.row_ids import row_id
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.reading import json_reader, process_pool
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.tables.helpers import build, validate, write_jsonl

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def without_null_keys(cell):
    """A cell as it was before writing: Parquet adds null for each key that a turn does not have."""
    return plain(cell) if isinstance(cell, list) and isinstance(cell[0], dict) else cell


def read_output(folder, name):
    return pq.read_table(folder / "out" / f"{name}.parquet").to_pylist()


@pytest.mark.parametrize("data_format", FORMATS)
def test_rows_are_written_with_their_origin(tmp_path, data_format):
    report = build(tmp_path, data_format, {"b.jsonl": GOOD[data_format], "a.jsonl": [*GOOD[data_format], "broken"]})
    rows = read_output(tmp_path, "rows")
    assert [(row["file"], row["row"]) for row in rows] == [("a.jsonl", 1), ("a.jsonl", 2)]
    for row in rows:
        assert row["id"] == row_id({name: without_null_keys(row[name]) for name in FORMATS[data_format].column_names})
    set_aside = [(row["file"], row["row"], row["code"], row["copy_of"]) for row in read_output(tmp_path, "set_aside")]
    assert set_aside == [
        ("a.jsonl", 3, "invalid_json", None),
        ("b.jsonl", 1, "duplicate", "a.jsonl:1"),
        ("b.jsonl", 2, "duplicate", "a.jsonl:2"),
    ]
    assert (report.read, report.accepted, report.quarantined, report.duplicates) == (5, 2, 1, 2)
    assert report.passed and report.reasons == {"duplicate": 2, "invalid_json": 1}
    assert [name for name, text in table_of_format(FORMATS[data_format]).descriptions.items() if text] == [
        *FORMATS[data_format].column_names,
        "file",
        "row",
        "id",
    ]
    json.dumps(report.to_json())


def test_several_processes_give_the_same_table(tmp_path, monkeypatch):
    rows = [{"instruction": f"Ask {n % 900}", "output": "x" * 100 + str(n)} for n in range(1000)]
    rows += ["broken", *rows[:5]]
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    row_counts = []
    one_process = build(tmp_path / "one", "alpaca", {"a.jsonl": rows}, progress=row_counts.append)
    assert sum(row_counts) == 1006
    monkeypatch.setattr(process_pool, "MIN_BYTES", 0)
    monkeypatch.setattr(json_reader, "BLOCK_BYTES", 1 << 15)
    several_processes = build(tmp_path / "many", "alpaca", {"a.jsonl": rows})
    assert several_processes.to_json() == one_process.to_json() and several_processes.passed
    for name in ("rows", "set_aside", "files", "keys"):
        assert read_output(tmp_path / "one", name) == read_output(tmp_path / "many", name)


def test_tables_import_nothing_heavy():
    modules = "build conversations validate held_out checks.row_rules table_schemas"
    code = f"import sys\nfor name in '{modules}'.split(): __import__('ft_pipeline.tables.' + name)\n"
    code += "print({'torch', 'transformers', 'dagster', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_refused_file_fails_the_check_and_other_files_are_kept(tmp_path):
    report = build(tmp_path, "alpaca", {"a.jsonl": GOOD["alpaca"], "b.jsonl": []})
    assert not report.checks["all_files_readable"].passed
    assert "b.jsonl: empty_file" in report.checks["all_files_readable"].message
    assert report.checks["rows_accounted_for"].passed and report.accepted == 2
    assert [file["status"] for file in read_output(tmp_path, "files")] == ["accepted", "refused"]


def test_an_empty_folder_gives_an_empty_table(tmp_path):
    report = build(tmp_path, "text", {})
    assert report.passed and report.read == 0
    assert read_output(tmp_path, "rows") == read_output(tmp_path, "set_aside") == read_output(tmp_path, "files") == []


def test_a_table_without_accepted_rows_fails(tmp_path):
    report = build(tmp_path, "alpaca", {"a.jsonl": [{"instruction": "a", "output": ""}] * 2}, max_quarantined=1.0)
    assert not report.checks["some_rows_accepted"].passed


def test_the_quarantine_check_names_frequent_codes_and_first_rows(tmp_path):
    rows = [*GOOD["alpaca"], {"instruction": "x", "output": ""}, {"instruction": "y", "output": ""}, "broken"]
    report = build(tmp_path, "alpaca", {"a.jsonl": rows}, max_quarantined=0.5)
    check = report.checks["quarantined_share"]
    assert not check.passed and check.value == pytest.approx(0.6)
    assert "3 of 5" in check.message and "empty_output (2), invalid_json (1)" in check.message
    assert "a.jsonl:3 empty_output" in check.message
    assert build(tmp_path, "alpaca", {"a.jsonl": rows}, max_quarantined=0.6).passed


def test_a_file_with_max_quarantined_is_checked_separately(tmp_path):
    bad = [*GOOD["alpaca"], "broken", "broken"]
    good = [{"instruction": f"Question {number}", "output": f"Reply {number}"} for number in range(8)]
    files = {"bad.jsonl": bad, "good.jsonl": good}
    assert not build(tmp_path, "alpaca", files, max_quarantined=0.1).passed
    assert build(
        tmp_path, "alpaca", files, max_quarantined=0.1, sidecars={"bad.jsonl": {"max_quarantined": 0.5}}
    ).passed
    report = build(tmp_path, "alpaca", files, max_quarantined=0.2, sidecars={"bad.jsonl": {"max_quarantined": 0.4}})
    assert "bad.jsonl: 2 of 4" in report.checks["quarantined_share"].message


def test_sidecar_maps_columns_and_roles(tmp_path):
    rows = [
        {"turns": [{"speaker": "Customer", "said": f"Question {n}"}, {"speaker": "Agent", "said": f"Reply {n}"}]}
        for n in "ab"
    ]
    sidecar = {
        "columns": {"turns": "conversations", "speaker": "from", "said": "value"},
        "roles": {"Customer": "human", "Agent": "gpt"},
    }
    report = build(tmp_path, "sharegpt", {"a.jsonl": rows}, sidecars={"a.jsonl": sidecar})
    assert report.accepted == 2 and not report.warnings
    assert plain(read_output(tmp_path, "rows")[0]["messages"]) == [
        {"role": "user", "content": "Question a"},
        {"role": "assistant", "content": "Reply a"},
    ]


@pytest.mark.parametrize(
    "columns", [{"question": "instruction", "reply": "output"}, {"instruction": "question", "output": "reply"}]
)
def test_a_column_mapping_works_in_both_directions(tmp_path, columns):
    rows = [{"question": "a", "reply": "b"}, {"question": "c", "reply": "d", "output": "the mapped column wins"}]
    report = build(tmp_path, "alpaca", {"a.jsonl": rows}, sidecars={"a.jsonl": {"columns": columns}})
    assert report.accepted == 2 and read_output(tmp_path, "rows")[1]["output"] == "d"


def test_a_sidecar_can_map_turns_to_the_prompt_of_a_pair(tmp_path):
    pair = {
        "conversations": [{"from": "human", "value": "Hello"}],
        "chosen": {"from": "gpt", "value": "Hi!"},
        "rejected": {"from": "gpt", "value": "No."},
    }
    pair_without_answer = {**pair, "chosen": {"from": "gpt", "value": ""}}
    report = build(
        tmp_path,
        "preferences",
        {"a.jsonl": [pair, pair_without_answer]},
        sidecars={"a.jsonl": {"columns": {"conversations": "prompt"}}},
    )
    assert report.reasons == {"empty_chosen": 1}
    assert plain(read_output(tmp_path, "rows")[0]["prompt_messages"]) == [{"role": "user", "content": "Hello"}]


def test_rows_with_allowed_codes_are_accepted(tmp_path):
    rows = [*GOOD["alpaca"], GOOD["alpaca"][0], {"instruction": "Hi {{Name}}", "output": "Hello {{Name}}"}]
    allow = {"allow": ["duplicate", "unresolved_placeholder"]}
    assert build(tmp_path, "alpaca", {"a.jsonl": rows}).accepted == 2
    assert build(tmp_path, "alpaca", {"a.jsonl": rows}, sidecars={"a.jsonl": allow}).accepted == 4


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        ({"colums": {}}, "unknown key 'colums'"),
        ({"allow": ["wrong_type"]}, "cannot be allowed"),
        ({"allow": ["dupe"]}, "no such code"),
        ({"columns": {"a": "answer"}}, "map it to one of"),
        ({"max_quarantined": 3}, "max_quarantined"),
        ({"split": "train"}, "split"),
        ({"roles": {"User": "user"}}, "roles"),
        ({"columns": {"a": "output", "b": "output"}}, "same name"),
    ],
)
def test_an_invalid_sidecar_refuses_its_file(tmp_path, sidecar, words):
    report = build(tmp_path, "alpaca", {"a.jsonl": GOOD["alpaca"]}, sidecars={"a.jsonl": sidecar})
    assert report.files[0].error_code == "unknown_format"
    assert words in report.files[0].error_message


def test_the_sidecar_is_read_from_the_folder_of_its_file(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "a", "reply": "b"}, {"q": "c", "reply": "d"}])
    (tmp_path / "a.yaml").write_text("columns: {q: instruction, reply: output}\n")
    assert validate(path, "alpaca")["accepted"] == 2
    (tmp_path / "a.yaml").write_text("columns: {q: instruction\nsecret words")
    error = validate(path, "alpaca")["error"]
    assert "a.yaml" in error["message"] and "line" in error["message"] and "secret" not in error["message"]


def test_an_excluded_row_leaves_no_text(tmp_path):
    excluded_row = {
        "instruction": "Where is order 10400?",
        "input": "",
        "output": "It left our warehouse on Monday.",
        "system": None,
        "history": None,
    }
    report = build(tmp_path, "alpaca", {"a.jsonl": GOOD["alpaca"]}, excluded=frozenset({row_id(excluded_row)}))
    assert report.reasons == {"excluded": 1}
    assert b"10400" not in (tmp_path / "out" / "set_aside.parquet").read_bytes()


def test_the_raw_text_of_a_quarantined_row_is_stored_and_truncated(tmp_path):
    long_row = {"instruction": "x", "output": "", "more": "z" * 5000}
    build(tmp_path, "alpaca", {"a.jsonl": [*GOOD["alpaca"], b'{"instruction": "caf\xe9"', long_row]})
    set_aside = read_output(tmp_path, "set_aside")
    assert set_aside[0]["raw"] == '{"instruction": "caf\ufffd"'
    assert len(set_aside[1]["raw"]) == 2000 and set_aside[1]["raw"].startswith('{"instruction": "x"')


def test_strings_are_stored_byte_for_byte_and_nothing_is_added(tmp_path):
    text = "🙂 e\u0301 مرحبا\u2028\u00a0<b>x</b>\r\n\t \ufeff"
    rows = [{"instruction": text, "input": None, "output": text}, {"instruction": "None", "output": "nan"}]
    build(tmp_path, "alpaca", {"a.jsonl": rows}, sidecars={"a.jsonl": {"allow": ["output_equals_input"]}})
    written = read_output(tmp_path, "rows")
    assert (written[0]["instruction"], written[0]["input"], written[0]["output"]) == (text, "", text)
    assert (written[1]["instruction"], written[1]["system"], written[1]["history"]) == ("None", None, None)


def test_warnings_name_rows_and_never_values(tmp_path):
    rows = [
        *GOOD["alpaca"],
        {"instruction": "Reach me", "output": "anna.berg@example.com or +47 912 34 567"},
        {"instruction": "Card 4111 1111 1111 1111", "input": "IBAN DE89 3704 0044 0532 0130 00", "output": "Noted."},
        {"instruction": "Order 502-2345678-9012345 and 113542617735902", "output": "On its way, 10400 to 10405."},
        {"instruction": "Where is order 10400?", "output": "Still with us."},
    ]
    report = build(tmp_path, "alpaca", {"a.jsonl": rows})
    rows_by_code = {warning.code: warning.rows for warning in report.warnings}
    assert rows_by_code == {
        "pii_email": [3],
        "pii_phone": [3],
        "pii_card": [4],
        "pii_iban": [4],
        "conflicting_answers": [1, 6],
    }
    messages = " ".join(warning.message for warning in report.warnings)
    assert not any(value in messages for value in ("anna", "912", "4111", "DE89"))


def test_placeholders_in_brackets_only_cause_a_warning(tmp_path):
    rows = [
        *GOOD["alpaca"],
        {"instruction": "Write a letter", "output": "Dear [Recipient's Name],\n\nI am [Your Name]."},
        {"instruction": "Sum up", "input": "From [insert date here] on", "output": "It holds from then on."},
        {"instruction": "A list [1] of [x, y] and [a name](https://example.com)", "output": "See [product](x) [sic]."},
    ]
    report = build(tmp_path, "alpaca", {"a.jsonl": rows})
    (warning,) = report.warnings
    assert (warning.code, warning.rows, report.accepted) == ("possible_placeholder", [3, 4], 5)
    assert "[Your Name]" in warning.message


def test_the_table_hash_depends_on_its_accepted_rows(tmp_path):
    first = build(tmp_path, "alpaca", {"a.jsonl": GOOD["alpaca"]}).rows_hash
    assert build(tmp_path, "alpaca", {"a.jsonl": [*GOOD["alpaca"], "broken"]}).rows_hash == first
    assert build(tmp_path, "alpaca", {"a.jsonl": GOOD["alpaca"][::-1]}).rows_hash != first


def test_a_test_file_keeps_rows_that_are_also_in_training_files(tmp_path):
    files = {"a_train.jsonl": GOOD["alpaca"], "b_test.jsonl": [*GOOD["alpaca"], GOOD["alpaca"][0]]}
    report = build(tmp_path, "alpaca", files, sidecars={"b_test.jsonl": {"split": "test"}})
    assert [file.accepted for file in report.files] == [2, 2]
    assert report.files[1].reasons == {"duplicate": [3]}


REAL_FILES = [
    ("alpaca", "alpaca/alpaca_en_demo.json", None, 999, 970),
    ("alpaca", "alpaca/davinci_predictions.jsonl", {"columns": {"response": "output"}}, 252, 252),
    (
        "alpaca",
        "support/bitext_support.csv",
        {"columns": {"response": "output"}, "allow": ["unresolved_placeholder"]},
        4514,
        4513,
    ),
    ("sharegpt", "sharegpt/dummy_conversation.json", None, 500, 500),
    (
        "sharegpt",
        "sharegpt/cucom_ecommerce.jsonl",
        {"columns": {"turns": "conversations"}, "roles": {"User": "human", "agent": "gpt", "Agent": "gpt"}},
        1500,
        1435,
    ),
    ("preferences", "preferences/dpo_en_demo.json", {"columns": {"conversations": "prompt"}}, 300, 294),
    ("text", "text/c4_demo.jsonl", None, 300, 300),
    ("unlabelled", "alpaca/vicuna_bench_question.jsonl", {"columns": {"turns": "instruction"}}, 80, 80),
]
LARGE = ("support/bitext_support.csv", "sharegpt/cucom_ecommerce.jsonl")
# Their formats have smaller files here; the keys of their sidecars and CSV have tests of their own.


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    ("data_format", "name", "sidecar", "read_rows", "accepted"),
    [pytest.param(*case, id=case[1], marks=pytest.mark.long if case[1] in LARGE else ()) for case in REAL_FILES],
)
def test_real_files_give_the_expected_counts(tmp_path, data_format, name, sidecar, read_rows, accepted):
    source = SourceFile(Path(name).name, SHARED / name, "", sidecar)
    report = build_table(data_format, [source], tmp_path, max_quarantined=0.1)
    assert report.passed
    assert (report.read, report.accepted) == (read_rows, accepted)

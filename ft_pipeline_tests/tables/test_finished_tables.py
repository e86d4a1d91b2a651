"""Each finished table declares its columns, and pandera sees every row of it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.distillation.answer_table import TEACHER_ANSWERS, answer_row, read_prompts, write_answers
from ft_pipeline.distillation.distill import DISTILLED_TABLE, distill
from ft_pipeline.execution import metadata
from ft_pipeline.page import Columns
from ft_pipeline.settings.instance import DagsterSettings
from ft_pipeline.tables import row_groups
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.finished_tables import CONVERSATIONS, FILES, QUARANTINE, FinishedTable, table_of_format
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline.tables.quarantine import Part, build_quarantine
from ft_pipeline.tables.table_schemas import TableCheck, check_table
from ft_pipeline.training.token_table import token_table
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.distillation import material
from ft_pipeline_tests.tables.helpers import build, build_chat_tables, spy_on_pandera

TURNS = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "With the carrier."}]
ROW = {"split": "train", "group": "g", "messages": TURNS, "table": "alpaca", "file": "a.jsonl", "row": 1}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The number of rows that pandera saw, by the name of their schema."""
    return spy_on_pandera(monkeypatch)


def rows_in(folder: Path, name: str = "rows") -> int:
    return pq.read_metadata(folder / f"{name}.parquet").num_rows


@pytest.mark.parametrize("data_format", FORMATS)
def test_pandera_sees_every_row_of_a_table(
    tmp_path: Path, seen: Counter[str], data_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "GROUP_TABLES", 1)
    files = {"a.jsonl": GOOD[data_format], "b.jsonl": [*GOOD[data_format], "broken"], "c.jsonl": []}
    report = build(tmp_path, data_format, files)
    assert report.checks["matches_schema"].passed, report.checks["matches_schema"].message
    assert seen[data_format] == report.accepted == rows_in(tmp_path / "out") > 0
    assert seen["set_aside"] == rows_in(tmp_path / "out", "set_aside") > 0
    assert seen["files"] == 3


def test_pandera_sees_every_conversation_and_every_row_that_is_not_used(tmp_path: Path, seen: Counter[str]) -> None:
    pairs = [{"instruction": f"Where is order {n} {n * n}?", "output": f"With carrier {n}, {n * 7}."} for n in range(9)]
    turns = [{"from": "human", "value": pairs[0]["instruction"]}, {"from": "gpt", "value": pairs[0]["output"]}]
    sharegpt = {"c.jsonl": [*GOOD["sharegpt"], {"conversations": turns}]}
    report, rows, set_aside = build_chat_tables(tmp_path, {"a.jsonl": [*pairs, "broken"]}, sharegpt)
    assert report.checks["matches_schema"].passed, report.checks["matches_schema"].message
    folders = {"alpaca": tmp_path / "alpaca" / "out", "sharegpt": tmp_path / "sharegpt" / "out"}
    assert seen["conversations"] == len(rows) > 0
    assert seen["set_aside"] == len(set_aside) + sum(rows_in(folder, "set_aside") for folder in folders.values()) == 2
    (tmp_path / "q").mkdir()
    parts = [Part(name, folder) for name, folder in {**folders, "conversations": tmp_path / "out"}.items()]
    summary = build_quarantine(parts, tmp_path / "q")
    assert summary["checks"]["matches_schema"]["passed"]
    assert seen["quarantine"] == rows_in(tmp_path / "q") == 2


def test_pandera_sees_every_answer_of_a_teacher(tmp_path: Path, seen: Counter[str]) -> None:
    answers = [
        material.answer_row(1, "May the rug go back?", "I'm e-mailing you a free return label for the rug now."),
        material.answer_row(2, "Is there a shop in Leeds?", "There is no shop", finish_reason="length"),
    ]
    out, conversations = tmp_path / "out", material.write_conversations(tmp_path / "conversations")
    out.mkdir()
    assert write_answers(answers, out)["matches_schema"]["passed"] and seen["teacher_answers"] == 2
    SuiteTexts().write(conversations)
    folder = material.write_answers(tmp_path / "answers", answers)
    summary = distill(folder, conversations, out, teacher={"model": "embedded", "fingerprint": "f" * 64})
    assert summary["checks"]["matches_schema"]["passed"], summary["checks"]
    assert seen["distilled"] == rows_in(out) == 1 and seen["set_aside"] == rows_in(out, "set_aside") == 1


def conversations(**cells: Any) -> pa.Table:
    """Two conversations; the second one has these cells."""
    rows = [{**ROW, "id": "a"}, {**ROW, "id": "b", "row": 2, **cells}]
    return pa.Table.from_pylist(rows, CONVERSATIONS.arrow_schema)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"split": "dev"}, "row 2: split is 'dev': one of train, validation, test"),
        ({"file": None}, "row 2: file is '<NA>': not_nullable"),
        ({"id": "a"}, "id"),
        ({"row": 0}, "row 2: row is '0': at least 1"),
        ({"messages": []}, "each turn has a role and a content"),
        ({"messages": [*TURNS, {"role": "robot", "content": "Hi"}]}, "each turn has a role and a content"),
        ({"messages": [{"role": "user"}]}, "each turn has a role and a content"),
    ],
)
def test_a_wrong_row_fails_the_schema_and_is_named(cells: dict[str, Any], words: str) -> None:
    check = check_table(CONVERSATIONS, conversations(**cells))
    assert not check.passed and words in check.message and "report this" in check.message
    assert check_table(CONVERSATIONS, conversations()).passed


def test_a_column_that_is_missing_or_has_another_type_fails_the_schema() -> None:
    table = conversations()
    assert not check_table(CONVERSATIONS, table.drop_columns("tags")).passed
    assert not check_table(CONVERSATIONS, table.set_column(8, "row", table["row"].cast(pa.string()))).passed


def test_an_account_that_does_not_add_up_fails_the_schema() -> None:
    counts = {"read": 5, "accepted": 3, "quarantined": 1, "duplicates": 1}
    account = {"file": "a.jsonl", "sha256": "", "status": "accepted", "allow": [], **counts}
    assert check_table(FILES, pa.Table.from_pylist([account], FILES.arrow_schema)).passed
    check = check_table(FILES, pa.Table.from_pylist([account | {"read": 6}], FILES.arrow_schema))
    assert "row 1: read = accepted + quarantined + duplicates" in check.message and not check.passed


def test_a_row_without_a_label_for_each_token_fails_the_schema() -> None:
    table = token_table(["id", "source", "input_ids", "labels"])
    row = {"id": "a", "source": "human", "input_ids": [1, 2], "labels": [-100, 2]}
    assert check_table(table, pa.Table.from_pylist([row], table.arrow_schema)).passed
    check = check_table(table, pa.Table.from_pylist([row, row | {"labels": [2]}], table.arrow_schema))
    assert not check.passed and "row 2: a label for each token" in check.message


def test_a_row_that_stands_in_two_batches_fails_unless_it_may_repeat() -> None:
    check = TableCheck(CONVERSATIONS)
    check.add(conversations())
    check.add(conversations())
    assert check.result(np.array([False, False, True, True])).passed
    assert not check.result().passed


@pytest.mark.parametrize("sidecar", [{"allow": ["duplicate"]}, {"split": "test"}])
def test_equal_rows_that_a_user_keeps_are_no_defect(tmp_path: Path, sidecar: dict[str, Any]) -> None:
    files = {"a.jsonl": GOOD["alpaca"], "b.jsonl": GOOD["alpaca"]}
    report = build(tmp_path, "alpaca", files, sidecars={"b.jsonl": sidecar})
    assert report.accepted == 4 and report.checks["matches_schema"].passed


@pytest.mark.parametrize("samples", [1, 2])
def test_answers_to_equal_prompts_that_a_user_keeps_are_no_defect(tmp_path: Path, samples: int) -> None:
    rows = [{"instruction": text} for text in ("Is the shop open today?",) * 2 + ("Can I pay by card at the door?",)]
    build(tmp_path, "unlabelled", {"a.jsonl": rows}, sidecars={"a.jsonl": {"allow": ["duplicate"]}})
    prompts = list(read_prompts(tmp_path / "out"))
    answers = (answer_row(prompt, number, answer="Yes.", **TOLD) for prompt in prompts for number in range(samples))
    (tmp_path / "answers").mkdir()
    assert len(prompts) == 3 and write_answers(answers, tmp_path / "answers")["matches_schema"]["passed"]
    twice = [answer_row(prompts[0], 0, answer="Yes.", **TOLD)] * 2
    found = write_answers(iter(twice), tmp_path / "answers")["matches_schema"]
    assert not found["passed"] and "stands there twice" in found["message"]


TOLD: Any = {"finish_reason": "stop", "prompt_tokens": 3, "answer_tokens": 2}


def test_a_defect_of_ours_fails_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_pipeline.tables.build._with_file", lambda table, name: table.append_column("file", NO_FILE))
    report = build(tmp_path, "text", {"a.jsonl": GOOD["text"]})
    assert not report.passed and "text: 2 value(s)" in report.checks["matches_schema"].message


NO_FILE = pa.nulls(2, pa.string())


@pytest.mark.parametrize(
    "declared", [*map(table_of_format, FORMATS.values()), CONVERSATIONS, QUARANTINE, TEACHER_ANSWERS, DISTILLED_TABLE]
)
def test_the_page_shows_what_the_schema_demands(declared: FinishedTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "dagster_settings", lambda: DagsterSettings(columns=True))
    (shown,) = metadata.metadata_of_page({"dagster/column_schema": Columns(declared)}).values()
    assert [column.name for column in shown.columns] == declared.arrow_schema.names
    assert all(column.description for column in shown.columns)
    of_name = {column.name: column.constraints for column in shown.columns}
    assert of_name["row"].other == ["at least 1"] and not of_name["row"].nullable
    if declared in (CONVERSATIONS, DISTILLED_TABLE):
        assert of_name["id"].unique and of_name["split"].other == ["one of train, validation, test"]
        assert of_name["tools"].nullable and of_name["messages"].other == ["each turn has a role and a content"]


def test_the_arrow_schema_is_that_of_the_declared_columns(tmp_path: Path) -> None:
    build_table("chat", [], tmp_path, max_quarantined=0.1)
    assert pq.read_schema(tmp_path / "rows.parquet") == table_of_format(FORMATS["chat"]).arrow_schema

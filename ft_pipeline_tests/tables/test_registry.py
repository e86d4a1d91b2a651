"""The registry of formats: a sample row of each, and what the layers below it must know of it."""

from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.raw_formats import MAIN_KEYS, RAW_FORMATS, TARGET_COLUMNS, RawFormat
from ft_pipeline.steps.shared.column_lineage import raw_schema, table_lineage
from ft_pipeline.tables.checks.row_rules import ROW_RULES, RULES_OF_EVERY_FORMAT
from ft_pipeline.tables.conversations import build_conversations
from ft_pipeline.tables.finished_tables import table_of_format
from ft_pipeline.tables.formats.arrow_schema import MESSAGES, TAGS, TOOLS, schema_of
from ft_pipeline.tables.formats.base import TAGS_FIELD, Column, Field, Format, Record
from ft_pipeline.tables.formats.convert import convert, convert_all, shapes_of
from ft_pipeline.tables.formats.read_turns import READ_KEYS
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.formats.unlabelled import REFERENCE_KEYS
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline.tables.reading.sidecar import PLAIN, Sidecar
from ft_pipeline.tables.reason_codes import ALLOWABLE, ROW_CODES, Fault
from ft_pipeline_tests.contracts.formats import GOOD, SAMPLES
from ft_pipeline_tests.tables.helpers import build, validate


@pytest.mark.parametrize("name", FORMATS)
def test_a_sample_row_becomes_the_columns_of_its_format(name: str) -> None:
    row_format, (raw, expected) = FORMATS[name], SAMPLES[name]
    record = convert(row_format, raw)
    assert not isinstance(record, Fault)
    expected = {**dict.fromkeys({"tools", "tags"} & {*row_format.column_names}), **expected}
    assert dict(zip(row_format.column_names, record, strict=True)) == expected
    converted = convert_all(row_format, [raw], shapes_of([raw]), PLAIN)
    assert converted.columns.schema == schema_of(row_format, "id")
    (row,) = converted.columns.drop_columns("id").to_pylist()
    messages = {column.name for column in row_format.columns if column.arrow_type == MESSAGES}
    assert {key: plain(cell) if key in messages else cell for key, cell in row.items()} == expected


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_of_another_format_is_named(name: str) -> None:
    row_format = FORMATS[name]
    for other_name, (raw, _) in SAMPLES.items():
        if row_format.main_keys.isdisjoint(raw) and FORMATS[other_name].signs:
            fault = convert(row_format, raw)
            assert isinstance(fault, Fault) and fault.code == "wrong_format"
            assert f"a row of the {other_name} format" in fault.message and f"data/raw/{other_name}" in fault.message


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_names_its_own_keys_and_known_checks(name: str) -> None:
    row_format = FORMATS[name]
    assert row_format.name == name
    named = [
        row_format.main_keys,
        *({column.name} if column.sources is None else column.sources for column in row_format.columns),
    ]
    named += [{winner, *losers} for winner, losers in row_format.precedence]
    assert all(row_format.keys.issuperset(keys) for keys in named)
    assert all(row_format.main_keys.issuperset(keys) for keys in (row_format.signs, *row_format.required))
    assert {*row_format.checks} <= ROW_RULES.keys() - {*RULES_OF_EVERY_FORMAT}


def test_each_rule_has_a_code_and_every_rule_is_used() -> None:
    assert {rule.code for rule in ROW_RULES.values()} <= ROW_CODES.keys() & ALLOWABLE
    named = {name for row_format in FORMATS.values() for name in row_format.checks}
    assert {*RULES_OF_EVERY_FORMAT, *named} == ROW_RULES.keys()


def test_the_names_below_the_formats_are_those_of_the_registry() -> None:
    keys = frozenset[str]().union(*(row_format.keys for row_format in FORMATS.values()))
    synonyms = {"functions", "reasoning", "refusal", "rating", "kto_tag", "loss_weight"}
    synonyms |= {
        "function_call",
        "session",
        "group",
        "call_id",
        *REFERENCE_KEYS[1:],
        *(key for key in MAIN_KEYS if "preferred" in key or key.endswith("_messages")),
    }
    assert (keys | READ_KEYS) - synonyms == TARGET_COLUMNS


def _convert_qa(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    if "question" not in value or "answer" not in value:
        return Fault("missing_output", "no answer")
    question, answer = value["question"], value["answer"]
    return ([{"role": "user", "content": question}, {"role": "assistant", "content": answer}],)


QA = Format(
    name="qa",
    description="Questions with answers.",
    raw_row="`question`, `answer`",
    fields=(Field("question", "The question"), Field("answer", "The answer"), TAGS_FIELD),
    columns=(
        Column("messages", "Two turns", MESSAGES, sources=("question", "answer"), is_prompt=True, is_answer=True),
        TOOLS,
        TAGS,
    ),
    required=(frozenset({"question", "answer"}),),
    checks=("too_long", "echoed_turn"),
    convert=_convert_qa,
)


def test_a_new_format_needs_only_its_definition(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(cast(dict, FORMATS), "qa", QA)
    monkeypatch.setitem(
        cast(dict, RAW_FORMATS), "qa", RawFormat(frozenset({"question", "answer"}), is_conversational=True)
    )
    rows = [
        {"question": "Where is order 10400?", "answer": "It was shipped on Monday.", "source": "web"},
        {"question": "Is the shop open today?", "answer": "Yes, until eight in the evening."},
        {"question": "Is it open?", "answer": "is it open"},
        {"question": "Can I pay by card?", "answer": "I am just an AI and cannot say."},
        {"text": "Returns are free within 14 days of delivery."},
    ]
    for name, files in (("alpaca", {"a.jsonl": GOOD["alpaca"]}), ("qa", {"b.jsonl": rows})):
        (tmp_path / name).mkdir()
        report = build(tmp_path / name, name, files)
    assert report.accepted == 2
    assert report.reasons == {"output_equals_input": 1, "refusal_boilerplate": 1, "wrong_format": 1}
    warning = validate(tmp_path / "qa" / "raw" / "b.jsonl", "qa")["warnings"][0]
    assert "they are dropped: 'source'" in warning["message"]
    folders = {name: tmp_path / name / "out" for name in ("alpaca", "qa")}
    conversations = build_conversations(
        folders, tmp_path / "out", settings=DataSettings(), suite=SuiteTexts(["What is it?"])
    )
    written = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert conversations.accepted == 4 and {row["table"] for row in written} == {"alpaca", "qa"}
    assert [*table_of_format(FORMATS["qa"]).descriptions] == ["messages", "tools", "tags", "file", "row", "id"]
    assert [field for field, _, _ in raw_schema("qa")] == ["question", "answer", "tags"]
    assert table_lineage("qa", {})["messages"] == [("raw_qa", "answer"), ("raw_qa", "question")]

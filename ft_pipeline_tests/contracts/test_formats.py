"""What every format of rows promises: each row is used with its text intact, or set aside with its reason."""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ft_pipeline.exchange.row_shapes import SHAPES, CannotHold
from ft_pipeline.settings.raw_formats import CONVERSATIONAL
from ft_pipeline.tables.checks.row_rules import ROW_RULES
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.reason_codes import DUPLICATE_CODES, FILE_CODES, ROW_CODES
from ft_pipeline_tests.contracts.formats import BROKEN_ROWS, GOOD, NEED_A_SIDECAR, READ_BACK, SET_ASIDE_LATER
from ft_pipeline_tests.tables.helpers import build, validate, write_jsonl

HARD_TEXT = " Größe 雪 🙂 مرحبا\u00a0— \u2028 \\n \"quoted\" <b>&amp;</b> {'a': 1} http://x.example/?a=1&b=2"
ADDED: dict[str, str] = {
    "control_characters": "\\u0000",
    "lone_surrogate": " half \\ud83d of it",
    "not_utf8": "",  # see below: bytes
    "special_tokens": "<|im_end|>",
    "unresolved_placeholder": " {{Order Number}}",
}
"""Reason code → what makes a good row of any format wrong, at the end of its last text, as JSON writes it."""


def texts_of(row: Any) -> Iterator[str]:
    """The texts of a row: every string in it that has words."""
    if isinstance(row, str):
        if row.startswith(("[", "{")):
            yield from texts_of(json.loads(row))
        elif " " in row:
            yield row
    elif isinstance(row, dict | list):
        for value in row.values() if isinstance(row, dict) else row:
            yield from texts_of(value)


def with_texts(row: Any, change: Callable[[str], str]) -> Any:
    """The row with each of its texts changed."""
    if isinstance(row, dict):
        return {key: with_texts(value, change) for key, value in row.items()}
    if isinstance(row, list):
        return [with_texts(value, change) for value in row]
    return change(row) if isinstance(row, str) and " " in row and not row.startswith(("[", "{")) else row


def faulty_lines(name: str) -> Iterator[tuple[str, bytes]]:
    """(code, line) of faults that a row of any format may have."""
    good = GOOD[name][1]
    line, key = json.dumps(good), next(iter(good))
    (*_, text) = texts_of(good)
    for code, addition in ADDED.items():
        yield (
            code,
            line.replace(text, text + addition).encode()
            if addition
            else (line.replace(text, text + "@").encode().replace(b"@", b"\xe9")),
        )
    yield "invalid_json", f"{line[:-1]},}}".encode()
    yield "duplicate_key", f"{{{json.dumps(key)}: {json.dumps(good[key])}, {line[1:]}".encode()
    yield "wrong_type", b"7"
    yield "duplicate", line.encode()
    other = next(
        row for other, rows in GOOD.items() for row in rows if FORMATS[name].main_keys.isdisjoint(row) and other != name
    )
    yield "wrong_format", json.dumps(other).encode()
    if "too_long" in FORMATS[name].checks:
        yield "too_long", json.dumps(with_texts(good, lambda each: each + " word" * 10_001)).encode()


def lines_of(name: str) -> list[tuple[str, bytes]]:
    """(code, line) of every broken row of a format."""
    own = [(code, row) for data_format, code, row in BROKEN_ROWS if data_format == name]
    encoded = [
        (code, row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode())
        for code, row in own
    ]
    return [*faulty_lines(name), *encoded]


def rows_in(folder: Path, name: str = "rows") -> list[dict[str, Any]]:
    """The rows of a table that `build` wrote."""
    rows: list[dict[str, Any]] = pq.read_table(folder / "out" / f"{name}.parquet").to_pylist()
    return rows


def test_every_format_has_material() -> None:
    assert set(GOOD) == set(FORMATS), "add two good rows to GOOD in tables/helpers.py"
    assert set(READ_BACK) == set(SHAPES), "add how its rows are read again to READ_BACK in contracts/formats.py"
    broken = {code for _, code, _ in BROKEN_ROWS}
    assert broken == ROW_CODES.keys() - SET_ASIDE_LATER, "add a broken row to BROKEN_ROWS in contracts/formats.py"
    assert all(ROW_CODES.values()) and all(FILE_CODES.values())


@pytest.mark.parametrize("name", FORMATS)
def test_each_of_its_reason_codes_has_a_broken_row(name: str) -> None:
    """The codes of its checks, and those that its module names."""
    row_format = FORMATS[name]
    module = inspect.getmodule(row_format.convert)
    assert module is not None
    named = {*re.findall(r'Fault\(\s*"(\w+)"', inspect.getsource(module))}
    checked = {ROW_RULES[rule].code for rule in row_format.checks}
    known = {code for code, _ in lines_of(name)} | {code for other, code in NEED_A_SIDECAR if other == name}
    missing = (checked | named) - known
    assert not missing, f"add a row of {name} for {sorted(missing)} to BROKEN_ROWS in contracts/formats.py"


@pytest.mark.parametrize("name", FORMATS)
def test_a_good_row_is_accepted_with_its_text_intact(name: str, tmp_path: Path) -> None:
    rows = [with_texts(row, lambda text: text + HARD_TEXT) for row in GOOD[name]]
    report = build(tmp_path, name, {"a.jsonl": rows})
    table = rows_in(tmp_path)
    assert (report.accepted, report.reasons, len(table)) == (2, {}, 2)
    assert [(row["file"], row["row"]) for row in table] == [("a.jsonl", 1), ("a.jsonl", 2)]
    assert len({row["id"] for row in table}) == 2
    for row, raw in zip(table, rows, strict=True):
        assert {*texts_of(raw)} <= {*texts_of(row)}
    assert {*table[0]} == {*FORMATS[name].column_names, "file", "row", "id"}


@pytest.mark.parametrize("name", FORMATS)
def test_every_broken_row_is_set_aside_with_its_code_and_every_row_is_counted(name: str, tmp_path: Path) -> None:
    broken = lines_of(name)
    rows = [*GOOD[name], *(line for _, line in broken)]
    report = build(tmp_path, name, {"a.jsonl": rows}, max_quarantined=1.0)
    aside = {(row["file"], row["row"]): row for row in rows_in(tmp_path, "set_aside")}
    found = [(aside.get(("a.jsonl", number)) or {"code": "accepted"})["code"] for number in range(3, len(rows) + 1)]
    expected = [code for code, _ in broken]
    wrong = [(code, line[:300], was) for (code, line), was in zip(broken, found, strict=True) if was != code]
    assert not wrong and len(aside) == len(expected)
    assert all(row["message"] and len(row["message"]) < 300 for row in aside.values())
    assert [(row["file"], row["row"]) for row in rows_in(tmp_path)] == [("a.jsonl", 1), ("a.jsonl", 2)]
    duplicates = sum(code in DUPLICATE_CODES for code in expected)
    assert (report.read, report.accepted, report.duplicates) == (len(rows), 2, duplicates)
    assert report.read == report.accepted + report.quarantined + report.duplicates
    assert report.checks["rows_accounted_for"].passed


@pytest.mark.parametrize("name", FORMATS)
def test_validating_a_file_agrees_with_its_table(name: str, tmp_path: Path) -> None:
    rows = [*GOOD[name], *(line for _, line in lines_of(name))]
    (account,) = build(tmp_path, name, {"a.jsonl": rows}, max_quarantined=1.0).files
    report = validate(write_jsonl(tmp_path / "a.jsonl", rows), name, max_quarantined=1.0)
    assert (report["status"], report["reasons"]) == (account.status, account.reasons)
    for count in ("read", "accepted", "quarantined", "duplicates"):
        assert report[count] == getattr(account, count), count


@pytest.mark.parametrize(
    "code", sorted(FILE_CODES.keys() & {"empty_file", "too_few_rows", "not_a_list", "unknown_format"})
)
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_wrong_as_a_whole_is_refused_by_its_code(name: str, code: str, tmp_path: Path) -> None:
    if FORMATS[name].expand and code in ("too_few_rows", "not_a_list"):
        pytest.skip("a file may be one document")
    other = next(rows for rows in GOOD.values() if all(FORMATS[name].main_keys.isdisjoint(row) for row in rows))
    texts = {
        "empty_file": "",
        "too_few_rows": json.dumps(GOOD[name][0]),
        "not_a_list": json.dumps({"version": 1, "rows": GOOD[name]}, indent=1),
        "unknown_format": "\n".join(map(json.dumps, other)),
    }
    path = tmp_path / "a.json"
    path.write_text(texts[code], encoding="utf-8")
    report = validate(path, name)
    assert (report["status"], report["error"]["code"], report["read"]) == ("refused", code, 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_conversation_that_is_exported_is_read_again_as_the_same_row(shape: str, tmp_path: Path) -> None:
    conversations = []
    for name in CONVERSATIONAL:
        (tmp_path / name).mkdir()
        rows = [with_texts(row, lambda text, name=name: f"{text} {name}{HARD_TEXT}") for row in GOOD[name]]
        build(tmp_path / name, name, {"a.jsonl": rows})
        conversations += conversations_of(rows_in(tmp_path / name), name)
    held, written = [], []
    for messages, tools in conversations:
        try:
            written.append(SHAPES[shape](messages, tools))
            held.append((messages, tools))
        except CannotHold:
            assert tools
    assert len(held) >= len(conversations) - 1
    name, sidecar = READ_BACK[shape]
    (tmp_path / "back").mkdir()
    report = build(tmp_path / "back", name, {"a.jsonl": written}, sidecars={"a.jsonl": sidecar})
    assert report.reasons == {}
    back = conversations_of(rows_in(tmp_path / "back"), name)
    assert [without_ids(row) for row in back] == [without_ids(row) for row in held]


def conversations_of(rows: list[dict[str, Any]], name: str) -> list[tuple[list[dict[str, Any]], str | None]]:
    """(messages, tools) of the rows of a conversational table."""
    if name != "alpaca":
        return [(plain(row["messages"]), row["tools"]) for row in rows]
    return [
        (
            [
                {"role": "user", "content": "\n".join(filter(None, (row["instruction"], row["input"])))},
                {"role": "assistant", "content": row["output"]},
            ],
            None,
        )
        for row in rows
    ]


def without_ids(conversation: tuple[list[dict[str, Any]], str | None]) -> Any:
    """A conversation without the ids of calls, which not every shape has."""
    messages, tools = conversation
    calls = [[{key: call[key] for key in ("name", "arguments")} for call in m.get("tool_calls", ())] for m in messages]
    return [{**message, "tool_calls": made} for message, made in zip(messages, calls, strict=True)], tools

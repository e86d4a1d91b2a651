"""The pandera schemas of the tables: their columns, and the checks whose failures become quarantine rows.

Each check is named after its reason code. It receives a whole column of a batch and tests it with Arrow kernels.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa_schema
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.formats.arrow_schema import MESSAGES, ORIGIN, TAGS, TOOLS, type_name
from ft_pipeline.tables.formats.base import Column, Format
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.turns import echoes, spoken_text, texts_of_turn
from ft_pipeline.tables.reading.describe import shorten
from ft_pipeline.tables.reason_codes import Fault, code_priority
from ft_pipeline.tables.text_rules import (
    CONTROL_PATTERN,
    PLACEHOLDER_PATTERN,
    REFUSAL_PATTERN,
    SPECIAL_TOKEN_PATTERN,
    normalise,
)

MAX_ROW_CHARS = 50_000
"""Maximum number of characters of all texts of a row together."""
MIN_TEXT_CHARS = 10
"""Minimum number of characters of a row of the format `text`."""

FAULT_MESSAGES: dict[str, str] = {
    "control_characters": "`{column}` holds the control character {what}; remove it",
    "special_tokens": "`{column}` holds {what}, a control token of a chat template, which would forge turns; remove it",
    "unresolved_placeholder": "`{column}` holds {what}, a hole of a template; fill it in",
    "refusal_boilerplate": "`{column}` is a stock refusal: {what}; write a real answer, or remove the row",
    "output_equals_input": "the answer repeats the prompt or the input: {what}; write a real answer, or remove the row",
    "chosen_equals_rejected": "`chosen` and `rejected` are equal but for case and white space: {what}; remove the pair",
    "too_long": f"the row has {{what}} characters, more than {MAX_ROW_CHARS:,}; split it",
    "too_short": f"`text` is {{what}}: fewer than {MIN_TEXT_CHARS} characters; join it with others, or remove it",
}
"""By reason code. Each message gives the value and the fix."""
TEXT = pd.StringDtype(na_value=np.nan)
"""The pandas type of text columns."""

_TEXT_CHECKS = {
    "control_characters": CONTROL_PATTERN,
    "special_tokens": SPECIAL_TOKEN_PATTERN,
    "unresolved_placeholder": PLACEHOLDER_PATTERN,
}
"""By reason code, a pattern that no text may match."""


@lru_cache(maxsize=64)
def schema(row_format: Format, allow: frozenset[str] = frozenset()) -> pa_schema.DataFrameSchema:
    """Return the schema of a format's columns, without the checks of the codes in `allow`."""
    columns = {
        column.name: pa_schema.Column(
            TEXT if column.is_text else object,
            checks=_column_checks(row_format, column, allow),
            nullable=column.nullable,
            description=column.description,
        )
        for column in row_format.columns
    }
    return pa_schema.DataFrameSchema(columns, checks=_row_checks(row_format, allow), name=row_format.name, strict=True)


def describe_columns(table: str) -> list[tuple[str, str, str]]:
    """Return (column, type, description) of a format's table, of `conversations` or of `quarantine`, for display."""
    if table in FORMATS:
        columns = (*FORMATS[table].columns, *ORIGIN.values())
        return [(column.name, type_name(column.arrow_type), column.description) for column in columns]
    types = {"messages": type_name(MESSAGES), "tags": type_name(TAGS.arrow_type), "row": "int"}
    descriptions = {"conversations": CONVERSATION_COLUMNS, "quarantine": QUARANTINE_COLUMNS}[table]
    return [(name, types.get(name, "str"), text) for name, text in descriptions.items()]


CONVERSATION_COLUMNS = {
    "id": "SHA-256 of the row's content in its table",
    "split": "train, validation or test",
    "group": "Hash of the template of the human turns: rows with equal prompts are in the same split",
    "messages": "The turns as {role, content, …}; role is system, user, assistant or tool",
    "tools": TOOLS.description,
    "tags": TAGS.description,
    "table": "The table that the row comes from",
    "file": ORIGIN["file"].description,
    "row": ORIGIN["row"].description,
}


QUARANTINE_COLUMNS = {
    "table": "The table that the row was meant for",
    "file": ORIGIN["file"].description,
    "row": ORIGIN["row"].description,
    "code": "Why the row is not used; docs/formats.md lists the codes",
    "message": "What is wrong with this row, and how to fix it",
    "raw": "The row as written in the file, truncated to 2,000 characters",
    "copy_of": "The row that it duplicates, contradicts or nearly equals, as file:row",
    "data_version": "Fingerprint of the artifact that set the row aside",
}
ACCOUNT_COLUMNS = {
    "table": "The table, and the folder under data/raw",
    "file": ORIGIN["file"].description,
    "status": "accepted or refused; no row of a refused file is used",
    "read": "Rows read; read = accepted + quarantined + duplicates",
    "accepted": "Rows in the table",
    "quarantined": "Rows set aside for a fault",
    "duplicates": "Rows set aside as duplicates; the first one is kept",
    "later": "Accepted rows that `conversations` sets aside: duplicates across tables, overlap with held-out rows",
    "reasons": "Rows by code, most frequent first",
    "refused": "Why the whole file is refused, and what to do",
    "code": QUARANTINE_COLUMNS["code"],
    "count": "Number of rows",
    "rows": "Row numbers in the file, counted from 1",
    "meaning": "What the code means",
}


def find_faults(row_format: Format, frame: pd.DataFrame, allow: frozenset[str]) -> dict[int, Fault]:
    """Validate a batch. Return each faulty row (by position in the frame) with its code of highest priority."""
    try:
        schema(row_format, allow).validate(frame, lazy=True)
    except pa_schema.errors.SchemaErrors as error:
        return _faults(row_format, error.failure_cases, frame)
    return {}


def _faults(row_format: Format, cases: pd.DataFrame, frame: pd.DataFrame) -> dict[int, Fault]:
    codes: dict[int, tuple[str, str]] = {}
    for position, code, column in zip(cases["index"], cases["check"], cases["column"], strict=True):
        if code not in FAULT_MESSAGES or position is None:
            raise RuntimeError(f"a converted row does not match the schema: {column}: {code}")
        row = int(position)
        if row not in codes or code_priority(code) < code_priority(codes[row][0]):
            codes[row] = (code, column)
    answer = next((column.name for column in row_format.columns if column.is_answer), frame.columns[0])
    return {row: Fault(code, _explain(code, column, frame.iloc[row], answer)) for row, (code, column) in codes.items()}


def _explain(code: str, column: str, row: pd.Series, answer: str) -> str:
    """Return the message, with the column and the faulty value. `answer` is the column whose text is shown if the check
    is of the whole row."""
    if code == "too_long":
        what = f"{sum(len(text) for cell in row for text in _texts(cell)):,}"
    elif code in _TEXT_CHECKS or code == "refusal_boilerplate":
        pattern = _TEXT_CHECKS.get(code, REFUSAL_PATTERN)
        match = next(filter(None, (re.search(pattern, text) for text in _texts(row[column]))), None)
        what = "" if not match else f"U+{ord(match[0]):04X}" if code == "control_characters" else shorten(match[0])
    else:
        what = shorten(_texts(row[answer])[-1].strip())
    return FAULT_MESSAGES[code].format(column=column, what=what)


def _texts(cell: object) -> list[str]:
    """Return all strings of a cell."""
    if isinstance(cell, str):
        return [cell]
    return flatten(pd.Series([cell], dtype=object))[0].to_pylist() if isinstance(cell, list) else []


def _column_checks(row_format: Format, column: Column, allow: frozenset[str]) -> list[pa_schema.Check]:
    checks: dict[str, Callable[[pd.Series], pd.Series]] = {
        code: partial(_without, pattern=pattern) for code, pattern in _TEXT_CHECKS.items()
    }
    if column.is_answer:
        checks["refusal_boilerplate"] = partial(_without, pattern=REFUSAL_PATTERN, role="assistant")
    if column.is_text:
        checks |= {name: COLUMN_CHECKS[name] for name in row_format.checks if name in COLUMN_CHECKS}
    return [_check(code, check) for code, check in checks.items() if code not in allow]


def _row_checks(row_format: Format, allow: frozenset[str]) -> list[pa_schema.Check]:
    checks = [ROW_CHECKS[name] for name in row_format.checks if name in ROW_CHECKS]
    return [_check(code, check) for code, check in checks if code not in allow]


def _check(code: str, passes: Callable) -> pa_schema.Check:
    return pa_schema.Check(passes, name=code, error=code, ignore_na=False)


def flatten(column: pd.Series, role: str | None = None) -> tuple[pa.Array, np.ndarray]:
    """Return all strings of a column (of text, messages, history or tags) and, for each, the position of its row.

    role: only the turns of this role.
    """
    if column.dtype != object:
        return pa.array(column, pa.large_string()).fill_null(""), np.arange(len(column))
    texts: list[str] = []
    owners: list[int] = []
    for position, item in enumerate(column):
        for turn in item if isinstance(item, list) else ():
            turn_texts = _texts_of_item(turn) if role is None or turn["role"] == role else []
            texts += turn_texts
            owners += [position] * len(turn_texts)
    return pa.array(texts, pa.large_string()), np.array(owners, dtype=np.int64)


def _texts_of_item(item: Any) -> list[str]:
    """Return the texts of a turn, of a pair of the history, or of a tag."""
    if isinstance(item, str):
        return [item]
    return item if isinstance(item, list) else texts_of_turn(item)


def _without(column: pd.Series, pattern: str, role: str | None = None) -> pd.Series:
    """Return True for rows in which no string matches."""
    texts, owners = flatten(column, role)
    passed = np.ones(len(column), dtype=bool)
    passed[owners[pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)]] = False
    return pd.Series(passed, index=column.index)


def _long_enough(column: pd.Series) -> pd.Series:
    texts, _ = flatten(column)
    lengths = pc.utf8_length(pc.utf8_trim_whitespace(texts))
    return pd.Series(lengths.to_numpy(zero_copy_only=False) >= MIN_TEXT_CHARS, index=column.index)


def _short_enough(frame: pd.DataFrame) -> pd.Series:
    lengths = np.zeros(len(frame), dtype=np.int64)
    for name in frame.columns:
        texts, owners = flatten(frame[name])
        np.add.at(lengths, owners, pc.utf8_length(texts).to_numpy(zero_copy_only=False))
    return pd.Series(lengths <= MAX_ROW_CHARS, index=frame.index)


def _instruction_not_repeated(frame: pd.DataFrame) -> pd.Series:
    """Return False for rows whose output repeats the instruction, or the unchanged input.

    The input counts only if it is unchanged, because correcting its case or white space can be the whole task.
    """
    instruction, extra, output = (
        pa.array(frame[name], pa.large_string()) for name in ("instruction", "input", "output")
    )
    trimmed = pc.utf8_trim_whitespace(output)
    same = pc.and_(pc.equal(pc.utf8_trim_whitespace(extra), trimmed), pc.not_equal(trimmed, ""))
    passed = ~same.to_numpy(zero_copy_only=False)
    for position in np.flatnonzero(may_be_equal(instruction, output)).tolist():
        passed[position] &= normalise(instruction[position].as_py()) != normalise(output[position].as_py())
    return pd.Series(passed, index=frame.index)


def may_be_equal(first: pa.Array, second: pa.Array) -> np.ndarray:
    """Return a bool per pair of texts: whether the two may be equal after normalization.

    Their lengths, and the first letters of ASCII texts, exclude nearly all pairs that differ.
    """
    lengths = [pc.utf8_length(side).to_numpy(zero_copy_only=False) for side in (first, second)]
    close = (lengths[0] < 2 * lengths[1] + 8) & (lengths[1] < 2 * lengths[0] + 8)
    starts = [pc.utf8_lower(pc.utf8_slice_codeunits(pc.utf8_ltrim_whitespace(side), 0, 1)) for side in (first, second)]
    plain = [pc.string_is_ascii(side).to_numpy(zero_copy_only=False) for side in (first, second)]
    return close & (pc.equal(*starts).to_numpy(zero_copy_only=False) | ~plain[0] | ~plain[1])


def _turns_not_repeated(frame: pd.DataFrame) -> pd.Series:
    """Return False for rows in which a model turn repeats the human turn before it."""
    return ~frame["messages"].map(echoes).astype(bool)


def _differ(first: list[str], second: list[str]) -> list[bool]:
    """Return, for each pair of texts, whether they differ after normalization."""
    maybe = may_be_equal(pa.array(first, pa.large_string()), pa.array(second, pa.large_string()))
    return [
        not (close and normalise(left) == normalise(right))
        for close, left, right in zip(maybe, first, second, strict=True)
    ]


def _prompt_not_repeated(frame: pd.DataFrame) -> pd.Series:
    """Return False for rows whose chosen answer repeats the question."""
    return pd.Series(
        _differ(_last_texts(frame["prompt_messages"]), _last_texts(frame["chosen"])), index=frame.index, dtype=bool
    )


def _answers_differ(frame: pd.DataFrame) -> pd.Series:
    """Return False for rows whose two answers are equal."""
    return pd.Series(
        _differ(_last_texts(frame["chosen"]), _last_texts(frame["rejected"])), index=frame.index, dtype=bool
    )


def _last_texts(column: pd.Series) -> list[str]:
    return [spoken_text(messages[-1]) for messages in column]


COLUMN_CHECKS: Mapping[str, Callable[[pd.Series], pd.Series]] = {"too_short": _long_enough}
"""Checks of each column, by reason code."""
ROW_CHECKS: Mapping[str, tuple[str, Callable[[pd.DataFrame], pd.Series]]] = {
    "too_long": ("too_long", _short_enough),
    "echoed_instruction": ("output_equals_input", _instruction_not_repeated),
    "echoed_turn": ("output_equals_input", _turns_not_repeated),
    "echoed_prompt": ("output_equals_input", _prompt_not_repeated),
    "equal_answers": ("chosen_equals_rejected", _answers_differ),
}
"""Checks of whole rows: name → reason code and check. `Format.checks` selects from both by name."""

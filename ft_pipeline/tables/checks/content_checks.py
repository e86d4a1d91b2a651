"""The pandera schemas of the tables: their columns, and the checks whose failures become quarantine rows.

Each check is named after its reason code. It receives a whole column of a batch and tests it with Arrow kernels.
"""

import re
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import pandera.pandas as pa_schema
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.formats.turns import echoes
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
MIN_TEXT_CHARS = 10

MESSAGES: dict[str, str] = {
    "control_characters": "`{column}` holds the control character {what}; remove it",
    "special_tokens": "`{column}` holds {what}, a control token of a chat template, which would forge turns; remove it",
    "unresolved_placeholder": "`{column}` holds {what}, a hole of a template; fill it in",
    "refusal_boilerplate": "`{column}` is a stock refusal: {what}; write a real answer, or remove the row",
    "output_equals_input": "the answer repeats the prompt or the input: {what}; write a real answer, or remove the row",
    "chosen_equals_rejected": "`chosen` and `rejected` are equal but for case and white space: {what}; remove the pair",
    "too_long": f"the row has {{what}} characters, more than {MAX_ROW_CHARS:,}; split it",
    "too_short": f"`text` is {{what}}: fewer than {MIN_TEXT_CHARS} characters; join it with others, or remove it",
}
"""Each message gives the value and the fix. A sidecar may allow the code instead."""

DESCRIPTIONS: dict[str, dict[str, str]] = {
    "alpaca": {
        "instruction": "What the person asks; never empty",
        "input": "The text that the instruction applies to; empty if there is none",
        "output": "The answer to learn; never empty",
        "system": "The system prompt of this row, or null",
        "history": "Earlier turns as [question, answer] pairs, or null",
    },
    "sharegpt": {
        "messages": "The turns as {role, content, …}: [system], then alternating user and assistant, assistant last"
    },
    "text": {"text": "A passage for continued pretraining"},
    "preferences": {
        "prompt_messages": "The turns before the answer; the last one is the user's",
        "chosen": "The preferred answer: one assistant turn",
        "rejected": "The other answer: one assistant turn",
    },
    "unlabelled": {"messages": "The turns as {role, content, …}: a prompt for the teacher, ending with the user"},
}
ORIGIN = {
    "file": "The raw file, relative to its format folder",
    "row": "Line, list index or data row in that file, counted from 1",
    "id": "SHA-256 of the row's content",
}
_TEXT_CHECKS = {
    "control_characters": CONTROL_PATTERN,
    "special_tokens": SPECIAL_TOKEN_PATTERN,
    "unresolved_placeholder": PLACEHOLDER_PATTERN,
}
ANSWERS = {"alpaca": ("output",), "sharegpt": ("messages",), "preferences": ("chosen",)}
_OPTIONAL = frozenset({"system", "history"})


@lru_cache(maxsize=64)
def schema(data_format: str, allow: frozenset[str] = frozenset()) -> pa_schema.DataFrameSchema:
    """Return the schema of a format's own columns, without the checks of the codes in `allow`."""
    columns = {
        name: pa_schema.Column(
            pd.StringDtype(na_value=np.nan) if _is_text(data_format, name) else object,
            checks=_column_checks(data_format, name, allow),
            nullable=name in _OPTIONAL,
            description=description,
        )
        for name, description in DESCRIPTIONS[data_format].items()
    }
    return pa_schema.DataFrameSchema(columns, checks=_row_checks(data_format, allow), name=data_format, strict=True)


def describe_columns(data_format: str) -> list[tuple[str, str, str]]:
    """Return (column, type, description) of a table for display; also of `conversations` and `quarantine`."""
    types = {"history": "list<list<str>>", "row": "int"}
    others = {"conversations": CONVERSATION_COLUMNS, "quarantine": QUARANTINE_COLUMNS}
    own = others.get(data_format) or {**DESCRIPTIONS[data_format], **ORIGIN}
    lists = {"messages", "prompt_messages", "chosen", "rejected"}
    return [
        (name, "list<{role, content, reasoning_content}>" if name in lists else types.get(name, "str"), text)
        for name, text in own.items()
    ]


CONVERSATION_COLUMNS = {
    "id": "SHA-256 of the row's content in its table",
    "split": "train, validation or test",
    "group": "Hash of the normalized human turns: rows with equal prompts are in the same split",
    "messages": "The turns as {role, content, reasoning_content}; role is system, user, assistant or tool",
    "table": "The table that the row comes from",
    "file": ORIGIN["file"],
    "row": ORIGIN["row"],
}


QUARANTINE_COLUMNS = {
    "table": "The table that the row was meant for",
    "file": ORIGIN["file"],
    "row": ORIGIN["row"],
    "code": "Why the row is not used; docs/formats.md lists the codes",
    "message": "What is wrong with this row, and how to fix it",
    "raw": "The row as written in the file, truncated to 2,000 characters",
    "copy_of": "The row that it duplicates, contradicts or nearly equals, as file:row",
    "data_version": "Fingerprint of the artifact that set the row aside",
}
ACCOUNT_COLUMNS = {
    "table": "The table, and the folder under data/raw",
    "file": ORIGIN["file"],
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


def find_faults(data_format: str, frame: pd.DataFrame, allow: frozenset[str]) -> dict[int, Fault]:
    """Validate a batch. Return each faulty row (by position in the frame) with its code of highest priority."""
    try:
        schema(data_format, allow).validate(frame, lazy=True)
    except pa_schema.errors.SchemaErrors as error:
        return _faults(error.failure_cases, frame)
    return {}


def _faults(cases: pd.DataFrame, frame: pd.DataFrame) -> dict[int, Fault]:
    codes: dict[int, tuple[str, str]] = {}
    for position, code, column in zip(cases["index"], cases["check"], cases["column"], strict=True):
        if code not in MESSAGES or position is None:
            raise RuntimeError(f"a converted row does not match the schema: {column}: {code}")
        row = int(position)
        if row not in codes or code_priority(code) < code_priority(codes[row][0]):
            codes[row] = (code, column)
    return {row: Fault(code, _explain(code, column, frame.iloc[row])) for row, (code, column) in codes.items()}


def _explain(code: str, column: str, row: pd.Series) -> str:
    """Return the message, with the column and the faulty value."""
    if code == "too_long":
        what = f"{sum(len(text) for cell in row for text in _texts(cell)):,}"
    elif code in _TEXT_CHECKS or code == "refusal_boilerplate":
        pattern = _TEXT_CHECKS.get(code, REFUSAL_PATTERN)
        match = next(filter(None, (re.search(pattern, text) for text in _texts(row[column]))), None)
        what = "" if not match else f"U+{ord(match[0]):04X}" if code == "control_characters" else shorten(match[0])
    else:
        column = {"too_short": "text", "chosen_equals_rejected": "chosen"}.get(code, row.index[-1])
        answer = row["output"] if "output" in row else row["chosen"] if "chosen" in row else row[column]
        what = shorten(_texts(answer)[-1].strip())
    return f"{MESSAGES[code].format(column=column, what=what)}; or allow it: `allow: [{code}]` in a sidecar"


def _texts(cell: object) -> list[str]:
    """Return all strings of a cell."""
    if isinstance(cell, str):
        return [cell]
    return flatten(pd.Series([cell], dtype=object))[0].to_pylist() if isinstance(cell, list) else []


def _is_text(data_format: str, name: str) -> bool:
    return data_format in {"alpaca", "text"} and name != "history"


def _column_checks(data_format: str, name: str, allow: frozenset[str]) -> list[pa_schema.Check]:
    checks: dict[str, Callable[[pd.Series], pd.Series]] = {
        code: partial(_without, pattern=pattern) for code, pattern in _TEXT_CHECKS.items()
    }
    if name in ANSWERS.get(data_format, ()):
        checks["refusal_boilerplate"] = partial(_without, pattern=REFUSAL_PATTERN, role="assistant")
    if data_format == "text":
        checks["too_short"] = _long_enough
    return [_check(code, check) for code, check in checks.items() if code not in allow]


def _row_checks(data_format: str, allow: frozenset[str]) -> list[pa_schema.Check]:
    checks: dict[str, Callable[[pd.DataFrame], pd.Series]] = {}
    if data_format != "text":
        checks["too_long"] = _short_enough
    if data_format == "alpaca":
        checks["output_equals_input"] = _alpaca_answers
    if data_format == "sharegpt":
        checks["output_equals_input"] = lambda frame: ~frame["messages"].map(echoes).astype(bool)
    if data_format == "preferences":
        checks["output_equals_input"] = _pair_answers
        checks["chosen_equals_rejected"] = _pair_differs
    return [_check(code, check) for code, check in checks.items() if code not in allow]


def _check(code: str, judge: Callable) -> pa_schema.Check:
    return pa_schema.Check(judge, name=code, error=code, ignore_na=False)


def flatten(column: pd.Series, role: str | None = None) -> tuple[pa.Array, np.ndarray]:
    """Return all strings of a column (of text, messages or history) and, for each string, the position of its row."""
    if column.dtype != object:
        return pa.array(column, pa.large_string()).fill_null(""), np.arange(len(column))
    texts: list[str] = []
    owners: list[int] = []
    for position, item in enumerate(column):
        for turn in item or ():
            turn_texts = turn if isinstance(turn, list) else _said(turn) if role in (None, turn["role"]) else []
            texts += turn_texts
            owners += [position] * len(turn_texts)
    return pa.array(texts, pa.large_string()), np.array(owners, dtype=np.int64)


def _said(turn: dict[str, str]) -> list[str]:
    thoughts = turn.get("reasoning_content")
    return [turn["content"], thoughts] if thoughts else [turn["content"]]


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


def _alpaca_answers(frame: pd.DataFrame) -> pd.Series:
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


def _differ(first: list[str], second: list[str]) -> list[bool]:
    """Return, for each pair of texts, whether they differ after normalization."""
    maybe = may_be_equal(pa.array(first, pa.large_string()), pa.array(second, pa.large_string()))
    return [
        not (close and normalise(left) == normalise(right))
        for close, left, right in zip(maybe, first, second, strict=True)
    ]


def _pair_answers(frame: pd.DataFrame) -> pd.Series:
    """Return False for rows whose chosen answer repeats the question."""
    return pd.Series(
        _differ(_last_texts(frame["prompt_messages"]), _last_texts(frame["chosen"])), index=frame.index, dtype=bool
    )


def _pair_differs(frame: pd.DataFrame) -> pd.Series:
    """Return False for rows whose two answers are equal."""
    return pd.Series(
        _differ(_last_texts(frame["chosen"]), _last_texts(frame["rejected"])), index=frame.index, dtype=bool
    )


def _last_texts(column: pd.Series) -> list[str]:
    return [messages[-1]["content"] for messages in column]

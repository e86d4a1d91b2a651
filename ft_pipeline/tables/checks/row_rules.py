"""The rules for what a row says. A row that breaks one is set aside with the rule's code, message and fix.

Each rule is one kernel over the columns of a batch. The finished tables have schemas of their own (table_schemas.py).
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.checks import pii, placeholders
from ft_pipeline.tables.formats.arrow_schema import MESSAGES
from ft_pipeline.tables.formats.base import ArrowColumns, Format
from ft_pipeline.tables.formats.comparison_texts import ComparisonTexts, normalise_all
from ft_pipeline.tables.formats.preferences import spoken_texts
from ft_pipeline.tables.formats.turns import plain, texts_of_turn
from ft_pipeline.tables.reading.describe import shorten
from ft_pipeline.tables.reason_codes import Fault, code_priority
from ft_pipeline.tables.text_bytes import having, table_of
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

Texts = tuple[pa.Array, np.ndarray]
"""Texts as large_string, and for each the position of its row, ascending."""
Found = Iterator[tuple[str, np.ndarray]]
"""Columns, each with the positions of rows that break a rule in it. A position may come several times."""


@dataclass(frozen=True)
class Rows:
    """Converted rows, which the rules look at."""

    row_format: Format
    columns: ArrowColumns
    views: ComparisonTexts
    texts: Mapping[str, Texts]
    """Column → all its texts."""
    suspicious: Mapping[str, Texts]
    """Column → its texts that match a pattern of a rule or a warning: one search over each column finds them all."""

    @classmethod
    def of(cls, row_format: Format, columns: ArrowColumns, views: ComparisonTexts) -> "Rows":
        """Search the columns of the format for all patterns."""
        texts = {name: strings_of(columns[name]) for name in row_format.column_names}
        marked = {name: _select(*texts[name], pa.array(having(texts[name][0], _ANY_BYTES))) for name in texts}
        suspicious = {name: _matches(*marked[name], _ANY_PATTERN) for name in texts}
        return cls(row_format, columns, views, texts, suspicious)

    @property
    def answer(self) -> str:
        """The column with the answer to learn, or the first column."""
        names = (column.name for column in self.row_format.columns if column.is_answer)
        return next(names, self.row_format.column_names[0])

    def cell(self, column: str, position: int) -> list[str]:
        """Return all texts of a cell."""
        return _texts_of_cell(self.columns[column][position].as_py())


def _texts_of_cell(cell: object) -> list[str]:
    if isinstance(cell, str):
        return [cell]
    if isinstance(cell, dict):
        return texts_of_turn(plain([cell])[0])
    return [text for item in cell for text in _texts_of_cell(item)] if isinstance(cell, list) else []


@dataclass(frozen=True)
class RowRule:
    """A rule, and what its user reads."""

    code: str
    message: str
    """What is wrong, with the `column` and `what` is found in it."""
    fix: str
    kernel: Callable[[Rows], Found]
    what: Callable[[Rows, str, int], str]
    """Returns what the message shows of a column and the row at a position."""
    pattern: str = ""
    """The pattern that the kernel searches in every text, if it does."""


def find_faults(rows: Rows, allow: Collection[str]) -> dict[int, Fault]:
    """Return each row that breaks a rule of its format, by position, with its code of highest priority.

    allow: codes of which the rules do not apply.
    """
    faults: dict[int, Fault] = {}
    rules = [ROW_RULES[name] for name in (*RULES_OF_EVERY_FORMAT, *rows.row_format.checks)]
    for rule in sorted(rules, key=lambda rule: code_priority(rule.code)):
        for column, positions in rule.kernel(rows) if rule.code not in allow else ():
            for position in positions.tolist():
                if position not in faults:
                    message = rule.message.format(column=column, what=rule.what(rows, column, position))
                    faults[position] = Fault(rule.code, f"{message}; {rule.fix}")
    return faults


def strings_of(column: pa.Array) -> Texts:
    """Return all strings of a column (of texts, turns, history or tags), except role names."""
    kind = column.type
    if pa.types.is_struct(kind):
        parts = [strings_of(column.field(index)) for index in _text_fields(column)]
        if len(parts) == 1:
            return parts[0]
        texts = pa.concat_arrays([part[0] for part in parts])
        owners = np.concatenate([part[1] for part in parts])
        order = np.argsort(owners, kind="stable")
        return texts.take(pa.array(order)), owners[order]
    if pa.types.is_list(kind):
        texts, owners = strings_of(column.flatten())
        return texts, pc.list_parent_indices(column).to_numpy(zero_copy_only=False)[owners]
    if not pa.types.is_string(kind):
        return pa.array([], pa.large_string()), np.empty(0, dtype=np.int64)
    if column.null_count:
        valid = np.flatnonzero(_flags(pc.is_valid(column)))
        return column.take(pa.array(valid)).cast(pa.large_string()), valid
    return column.cast(pa.large_string()), np.arange(len(column))


def _text_fields(column: pa.StructArray) -> list[int]:
    """Return the positions of the fields with texts, but for `role` and fields that are null in every item."""
    return [
        index
        for index, field in enumerate(column.type)
        if field.name == "content"
        or (field.name not in {"role", "weight"} and column.field(index).null_count < len(column))
    ]


def _flags(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)


def _matches(texts: pa.Array, owners: np.ndarray, pattern: str) -> Texts:
    """Return the texts in which a pattern (RE2) matches."""
    return _select(texts, owners, pc.match_substring_regex(texts, pattern))


def _select(texts: pa.Array, owners: np.ndarray, selected: pa.Array) -> Texts:
    return texts.filter(selected), owners[_flags(selected)]


def _matching(rows: Rows, pattern: str) -> Found:
    for name, texts in rows.suspicious.items():
        yield name, _matches(*texts, pattern)[1]


def _refusing(rows: Rows) -> Found:
    for column in rows.row_format.columns:
        if column.is_answer:
            turns = column.arrow_type == MESSAGES
            texts = _texts_of_model(rows.columns[column.name]) if turns else rows.texts[column.name]
            yield column.name, _matches(*texts, REFUSAL_PATTERN)[1]


def _texts_of_model(column: pa.Array) -> Texts:
    turns = column.flatten()
    by_model = pc.equal(turns.field("role"), "assistant")
    texts, places = strings_of(turns.filter(by_model))
    return texts, pc.list_parent_indices(column).filter(by_model).to_numpy(zero_copy_only=False)[places]


def _too_long(rows: Rows) -> Found:
    lengths = np.zeros(len(rows.views.prompts), dtype=np.int64)
    for texts, owners in rows.texts.values():
        np.add.at(lengths, owners, _flags(pc.utf8_length(texts)))
    yield rows.answer, np.flatnonzero(lengths > MAX_ROW_CHARS)


def _too_short(rows: Rows) -> Found:
    for column in rows.row_format.columns:
        if column.is_text:
            lengths = pc.utf8_length(pc.utf8_trim_whitespace(rows.columns[column.name]))
            yield column.name, np.flatnonzero(_flags(pc.less(lengths, MIN_TEXT_CHARS)))


def _repeats_instruction(rows: Rows) -> Found:
    """Yield the rows whose output repeats the instruction, or the unchanged input.

    The input counts only if it is unchanged, because correcting its case or white space can be the whole task.
    """
    columns, views = rows.columns, rows.views
    # Of rows with nothing but an instruction, the comparison texts are the normalized instruction and output.
    more = _flags(pc.not_equal(columns["input"], ""))
    for name in ("system", "history", "tools"):
        more |= _flags(pc.is_valid(columns[name]))
    repeats = _flags(pc.equal(views.prompts, views.answers)) & ~more
    others = np.flatnonzero(more)
    instruction, extra, output = (columns[name].take(pa.array(others)) for name in ("instruction", "input", "output"))
    trimmed = pc.utf8_trim_whitespace(output)
    repeats[others] = _flags(
        pc.and_(pc.equal(pc.utf8_trim_whitespace(extra), trimmed), pc.not_equal(trimmed, ""))
    ) | _equal_when_normalized(instruction, output)
    yield "output", np.flatnonzero(repeats)


def _equal_when_normalized(first: pa.Array, second: pa.Array) -> np.ndarray:
    """Return a bool per pair of texts: whether they are equal after normalization.

    Their lengths, and the first letters of ASCII texts, exclude nearly all pairs that differ.
    """
    lengths = [_flags(pc.utf8_length(side)) for side in (first, second)]
    close = (lengths[0] < 2 * lengths[1] + 8) & (lengths[1] < 2 * lengths[0] + 8)
    starts = [pc.utf8_lower(pc.utf8_slice_codeunits(pc.utf8_ltrim_whitespace(side), 0, 1)) for side in (first, second)]
    plain_ascii = [_flags(pc.string_is_ascii(side)) for side in (first, second)]
    close &= _flags(pc.equal(*starts)) | ~plain_ascii[0] | ~plain_ascii[1]
    for position in np.flatnonzero(close).tolist():
        close[position] = normalise(first[position].as_py()) == normalise(second[position].as_py())
    return close


def _repeats_turn(rows: Rows) -> Found:
    """Yield the rows in which a model turn repeats the human turn before it.

    In conversations of more than two turns, a repetition of one or two words (a greeting) is allowed.
    """
    messages, said = rows.columns["messages"], rows.views.said
    assert said is not None
    roles = messages.flatten().field("role")
    spoken = np.flatnonzero(_flags(pc.is_in(roles, pa.array(["user", "assistant"]))))
    owners = _flags(pc.list_parent_indices(messages))[spoken]
    by_human, texts = _flags(pc.equal(roles, "user"))[spoken], said.take(pa.array(spoken))
    pairs = by_human[:-1] & ~by_human[1:] & (owners[:-1] == owners[1:])
    pairs &= _flags(pc.equal(texts[:-1], texts[1:]))
    long = _flags(pc.greater_equal(pc.count_substring(texts[:-1], " "), 2))
    yield "messages", owners[:-1][pairs & (long | (np.bincount(owners)[owners[:-1]] == 2))]


def _repeats_prompt(rows: Rows) -> Found:
    yield "chosen", _rows_with_equal_last_turns(rows, "prompt_messages", "chosen")


def _prefers_nothing(rows: Rows) -> Found:
    yield "chosen", _rows_with_equal_last_turns(rows, "chosen", "rejected")


def _rows_with_equal_last_turns(rows: Rows, *columns: str) -> np.ndarray:
    sides = []
    for column in (rows.columns[name] for name in columns):
        ends = np.cumsum(_flags(pc.list_value_length(column)))
        sides.append(normalise_all(spoken_texts(column.flatten().take(pa.array(ends - 1)))))
    return np.flatnonzero(_flags(pc.equal(*sides)))


def _first_match(rows: Rows, column: str, position: int, pattern: str) -> str:
    matches = (re.search(pattern, text) for text in rows.cell(column, position))
    return next((match[0] for match in matches if match), "")  # RE2 and Python differ in `\b`


def _matched_text(rows: Rows, column: str, position: int, pattern: str) -> str:
    match = _first_match(rows, column, position, pattern)
    return shorten(match) if match else ""


def _matched_character(rows: Rows, column: str, position: int, pattern: str) -> str:
    return f"U+{ord(_first_match(rows, column, position, pattern)):04X}"


def _count_of_characters(rows: Rows, column: str, position: int) -> str:
    return f"{sum(len(text) for name in rows.row_format.column_names for text in rows.cell(name, position)):,}"


def _last_text(rows: Rows, column: str, position: int) -> str:
    return shorten(rows.cell(column, position)[-1].strip())


def _pattern_rule(
    code: str, message: str, fix: str, pattern: str, what: Callable[[Rows, str, int, str], str] = _matched_text
) -> RowRule:
    def shown(rows: Rows, column: str, position: int) -> str:
        return what(rows, column, position, pattern)

    return RowRule(code, message, fix, partial(_matching, pattern=pattern), shown, pattern)


REAL_ANSWER = "write a real answer, or remove the row"
REPEATED = ("output_equals_input", "the answer repeats the prompt or the input: {what}", REAL_ANSWER)
ROW_RULES: Mapping[str, RowRule] = {
    "control_characters": _pattern_rule(
        "control_characters",
        "`{column}` holds the control character {what}",
        "remove it",
        CONTROL_PATTERN,
        _matched_character,
    ),
    "special_tokens": _pattern_rule(
        "special_tokens",
        "`{column}` holds {what}, a control token of a chat template, which would forge turns",
        "remove it",
        SPECIAL_TOKEN_PATTERN,
    ),
    "unresolved_placeholder": _pattern_rule(
        "unresolved_placeholder",
        "`{column}` holds {what}, a hole of a template",
        "fill it in",
        PLACEHOLDER_PATTERN,
    ),
    "refusal_boilerplate": RowRule(
        "refusal_boilerplate",
        "`{column}` is a stock refusal: {what}",
        REAL_ANSWER,
        _refusing,
        partial(_matched_text, pattern=REFUSAL_PATTERN),
    ),
    "too_long": RowRule(
        "too_long",
        f"the row has {{what}} characters, more than {MAX_ROW_CHARS:,}",
        "split it",
        _too_long,
        _count_of_characters,
    ),
    "too_short": RowRule(
        "too_short",
        f"`{{column}}` is {{what}}: fewer than {MIN_TEXT_CHARS} characters",
        "join it with others, or remove it",
        _too_short,
        _last_text,
    ),
    "echoed_instruction": RowRule(*REPEATED, _repeats_instruction, _last_text),
    "echoed_turn": RowRule(*REPEATED, _repeats_turn, _last_text),
    "echoed_prompt": RowRule(*REPEATED, _repeats_prompt, _last_text),
    "equal_answers": RowRule(
        "chosen_equals_rejected",
        "`chosen` and `rejected` are equal but for case and white space: {what}",
        "remove the pair",
        _prefers_nothing,
        _last_text,
    ),
}
"""Every rule. A format names those that it has in addition to RULES_OF_EVERY_FORMAT."""
RULES_OF_EVERY_FORMAT = ("control_characters", "special_tokens", "unresolved_placeholder", "refusal_boilerplate")
_ANY_PATTERN = "|".join(
    [*filter(None, (rule.pattern for rule in ROW_RULES.values())), pii.PREFILTER, placeholders.BRACKET]
)
"""Nearly all texts match no pattern, and one search tells that of all of them."""
_ANY_BYTES = table_of(b"<[{@0123456789\x7f" + bytes({*range(0x20)} - {*b"\t\n\r"}))
"""Every text that matches has one of these bytes, and most texts have none."""

"""Alpaca rows: instruction, input, output, system prompt, history."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.formats.arrow_schema import MESSAGES, TAGS, TOOLS, schema_of
from ft_pipeline.tables.formats.base import (
    GROUP_FIELD,
    TAGS_FIELD,
    ArrowColumns,
    Column,
    Field,
    Format,
    PlacedTable,
    Record,
    not_text,
)
from ft_pipeline.tables.formats.comparison_texts import (
    ComparisonTexts,
    as_large,
    join_texts,
    normalise_all,
    text_scalar,
    views_of_messages,
    with_tools,
)
from ft_pipeline.tables.formats.row_ids import ids_of_texts
from ft_pipeline.tables.reading.describe import describe_empty, describe_value, missing_message
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import EMPTY_CHARS, is_empty


def convert_alpaca(value: dict[str, Any], sidecar: Sidecar) -> Record | Fault:
    """Return (instruction, input, output, system, history) of a row, or its fault."""
    instruction, answer, extra = value.get("instruction"), value.get("output"), value.get("input")
    plain = type(instruction) is str and type(answer) is str and (type(extra) is str or extra is None)
    if not plain and (fault := _alpaca_fault(value)):
        return fault
    if not instruction.strip(EMPTY_CHARS):  # type: ignore[union-attr]
        return Fault("missing_instruction", "`instruction` is empty; write the question, or remove the row")
    if not answer.strip(EMPTY_CHARS):  # type: ignore[union-attr]
        return Fault("empty_output", f"`output` is {describe_empty(answer)}; write the answer, or remove the row")
    if "system" not in value and "history" not in value:
        return instruction, extra or "", answer, None, None
    context = context_of(value)
    return context if isinstance(context, Fault) else (instruction, extra or "", answer, *context)


def _alpaca_fault(value: dict[str, Any]) -> Fault | None:
    if fault := not_text(value, ("instruction", "input", "output")):
        return fault
    if value.get("instruction") is None:
        return Fault("missing_instruction", missing_message(value, "instruction"))
    if "output" not in value:
        return Fault("missing_output", missing_message(value, "output"))
    if value["output"] is None:
        return Fault("empty_output", "`output` is null; write the answer, or remove the row")
    return None


def context_of(value: dict[str, Any]) -> tuple[str | None, list[list[str]] | None] | Fault:
    """Return the optional system prompt and history of an instruction, or the fault in them."""
    if fault := not_text(value, ("system",)):
        return fault
    system, history = value.get("system"), value.get("history")
    history = None if history == "" else history  # an empty CSV cell
    if history is not None and not isinstance(history, list):
        return Fault("wrong_type", f"`history` is {describe_value(history)}; it must be a list of [question, answer]")
    for pair in history or []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(item, str) for item in pair)):
            return Fault(
                "wrong_type",
                f"`history` holds {describe_value(pair)}; it must be a list of [question, answer], both texts",
            )
        if any(is_empty(item) for item in pair):
            return Fault("empty_value", "`history` holds an empty turn; remove the pair")
    return (system if system and not is_empty(system) else None), (history or None)


def instruction_messages(
    instruction: str, extra: str, system: str | None, history: list[list[str]] | None
) -> list[dict[str, str]]:
    """Return the turns of an Alpaca prompt: [system], history, instruction (then an empty line and its input)."""
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in history or []:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": f"{instruction}\n\n{extra}" if not is_empty(extra) else instruction}]


def convert_plain(values: Sequence[Any], shape: tuple[str, ...], places: list[int]) -> PlacedTable | None:
    """Convert the rows of one shape that can be used unchanged, with the same result as convert_alpaca."""
    names = set(shape)
    if not {"instruction", "output"} <= names or {"system", "history", "tags"} & names:
        return None
    wanted = ("instruction", "output", "input") if "input" in names else ("instruction", "output")
    rows = list(map(values.__getitem__, places))
    cells = [list(map(itemgetter(name), rows)) for name in wanted]
    if len(wanted) == 3 and None in cells[2]:
        cells[2] = ["" if extra is None else extra for extra in cells[2]]
    kept = np.flatnonzero(np.logical_and.reduce([_all_texts(column) for column in cells]))
    if len(kept) < len(places):
        cells = [list(map(column.__getitem__, kept.tolist())) for column in cells]
    instruction, output, *more = (pa.array(column, pa.string()) for column in cells)
    extra = more[0] if more else pa.repeat(pa.scalar("", pa.string()), len(kept))
    filled = pc.and_(*(pc.not_equal(pc.utf8_trim(column, EMPTY_CHARS), "") for column in (instruction, output)))
    schema = schema_of(FORMAT, "id")
    nothing = [pa.nulls(len(kept), schema.field(name).type) for name in ("system", "history", "tools", "tags")]
    texts = {"instruction": instruction, "input": extra, "output": output}
    table = pa.Table.from_arrays([*texts.values(), *nothing, ids_of_texts(texts, ("system", "history"))], schema=schema)
    return np.array(places, dtype=np.int64)[kept][filled.to_numpy(zero_copy_only=False)], table.filter(filled)


def _all_texts(column: Sequence[Any]) -> np.ndarray:
    if set(map(type, column)) <= {str}:
        return np.ones(len(column), dtype=bool)
    return np.array([type(item) is str for item in column], dtype=bool)


def comparison_texts(columns: ArrowColumns) -> ComparisonTexts:
    """Return the comparison texts: those of the conversations that the rows become."""
    return with_tools(_comparison_texts(columns), columns["tools"])


def _comparison_texts(columns: ArrowColumns) -> ComparisonTexts:
    plain = pc.and_(pc.is_null(columns["system"]), pc.is_null(columns["history"])).to_numpy(zero_copy_only=False)
    if plain.all():
        return _plain_comparison_texts(columns)
    first, second = np.flatnonzero(plain), np.flatnonzero(~plain)
    views = _plain_comparison_texts({name: column.take(pa.array(first)) for name, column in columns.items()})
    rest = pa.table({name: column.take(pa.array(second)) for name, column in columns.items()})
    others = views_of_messages(_messages_one_by_one(rest))
    order = pa.array(np.argsort(np.concatenate([first, second])))
    return ComparisonTexts(*(pa.concat_arrays(pair).take(order) for pair in zip(views[:6], others[:6], strict=True)))


def _plain_comparison_texts(columns: ArrowColumns) -> ComparisonTexts:
    prompts, answers = _plain_prompts(columns["instruction"], columns["input"]), as_large(columns["output"])
    exact = join_texts(text_scalar("user"), prompts, "\x1e"), join_texts(text_scalar("assistant"), answers, "\x1e")
    normal = normalise_all(answers)
    return ComparisonTexts(normalise_all(prompts), normal, join_texts(*exact, "\x1f"), prompts, normal, normal)


def _plain_prompts(instruction: pa.Array, extra: pa.Array) -> pa.Array:
    """Return the human turns of instructions without history. The input, if any, follows an empty line."""
    instruction, extra = as_large(instruction), as_large(extra)
    has_input = pc.not_equal(pc.utf8_trim(extra, EMPTY_CHARS), text_scalar(""))
    return pc.if_else(has_input, join_texts(instruction, extra, "\n\n"), instruction)


def messages_of_rows(table: pa.Table) -> pa.Array:
    """Return the turns of each row: [system], history, user (instruction, empty line, input), assistant."""
    if table["system"].null_count == table["history"].null_count == table.num_rows:
        return _plain_messages(table)
    return _messages_one_by_one(table)


def _messages_one_by_one(table: pa.Table) -> pa.Array:
    conversations = []
    for row in table.select(FORMAT.column_names).to_pylist():
        messages = instruction_messages(row["instruction"], row["input"], row["system"], row["history"])
        conversations.append([*messages, {"role": "assistant", "content": row["output"]}])
    return pa.array(conversations, MESSAGES)


def _plain_messages(table: pa.Table) -> pa.Array:
    """Like _messages_one_by_one for rows without system and history, with Arrow's kernels."""
    count = table.num_rows
    instruction, extra, output = (table[name].combine_chunks() for name in ("instruction", "input", "output"))
    prompt = _plain_prompts(instruction, extra).cast(pa.string())
    turns = np.arange(2 * count).reshape(2, count).T.ravel()
    contents = pa.concat_arrays([prompt, output]).take(pa.array(turns))
    roles = pa.array(["user", "assistant"] * count, pa.string())
    nothing = [pa.nulls(2 * count, field.type) for field in list(MESSAGES.value_type)[2:]]
    fields = pa.StructArray.from_arrays([roles, contents, *nothing], fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * count + 1, 2), pa.int32()), fields, type=MESSAGES)


INSTRUCTION = Field("instruction", "What the person asks")
INPUT = Field("input", "What the instruction is applied to")
SYSTEM = Field("system", "The system prompt of the row")
HISTORY = Field("history", "Earlier turns as [question, answer] pairs")
FORMAT = Format(
    name="alpaca",
    description="Single-turn rows: instruction, input, output.",
    raw_row="`instruction`, `output`; optional `input`, `system`, `history`",
    fields=(INSTRUCTION, INPUT, Field("output", "The answer to learn"), SYSTEM, HISTORY, GROUP_FIELD, TAGS_FIELD),
    columns=(
        Column("instruction", "What the person asks; never empty", is_prompt=True),
        Column("input", "The text that the instruction applies to; empty if there is none", is_prompt=True),
        Column("output", "The answer to learn; never empty", is_answer=True),
        Column("system", "The system prompt of this row, or null", nullable=True),
        Column(
            "history",
            "Earlier turns as [question, answer] pairs, or null",
            pa.list_(pa.list_(pa.string())),
            is_prompt=True,
            nullable=True,
        ),
        TOOLS,
        TAGS,
    ),
    required=(frozenset({"instruction", "output"}),),
    signs=frozenset({"instruction"}),
    checks=("too_long", "echoed_instruction"),
    convert=convert_alpaca,
    convert_columns=convert_plain,
    comparison_texts=comparison_texts,
    to_messages=messages_of_rows,
)

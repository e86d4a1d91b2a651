"""Changes to rows that no sidecar can express, made while a data file is copied."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from ft_pipeline.errors import UserError
from ft_pipeline.sources.file_names import suffix_of
from ft_pipeline.tables.reading.batches import divide
from ft_pipeline.tables.reading.compressed import expanded
from ft_pipeline.tables.reading.containers import read_batches
from ft_pipeline.tables.reading.describe import BadNumber
from ft_pipeline.tables.reading.json_parser import parse_carefully, parse_line
from ft_pipeline.tables.reason_codes import Fault, Refused

Row = dict[str, Any]
_LONG_NUMBER = re.compile(rb"\d{19}|NaN|Infinity")
"""What a number may contain that a float or 64 bits cannot hold."""


@dataclass(frozen=True)
class Unread:
    """A row that is not a JSON object, or not JSON at all. Its bytes are copied as they are."""

    line: bytes


@dataclass(frozen=True)
class RowEdit:
    """A change to the rows of one file."""

    theirs: str
    """What it follows from, for the report."""
    effect: str
    """What it does, for the report."""
    concerns: Callable[[Row], bool]
    """Whether a row is changed."""
    change: Callable[[Row], Row]


def read_rows(path: Path) -> Iterator[Row | Unread]:
    """Yield the rows of a data file in any of the containers that theirs read. UserError if it cannot be read."""
    try:
        with tempfile.TemporaryDirectory(prefix="ft-import-") as folder, expanded(path, Path(folder)) as plain:
            yield from _rows_of(plain, suffix_of(path.name))
    except Refused as error:
        raise UserError(f"{path.name} cannot be read: {error.message}") from None
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} cannot be read ({error}). Check the file.") from None


def _rows_of(path: Path, suffix: str) -> Iterator[Row | Unread]:
    """Yield the rows of a file that is not compressed. suffix: that of its name."""
    if suffix == ".txt":
        yield from _lines_of_text(path)
    elif suffix == ".arrow":
        yield from _arrow_rows(path)
    elif suffix == ".json" and (single := _single_object(path)) is not None:
        yield single
    else:
        for batch in read_batches(path, suffix):
            divided = divide(batch)
            for value in divided.lines if divided.lines is not None else divided.values:
                yield _row_of(value)


def _row_of(value: Any) -> Row | Unread:
    if isinstance(value, bytes):
        parsed = parse_carefully(value) if _LONG_NUMBER.search(value) else parse_line(value)
        if isinstance(parsed, dict) and not _has_bad_number(parsed):
            return parsed
        return Unread(b" ".join(value.split(b"\n")).strip())
    if isinstance(value, dict):
        return value
    return Unread(b"null" if isinstance(value, Fault) else orjson.dumps(value, default=str))


def _has_bad_number(value: Any) -> bool:
    """Return whether a value contains a number that JSON does not know, such as NaN."""
    if isinstance(value, dict | list):
        return any(map(_has_bad_number, value.values() if isinstance(value, dict) else value))
    return isinstance(value, BadNumber)


def _lines_of_text(path: Path) -> Iterator[Row]:
    """Yield each line as a row, as `datasets` reads a text file."""
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                yield {"text": line.rstrip("\n")}


def _arrow_rows(path: Path) -> Iterator[Row]:
    with pa.memory_map(str(path)) as source:
        try:
            reader: Any = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield from reader.get_batch(number).to_pylist()
            return
        for batch in reader:
            yield from batch.to_pylist()


def _single_object(path: Path) -> Row | None:
    """Return the row in a file that is one indented JSON object; None for any other file."""
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith(b"{") or isinstance(parse_line(start.split(b"\n", 1)[0]), dict):
        return None
    value = parse_line(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    return value if isinstance(value, dict) else None


def needs_new_file(path: Path) -> str | None:
    """Return why the container must change, or None if ours reads it too."""
    suffix = suffix_of(path.name)
    if suffix == ".txt":
        return "Each line became a row with `text`."
    if suffix == ".arrow":
        return "The rows are now JSON Lines."
    is_single = path.suffix.lower() == ".json" and _single_object(path) is not None
    return "The file is one object around or instead of rows; it became a row." if is_single else None


def count_concerned(path: Path, edits: Sequence[RowEdit]) -> tuple[int, list[int]]:
    """Return the number of rows, and the number that each edit changes."""
    total, counts = 0, [0] * len(edits)
    for row in read_rows(path):
        total += 1
        if isinstance(row, dict):
            for number, edit in enumerate(edits):
                counts[number] += edit.concerns(row)
    return total, counts


def write_rows(path: Path, out: Path, edits: Sequence[RowEdit], limit: int | None) -> None:
    """Write the edited rows of a file as JSON Lines. A row that cannot be read is copied. limit: the first N rows."""
    with out.open("wb") as file:
        for number, row in enumerate(read_rows(path)):
            if limit is not None and number >= limit:
                return
            if isinstance(row, Unread):
                file.write(row.line + b"\n")
                continue
            for edit in edits:
                if edit.concerns(row):
                    row = edit.change(row)
            file.write(dump(row) + b"\n")


def dump(row: Row) -> bytes:
    """Return a row as one line of JSON, with its keys in their order."""
    try:
        return orjson.dumps(row, default=str)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(row, ensure_ascii=False, default=str).encode()


# --- the edits --------------------------------------------------------------------------------------------------------


def is_filled(value: Any) -> bool:
    """Return whether a value is there and not empty."""
    return value not in (None, "", [])


def without(name: str, theirs: str) -> RowEdit:
    """Leave out a column that theirs does not read, but ours would."""
    return RowEdit(
        theirs,
        f"Theirs does not read `{name}`, which ours would read; the copy leaves it out.",
        lambda row: is_filled(row.get(name)),
        lambda row: {key: item for key, item in row.items() if key != name},
    )


def joined_prompt(prompt: str, query: str) -> RowEdit:
    """Join the prompt and the query of a pair or of a rated answer with a line break, as LLaMA-Factory does."""
    return RowEdit(
        f"columns: prompt {prompt}, query {query}",
        "Such rows have one prompt here: the copy joins both with a line break, as theirs does.",
        lambda row: isinstance(row.get(query), str) and bool(row[query]),
        lambda row: {
            **{key: item for key, item in row.items() if key != query},
            prompt: "\n".join(part for part in (row.get(prompt), row[query]) if part),
        },
    )


def pair_with_context(prompt: str, chosen: str, rejected: str, system: str | None, history: str | None) -> RowEdit:
    """Write a pair of texts as two lists of turns, because it has a system prompt or earlier turns."""
    names = [name for name in (system, history) if name]

    def change(row: Row) -> Row:
        turns = [{"role": "system", "content": row[system]}] if system and is_filled(row.get(system)) else []
        earlier = row.get(history) if history else None
        for old in earlier if isinstance(earlier, list) else []:
            if isinstance(old, list) and len(old) == 2:
                turns += [{"role": "user", "content": old[0]}, {"role": "assistant", "content": old[1]}]
        turns.append({"role": "user", "content": row.get(prompt)})
        kept = {key: item for key, item in row.items() if key not in (prompt, *names)}
        sides = {name: [*turns, {"role": "assistant", "content": row.get(name)}] for name in (chosen, rejected)}
        return {**kept, **sides}

    return RowEdit(
        ", ".join(names),
        "A pair of texts has no system prompt and no earlier turns here: the copy writes both sides as lists of turns.",
        lambda row: (
            any(is_filled(row.get(name)) for name in names)
            and all(isinstance(row.get(s), str) for s in (chosen, rejected))
        ),
        change,
    )


def turn_weights(messages: str, flag: str) -> RowEdit:
    """Write a yes or no per turn as a weight of 1 or 0."""

    def change(row: Row) -> Row:
        turns = [
            {**{key: item for key, item in turn.items() if key != flag}, "weight": int(bool(turn[flag]))}
            if isinstance(turn, dict) and isinstance(turn.get(flag), bool)
            else turn
            for turn in row[messages]
        ]
        return {**row, messages: turns}

    return RowEdit(
        f"message_field_training: {flag}",
        "A turn that theirs does not train has `weight: 0` in the copy.",
        lambda row: (
            isinstance(row.get(messages), list) and any(isinstance(t, dict) and flag in t for t in row[messages])
        ),
        change,
    )


def ranked_answers() -> RowEdit:
    """Write Nectar's list of ranked answers as a pair of the best and the second best."""

    def ranked(row: Row) -> list[Any]:
        answers = row.get("answers")
        known = [answer for answer in answers if isinstance(answer, dict)] if isinstance(answers, list) else []
        ranks = [answer for answer in known if isinstance(answer.get("rank"), int | float)]
        return sorted(ranks, key=lambda answer: answer["rank"])

    return RowEdit(
        "type: zephyr.nectar",
        "The copy prefers the answer of rank 1, the best in Nectar, to that of rank 2. Theirs prefers the last of the "
        "ranks, which is the worst.",
        lambda row: len(ranked(row)) > 1,
        lambda row: {
            "prompt": row.get("prompt"),
            "chosen": ranked(row)[0].get("answer"),
            "rejected": ranked(row)[1].get("answer"),
        },
    )


def parsed_texts(messages: str, tools: str) -> RowEdit:
    """Write turns, tools and parameters of tools that are JSON texts as what they are."""

    def parsed(value: Any) -> Any:
        if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
            return value
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value

    def with_parameters(tool: Any) -> Any:
        if not isinstance(tool, dict):
            return tool
        if isinstance(tool.get("function"), dict):
            return {**tool, "function": with_parameters(tool["function"])}
        return {**tool, "parameters": parsed(tool["parameters"])} if "parameters" in tool else tool

    def change(row: Row) -> Row:
        new = {**row, messages: parsed(row.get(messages))} if messages in row else row
        declared = parsed(row.get(tools))
        return {**new, tools: [with_parameters(tool) for tool in declared]} if isinstance(declared, list) else new

    def concerns(row: Row) -> bool:
        declared = row.get(tools)
        functions = (
            [tool.get("function", tool) for tool in declared or () if isinstance(tool, dict)]
            if isinstance(declared, list)
            else []
        )
        has_text = any(
            isinstance(function, dict) and isinstance(function.get("parameters"), str) for function in functions
        )
        return has_text or isinstance(row.get(messages), str)

    return RowEdit("JSON in texts", "Theirs parses JSON texts in the rows; the copy has the values.", concerns, change)


def system_in_lists(chosen: str, rejected: str) -> RowEdit:
    """Put a system prompt before the turns of both sides."""

    def change(row: Row) -> Row:
        turn = {"role": "system", "content": row["system"]}
        sides = {name: [turn, *row[name]] for name in (chosen, rejected)}
        return {**{key: item for key, item in row.items() if key != "system"}, **sides}

    return RowEdit(
        "system",
        "A pair has no system prompt of its own here: the copy has it as the first turn of both sides.",
        lambda row: (
            is_filled(row.get("system")) and all(isinstance(row.get(name), list) for name in (chosen, rejected))
        ),
        change,
    )


def answers_as_turns(messages: str, chosen: str, rejected: str, role: str, content: str) -> RowEdit:
    """Write a prompt that is a text as one turn, and keep only the last turn of each side, as Axolotl does."""

    def last(side: Any) -> Any:
        return side[-1] if isinstance(side, list) and side else side

    def change(row: Row) -> Row:
        prompt = row.get(messages)
        turns = [{role: "user", content: prompt}] if isinstance(prompt, str) else prompt
        return {**row, messages: turns, chosen: last(row.get(chosen)), rejected: last(row.get(rejected))}

    return RowEdit(
        "turns of a pair",
        "Theirs trains the last turn of each side after the common turns; the copy has just that.",
        lambda row: isinstance(row.get(messages), str) or any(isinstance(row.get(s), list) for s in (chosen, rejected)),
        change,
    )

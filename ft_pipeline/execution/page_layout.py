"""What fits on an asset's page in a window of 1,280 pixels with the navigation open; the rest is behind a click.

Dagster's table of metadata is as wide as its widest entry: a single long hash hides the ends of all texts.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from ft_pipeline.small_plots import SHOWN_CHARACTERS

WORD_CHARACTERS = 28
"""Characters of a word in a text. Longer ones get a break."""
_CELL_CHARACTERS = 100
_CELL_WORD_CHARACTERS = 20
"""Characters of a cell, and of a word in it. An erasure recognizes a text by so many characters before an ellipsis."""
_LINE_CHARACTERS = 14
_TEXT_CHARACTERS = 30
"""Characters of a line for which a column has room at least if it has texts, and from which on a cell is one."""
_TABLE_PIXELS = 670
_TIMESTAMP_PIXELS = 165
_PADDING_PIXELS = 25
_CHARACTER_PIXELS = 8.45
_TITLE_CHARACTER_PIXELS = 7.25
_CELL_PADDING_PIXELS = 18
"""Sizes in Dagster's table of metadata, rounded up; the columns of a table in it have titles of smaller letters."""
_IN_ONE_LINE = r"[^\s\u0E00-\u0EFF\u2E80-\uFFFF]"
"""A character after which no line ends. Thai, Chinese and the like have breaks in their words."""


def room_for_values(names: Iterable[str]) -> float:
    """Return the pixels that a value has beside the longest of these keys."""
    shown = [len(name) for name in names if not name.startswith("dagster/")]
    return _TABLE_PIXELS - _TIMESTAMP_PIXELS - 2 * _PADDING_PIXELS - _CHARACTER_PIXELS * max(shown, default=0)


def with_breaks(text: str, break_: str, characters: int = WORD_CHARACTERS) -> str:
    """Return a text with breaks in its long words."""
    return re.sub(f"{_IN_ONE_LINE}{{{characters}}}(?={_IN_ONE_LINE})", rf"\g<0>{break_}", text)


def behind_a_click(text: str) -> dg.MarkdownMetadataValue:
    """A text that the page shows as *Show Markdown*: spaces at its end make it long enough for that."""
    return dg.MetadataValue.md(text.ljust(SHOWN_CHARACTERS + 1))


def json_behind_a_click(value: Mapping[str, Any] | Sequence[Any]) -> dg.MetadataValue:
    """A JSON value that the page shows as *Show JSON*: spaces in it make it long enough for that."""
    spaces = " " * (SHOWN_CHARACTERS - len(json.dumps(value)))
    if spaces:
        value = {**value, "": spaces} if isinstance(value, Mapping) else [*value, spaces]
    return dg.MetadataValue.json(value)


def fitting_text(text: str, room: float) -> str | dg.MetadataValue:
    """Return a text with breaks in its long words, or a word (a path, a hash) that has no room behind a click."""
    characters = int(room / _CHARACTER_PIXELS)
    shown = with_breaks(text, "\n", characters)
    return behind_a_click(text) if shown != text and len(text.split()) == 1 else shown


def fitting_json(value: Any, room: float) -> dg.MetadataValue:
    """Return a JSON value, behind a click if a word in it has no room."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    is_wide = with_breaks(text, "\n", int(room / _CHARACTER_PIXELS)) != text
    return json_behind_a_click(value) if is_wide else dg.MetadataValue.json(value)


def fitting_table(name: str, table: dg.TableMetadataValue, room: float) -> dict[str, dg.MetadataValue]:
    """Return the entry `name`: the first columns, as many as have room, with shortened cells; and `all_` before the
    name with everything, behind a click, if it does not show that."""
    rows = [dict(record.data) for record in table.records]
    shown = [{column: _shortened(cell) for column, cell in row.items()} for row in rows]
    columns: list[dg.TableColumn] = []
    for column in table.schema.columns:
        width = _width(column.name, [row[column.name] for row in shown])
        if width <= room or not columns:
            room -= width
            columns.append(column)
    names = [column.name for column in columns]
    records = [dg.TableRecord({name: row[name] for name in names}) for row in shown]
    entries: dict[str, dg.MetadataValue] = {
        name: dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns=columns))
    }
    if [dict(record.data) for record in records] != rows:
        entries[f"all_{name}"] = json_behind_a_click(rows)
    return entries


def _shortened(cell: Any) -> Any:
    """Return a cell whose end is left out if it, or a word in it, is long. Nothing is left out in the middle, so that
    an erasure still recognizes the text."""
    if not isinstance(cell, str):
        return cell
    first, *others = with_breaks(cell, "\0", _CELL_WORD_CHARACTERS).split("\0", 1)
    return f"{first[:_CELL_CHARACTERS]}…" if others or len(first) > _CELL_CHARACTERS else cell


def _width(title: str, cells: Iterable[Any]) -> float:
    """Return the least pixels of a column that can be read. A title has no breaks."""
    texts = [str(cell) for cell in cells]
    words = [len(word) for text in texts for word in re.findall(f"{_IN_ONE_LINE}+", text)]
    has_texts = any(len(text) >= _TEXT_CHARACTERS for text in texts)
    longest = max([*words, _LINE_CHARACTERS if has_texts else 0], default=0)
    return max(_CHARACTER_PIXELS * longest, _TITLE_CHARACTER_PIXELS * len(title)) + _CELL_PADDING_PIXELS

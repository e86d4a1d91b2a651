"""The formats by name. To add one, see base.py."""

from collections.abc import Mapping
from importlib import import_module

from ft_pipeline.settings.raw_formats import RAW_FORMATS
from ft_pipeline.tables.formats.base import Format

FORMATS: Mapping[str, Format] = {
    name: import_module(f"ft_pipeline.tables.formats.{name}").FORMAT for name in RAW_FORMATS
}
"""Name → format, in the order in which they are shown."""
OPTIONAL = tuple(name for name, row_format in FORMATS.items() if row_format.is_optional)
"""The names of the formats whose tables need not be there."""
_ELSEWHERE = "../"


def name_elsewhere(data_format: str, name: str) -> str:
    """Return the name by which a table of another format reads a file: relative to its own folder."""
    return f"{_ELSEWHERE}{data_format}/{name}"


def tables_of_file(data_format: str, name: str) -> list[tuple[str, str]]:
    """Return (table, name of the file there) of all tables that have rows of a file of a format."""
    others = [table for table in FORMATS[data_format].expand if table != data_format]
    return [(data_format, name), *((table, name_elsewhere(data_format, name)) for table in others)]


def format_of_file(table: str, name: str) -> Format:
    """Return the format of a file that a table reads: its own, or that of the folder that the name leads to."""
    return FORMATS[name.split("/")[1]] if name.startswith(_ELSEWHERE) else FORMATS[table]

"""The formats by name. To add one, see base.py."""

from collections.abc import Mapping

from ft_pipeline.tables.formats import alpaca, chat, preferences, sharegpt, text, unlabelled
from ft_pipeline.tables.formats.base import Format

FORMATS: Mapping[str, Format] = {
    row_format.name: row_format
    for row_format in (
        alpaca.FORMAT,
        sharegpt.FORMAT,
        chat.FORMAT,
        text.FORMAT,
        preferences.FORMAT,
        unlabelled.FORMAT,
    )
}
"""Name → format, in the order in which they are shown."""
CONVERSATIONAL = tuple(name for name, row_format in FORMATS.items() if row_format.is_conversational)
"""The names of the formats whose rows become conversations."""
OPTIONAL = tuple(name for name, row_format in FORMATS.items() if row_format.is_optional)
"""The names of the formats whose tables need not be there."""

"""What to do with a file whose rows are not of its format: which format fits its columns, or which columns it lacks."""

from collections.abc import Collection, Sequence
from math import inf
from string import ascii_uppercase

import yaml

from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading.describe import describe_keys

_MAX_NAME_CHARS = 40
"""Maximum length of a column's name that a message repeats."""


def no_row_fits(row_format: Format, columns: Sequence[str]) -> str:
    """Return the message for a file of which no row has the format's columns. columns: those that its rows have."""
    wanted = [[field.name for field in row_format.fields if field.name in keys] for keys in row_format.required[:2]]
    named = ", or ".join(" and ".join(f"`{name}`" for name in names) for names in wanted)
    has = describe_keys(dict.fromkeys(columns, "")) if columns else "no columns"
    fitting = fitting_format(columns)
    if fitting is None or fitting is row_format:
        missing = [name for name in wanted[0] if name not in columns] or wanted[0]
        unused = [name for name in columns if name not in row_format.keys]
        advice = f"Map them in a sidecar: `columns: {_mapping(unused, missing)}`"
    else:
        advice = f"They are {fitting.name} rows: move the file to data/raw/{fitting.name}"
    return f"no row has {named}; the rows have {has}. {advice}"


def _mapping(theirs: Sequence[str], missing: Sequence[str]) -> str:
    """Return the mapping to the missing columns as YAML: with the names of the file's other columns if there are as
    many, else with letters."""
    names = theirs if len(theirs) == len(missing) and max(map(len, theirs)) <= _MAX_NAME_CHARS else ascii_uppercase
    mapping = dict(zip(names, missing, strict=False))
    return str(yaml.safe_dump(mapping, default_flow_style=True, sort_keys=False, allow_unicode=True, width=inf)).strip()


def fitting_format(columns: Collection[str]) -> Format | None:
    """Return the format that reads most of the columns, of those whose rows may have them; None if there is none."""
    names = set(columns)
    fitting = [row_format for row_format in FORMATS.values() if any(keys <= names for keys in row_format.required)]
    return max(
        fitting,
        key=lambda row_format: (len(row_format.keys & names), bool(row_format.signs & names)),
        default=None,
    )

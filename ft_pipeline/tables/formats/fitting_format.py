"""What to do with a file whose rows are not of its format: which format fits its columns, or which columns it lacks."""

from collections.abc import Collection, Sequence

from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading.describe import describe_keys


def no_row_fits(row_format: Format, columns: Sequence[str]) -> str:
    """Return the message for a file of which no row has the format's columns. columns: those that its rows have."""
    wanted = [[field.name for field in row_format.fields if field.name in keys] for keys in row_format.required[:2]]
    named = ", or ".join(" and ".join(f"`{name}`" for name in names) for names in wanted)
    has = describe_keys(dict.fromkeys(columns, "")) if columns else "no columns"
    fitting = fitting_format(columns)
    if fitting is None or fitting is row_format:
        advice = f"Map them in a sidecar: `columns: {{{', '.join(f'THEIRS: {name}' for name in wanted[0])}}}`"
    else:
        advice = f"They are {fitting.name} rows: move the file to data/raw/{fitting.name}"
    return f"no row has {named}; the rows have {has}. {advice}"


def fitting_format(columns: Collection[str]) -> Format | None:
    """Return the format that reads most of the columns, of those whose rows may have them; None if there is none."""
    names = set(columns)
    fitting = [row_format for row_format in FORMATS.values() if any(keys <= names for keys in row_format.required)]
    return max(
        fitting,
        key=lambda row_format: (len(row_format.keys & names), bool(row_format.signs & names)),
        default=None,
    )

"""The names of groups (a user, a thread, a document) in a column of raw rows."""

from collections.abc import Sequence
from typing import Any

from ft_pipeline.tables.reading.describe import describe_value, shorten
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty


def read_names(values: Sequence[Any], column: str) -> tuple[list[str | None], dict[int, Fault]]:
    """Return the group of each row, None for rows without one, and the faults by position.

    values: parsed rows. A whole number names a group as its digits do.
    """
    names: list[str | None] = [None] * len(values)
    faults: dict[int, Fault] = {}
    for position, value in enumerate(values):
        name = value.get(column) if type(value) is dict else None
        if name is None:
            continue
        if isinstance(name, float) and name.is_integer():  # a table in which the column has empty cells
            name = int(name)
        if isinstance(name, str):
            names[position] = None if is_empty(name) else name
        elif type(name) is int:
            names[position] = str(name)
        else:
            message = f"the group {shorten(column)} is {describe_value(name)}; it must be a text or a whole number"
            faults[position] = Fault("wrong_type", message)
    return names, faults

"""Named groups (a user, a thread, a document): rows of one name are in one split, unless they are too many."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ft_pipeline.tables.conversation_rows import ConversationRows
from ft_pipeline.tables.dedup.keys import groups_of_prompts
from ft_pipeline.tables.near_groups import MAX_SHARE
from ft_pipeline.tables.reading.describe import describe_value, shorten
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.text_rules import is_empty

MIN_LARGE = 20
"""Number of rows up to which a group is kept together, whatever its share: in small data, each group is large."""


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


def release_large_groups(rows: ConversationRows) -> list[tuple[str, int]]:
    """Split the rows of groups that are too large to be kept together by their prompts.

    Returns (origin of a row, number of rows) of these groups.
    """
    named = np.flatnonzero(rows.keys.has_own_group)
    _, first, group, counts = np.unique(
        rows.keys.group[named, 1], return_index=True, return_inverse=True, return_counts=True
    )
    is_large = counts > max(MAX_SHARE * len(rows), MIN_LARGE)
    released = named[is_large[group]]
    rows.keys.group[released] = groups_of_prompts(rows.keys.prompt[released])
    rows.keys.has_own_group[released] = False
    return [(rows.origin(int(named[first[at]])), int(counts[at])) for at in np.flatnonzero(is_large)]

"""Named groups (a user, a thread, a document): rows of one name are in one split, unless they are too many."""

import numpy as np

from ft_pipeline.tables.conversation_rows import ConversationRows
from ft_pipeline.tables.dedup.keys import groups_of_prompts
from ft_pipeline.tables.near_groups import MAX_SHARE

MIN_LARGE = 20
"""Number of rows up to which a group is kept together, whatever its share: in small data, each group is large."""


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

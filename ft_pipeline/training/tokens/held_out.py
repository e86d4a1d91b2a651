"""Split the pairs and texts that train in addition to conversations, and leave out those that show a held-out row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.settings.project import DataSettings
from ft_pipeline.tables.dedup.keys import groups_of, keys_of, keys_of_messages
from ft_pipeline.tables.formats.text import FORMAT as TEXT
from ft_pipeline.tables.held_out import HeldOut, read_held_out
from ft_pipeline.tables.splits import VALIDATION, place_in_splits


def split_or_leave_out(
    conversations: Path, rows: Sequence[dict[str, Any]], shares: DataSettings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (rows with their `split`, train or validation; rows left out as `train_test_overlap`).

    rows: {file, row, text} or {file, row, messages, answers (lists of turns)}, all of one kind. The hash of
    the text, or of the prompt as for conversations, decides the split, so that new rows do not move old ones. A row
    whose hash means "test" for conversations is trained on here, unless it shows a held-out row of the conversations.
    """
    if not rows:
        return [], []
    held_out = read_held_out(conversations)
    if "text" in rows[0]:
        keys = keys_of(TEXT, [(row["text"],) for row in rows])
        overlaps = held_out.in_texts([row["text"] for row in rows])
    else:
        keys = keys_of_messages([row["messages"] for row in rows])
        overlaps = _pair_overlaps(held_out, rows)
    is_validation = (place_in_splits(groups_of(keys, shares), shares) == VALIDATION).tolist()
    kept, left_out = [], []
    for row, copy_of, validates in zip(rows, overlaps, is_validation, strict=True):
        if copy_of is None:
            kept.append({**row, "split": "validation" if validates else "train"})
        else:
            left_out.append({"file": row["file"], "row": row["row"], "code": "train_test_overlap", "copy_of": copy_of})
    return kept, left_out


def _pair_overlaps(held_out: HeldOut, rows: Sequence[dict[str, Any]]) -> list[str | None]:
    """Return, for each pair, the name of something held out that its prompt shows together with one of its answers."""
    names: list[str | None] = [None] * len(rows)
    for side in range(max(len(row["answers"]) for row in rows)):
        answered = [[*row["messages"], *row["answers"][side]] for row in rows]
        names = [name or found for name, found in zip(names, held_out.in_conversations(answered), strict=True)]
    return names

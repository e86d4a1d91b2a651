"""Split the pairs and texts that train in addition to conversations, and leave out those near a held-out row."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.settings.project import DataSettings
from ft_pipeline.tables.dedup.contamination import heldout_rows, overlap_with_heldout
from ft_pipeline.tables.dedup.keys import prompt_of
from ft_pipeline.tables.split_assignment import split_of
from ft_pipeline.tables.text_rules import normalise


def split_or_leave_out(
    conversations: Path, rows: Sequence[dict[str, Any]], shares: DataSettings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (rows with their `split`, train or validation; rows left out as `train_test_overlap`).

    rows: {file, row, text} or {file, row, messages, answer}, all of one kind. The hash of the text, or of the prompt as
    for conversations, decides the split, so that new rows do not move old ones. A row whose hash means "test" for
    conversations is trained on here, unless it is near a held-out row of the conversations.
    """
    if not rows:
        return [], []
    overlaps = overlap_with_heldout(rows, heldout_rows(conversations))
    kept, left_out = [], []
    for row, copy_of in zip(rows, overlaps, strict=True):
        split = "validation" if split_of(_split_key(row), shares) == "validation" else "train"
        if copy_of is None:
            kept.append({**row, "split": split})
        else:
            left_out.append({"file": row["file"], "row": row["row"], "code": "train_test_overlap", "copy_of": copy_of})
    return kept, left_out


def _split_key(row: dict[str, Any]) -> str:
    """Return the hash that decides the split of a row."""
    text = normalise(row["text"]) if "text" in row else prompt_of(row["messages"])
    return hashlib.sha256(text.encode()).hexdigest()[:32]

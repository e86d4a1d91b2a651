"""Tell what the rows of a provider's fine-tuning file are, and whether the file is for training or for a test."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ft_pipeline.exchange.row_edits import Row, Unread, read_rows
from ft_pipeline.tables.formats.unlabelled import REFERENCE_KEYS

PAIR_KEYS = ({"preferred_output", "non_preferred_output"}, {"preferred_completion", "non_preferred_completion"})
TEST_WORDS = frozenset(
    {"valid", "validation", "val", "test", "testing", "eval", "evaluation", "dev", "holdout", "heldout"}
)
"""Words in the name of a file that is not for training."""
NOT_REFERENCES = frozenset({"messages", "tools", "functions", "parallel_tool_calls", "metadata", "id", "tags"})


def kind_of(row: Row) -> str | None:
    """Return the format of ours that a row has, or None if it is not a row of a fine-tuning file."""
    if any(keys <= row.keys() for keys in PAIR_KEYS) or {"chosen", "rejected"} <= row.keys():
        return "preferences"
    turns = row.get("messages")
    if isinstance(turns, list):
        last = turns[-1] if turns and isinstance(turns[-1], dict) else {}
        return "chat" if last.get("role") not in ("user", "tool") else "unlabelled"
    if {"prompt", "completion"} <= row.keys():
        return "chat"
    return "text" if isinstance(row.get("text"), str) else None


def count_kinds(path: Path) -> tuple[Counter[str], Counter[str]]:
    """Return the number of rows of each format, and of each key that could be the reference of a reinforcement row."""
    kinds: Counter[str] = Counter()
    references: Counter[str] = Counter()
    for row in _rows(path):
        kind = kind_of(row) if isinstance(row, dict) else None
        kinds[kind or ""] += 1
        if kind == "unlabelled" and isinstance(row, dict):
            references.update(key for key, item in row.items() if key not in NOT_REFERENCES and item is not None)
    return kinds, references


def _rows(path: Path) -> Iterator[Row | Unread]:
    yield from read_rows(path)


def is_test_file(path: Path) -> bool:
    """Return whether the name of a file says that its rows are not for training."""
    return bool(TEST_WORDS & set(re.split(r"[^a-z]+", path.stem.lower())))


def reference_of(references: Counter[str]) -> tuple[str | None, list[str]]:
    """Return the key that is the reference, and the other keys."""
    known = [key for key in REFERENCE_KEYS if key in references]
    keys = known or [key for key, _ in references.most_common() if "answer" in key or "truth" in key]
    best = next(iter(keys or [key for key, _ in references.most_common()]), None)
    return best, sorted(key for key in references if key != best)

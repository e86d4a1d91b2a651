"""Assign each conversation to a split, or set it aside with a reason.

The split depends only on the group (see splits.py), so that new rows never move existing rows. What is near a held-out
row, or contains one of its turns, is not trained on.
"""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa

from ft_pipeline.settings.project import DataSettings
from ft_pipeline.tables.conversation_rows import ConversationRows
from ft_pipeline.tables.dedup.hashes import PLACES, mix
from ft_pipeline.tables.dedup.matching import first_index
from ft_pipeline.tables.dedup.near_duplicates import find_near
from ft_pipeline.tables.held_out import (
    SuiteTexts,
    capitals_mark_names,
    search_messages,
    standard_answers,
    turns_of_rows,
)
from ft_pipeline.tables.leaks import HeldOutTurns, LeakIndex, Phrases
from ft_pipeline.tables.splits import SPLITS, TEST, TRAIN, VALIDATION, place_in_splits

CODES = ("", "duplicate", "near_duplicate", "train_test_overlap")
DUPLICATE, NEAR_DUPLICATE, OVERLAP = 1, 2, 3
_GOLDEN, _TEST, _VALIDATION, _TRAIN = range(4)
"""Ranks: a row that is near a row of a lower rank is set aside."""


@dataclass
class SplitAssignment:
    """One entry per row of ConversationRows."""

    code: np.ndarray
    """uint8: an index into CODES; 0 if the row is kept."""
    split: np.ndarray
    """uint8: an index into SPLITS."""
    notes: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    """Position → (message, origin of the row that it duplicates or is near to), for rows that are set aside."""
    standard: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Positions of the held-out rows with a standard answer (held_out.MIN_STANDARD_PROMPTS)."""
    answer_phrases: int = 0
    """Number of training rows whose answer, but not whose prompt, shares a phrase with the evaluation suites."""

    def set_aside(self, position: int, code: int, message: str, copy_of: str | None) -> None:
        """Record that a row is set aside, and why."""
        self.code[position] = code
        self.notes[int(position)] = (message, copy_of)


def assign_splits(rows: ConversationRows, settings: DataSettings, suite: SuiteTexts) -> SplitAssignment:
    """Split by group; set aside duplicates across tables, and whatever shows a held-out row or a text of the suites."""
    assignment = SplitAssignment(np.zeros(len(rows), np.uint8), _splits(rows, settings))
    ranks = np.select(
        [rows.golden, assignment.split == TEST, assignment.split == VALIDATION], [_GOLDEN, _TEST, _VALIDATION], _TRAIN
    )
    _drop_equal_across_tables(rows, ranks, assignment)
    _drop_prompts_of_golden_rows(rows, assignment)
    _drop_near(rows, ranks, assignment)
    _drop_leaks(rows, ranks, assignment, suite)
    return assignment


def _splits(rows: ConversationRows, settings: DataSettings) -> np.ndarray:
    """Return the split of each row. Golden test files are the whole test split, unless the project adds them to it."""
    splits = place_in_splits(rows.keys.group, settings)
    if rows.golden.any() and settings.golden_test == "only":
        splits[splits == TEST] = TRAIN
    splits[rows.golden] = TEST
    return splits


def _drop_equal_across_tables(rows: ConversationRows, ranks: np.ndarray, assignment: SplitAssignment) -> None:
    """Set aside rows that equal a row of an earlier table. Golden rows stay.

    Held-out rows are only compared unchanged: no row that is added to another table can take their place.
    """
    positions = np.arange(len(rows))
    tables = rows.table.astype(np.uint64) + np.uint64(1)
    held_out = ranks < _TRAIN
    normal = np.where(held_out, mix(rows.keys.normal ^ tables * PLACES[1]), rows.keys.normal)
    first_equal = first_index(np.where(rows.golden, mix(rows.keys.exact), rows.keys.exact))
    first_normal = first_index(normal)
    for first, code, relation in (
        (first_equal, DUPLICATE, "equal to"),
        (first_normal, NEAR_DUPLICATE, "nearly equal to"),
    ):
        is_copy = (first < positions) & (rows.table[first] != rows.table) & ~rows.golden & (assignment.code == 0)
        for position in np.flatnonzero(is_copy).tolist():
            origin = rows.origin(first[position])
            assignment.set_aside(position, code, f"{relation} {origin}", origin)


def _drop_prompts_of_golden_rows(rows: ConversationRows, assignment: SplitAssignment) -> None:
    """Set aside the other rows that have the prompt of a golden row."""
    golden = np.flatnonzero(rows.golden)
    if not golden.size:
        return
    order = np.concatenate([golden, np.flatnonzero(~rows.golden)])
    first = order[first_index(rows.keys.group[order, 1])]
    for position, original in zip(order[len(golden) :].tolist(), first[len(golden) :].tolist(), strict=True):
        if rows.golden[original] and assignment.code[position] == 0:
            origin = rows.origin(original)
            assignment.set_aside(position, OVERLAP, f"asks the same as the test row {origin}", origin)


def _drop_near(rows: ConversationRows, ranks: np.ndarray, assignment: SplitAssignment) -> None:
    """Set aside rows near a row of a lower rank, and training rows near one of another table."""

    def may_replace(kept: np.ndarray, row: int) -> np.ndarray:
        if ranks[row] == _TRAIN:
            return (ranks[kept] < _TRAIN) | (rows.table[kept] != rows.table[row])
        return ranks[kept] < ranks[row]

    stays = np.flatnonzero(assignment.code == 0)
    order = stays[np.argsort(ranks[stays], kind="stable")]
    for position, original in find_near(rows.keys, order, rows.read_shingles, may_replace).items():
        origin = rows.origin(original)
        if ranks[original] < ranks[position]:
            split = SPLITS[assignment.split[original]]
            assignment.set_aside(position, OVERLAP, f"near the {split} row {origin}", origin)
        else:
            assignment.set_aside(position, NEAR_DUPLICATE, f"nearly equal to {origin}", origin)


def _drop_leaks(rows: ConversationRows, ranks: np.ndarray, assignment: SplitAssignment, suite: SuiteTexts) -> None:
    """Set aside rows that contain a turn of a row of a lower rank, or a text of the suites."""
    stays = assignment.code == 0
    held_out = np.flatnonzero(stays & (ranks < _TRAIN))
    train = np.flatnonzero(stays & (ranks == _TRAIN))
    is_standard = standard_answers(rows.keys, train, held_out)
    assignment.standard = held_out[is_standard]
    # Owners of turns: the texts of the suites, then the held-out rows by rank.
    owners = held_out[np.argsort(ranks[held_out], kind="stable")]
    index = _index(rows, held_out, owners, is_standard, suite)
    searched = np.flatnonzero(stays & (ranks > _TEST))
    search = partial(_search, index=index, phrases=Phrases(suite.questions))
    for positions, (found, in_prompt, in_rest) in rows.map_messages(searched, search):
        for position, owner in zip(positions[found >= 0].tolist(), found[found >= 0].tolist(), strict=True):
            original = owners[owner - len(suite)] if owner >= len(suite) else None
            if original is None:
                if ranks[position] == _TRAIN:
                    assignment.set_aside(position, OVERLAP, f"contains {suite.name(owner)}", None)
            elif ranks[original] < ranks[position]:
                origin = rows.origin(original)
                split = SPLITS[assignment.split[original]]
                assignment.set_aside(position, OVERLAP, f"contains a turn of the {split} row {origin}", origin)
        is_kept = (assignment.code[positions] == 0) & (ranks[positions] == _TRAIN)
        for position in positions[in_prompt & is_kept].tolist():
            message = "its prompt shares 13 words in a row with the evaluation suites"
            assignment.set_aside(position, OVERLAP, message, None)
        assignment.answer_phrases += int((in_rest & ~in_prompt & is_kept).sum())


def _index(
    rows: ConversationRows, held_out: np.ndarray, owners: np.ndarray, is_standard: np.ndarray, suite: SuiteTexts
) -> LeakIndex:
    """Return the index of the suites and of the held-out rows. held_out: their positions, ascending. owners: the same
    positions, in the order of the owners."""
    numbers = np.empty(len(rows), dtype=np.int64)
    numbers[owners] = np.arange(len(suite), len(suite) + len(owners))
    standard = np.zeros(len(rows), dtype=bool)
    standard[held_out[is_standard]] = True
    _, mask_names = next(rows.map_messages(held_out[:SAMPLE_ROWS], _mask_names), (None, None))
    turns: HeldOutTurns = suite.turns(mask_names)
    collect = partial(_collect, numbers=numbers, standard=standard, mask_names=mask_names)
    for _, part in rows.map_messages(held_out, collect):
        turns.extend(part)
    return turns.index()


SAMPLE_ROWS = 4096
"""Number of held-out rows that decide whether capital letters mark names."""


def _mask_names(batch: tuple[pa.Array, np.ndarray]) -> bool:
    return capitals_mark_names(batch[0])


def _collect(
    batch: tuple[pa.Array, np.ndarray], numbers: np.ndarray, standard: np.ndarray, mask_names: bool | None
) -> HeldOutTurns:
    messages, positions = batch
    return turns_of_rows(messages, numbers[positions], standard[positions], mask_names)


def _search(
    batch: tuple[pa.Array, np.ndarray], index: LeakIndex, phrases: Phrases
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return search_messages(batch[0], index, phrases)

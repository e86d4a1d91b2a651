"""Assign each conversation to a split, or set it aside with a reason.

The split depends only on the group, so that new rows never move existing rows.
"""

from dataclasses import dataclass, field

import numpy as np

from ft_pipeline.settings.project import DataSettings
from ft_pipeline.tables.conversation_rows import ConversationRows
from ft_pipeline.tables.dedup.contamination import near_heldout
from ft_pipeline.tables.dedup.minhash import match_against

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
CODES = ("", "duplicate", "near_duplicate", "train_test_overlap")
DUPLICATE, NEAR_DUPLICATE, OVERLAP = 1, 2, 3


@dataclass
class SplitAssignment:
    """One entry per row of ConversationRows."""

    code: np.ndarray
    """uint8: an index into CODES; 0 if the row is kept."""
    split: np.ndarray
    """uint8: an index into SPLITS."""
    notes: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    """Position → (message, origin of the row that it duplicates or is near to), for rows that are set aside."""

    def set_aside(self, position: int, code: int, message: str, copy_of: str | None) -> None:
        """Record that a row is set aside, and why."""
        self.code[position] = code
        self.notes[int(position)] = (message, copy_of)


def assign_splits(staged: ConversationRows, settings: DataSettings) -> SplitAssignment:
    """Set aside duplicates across the tables, and split by group.

    Training rows that are near a held-out row, or whose prompt overlaps the general suite, are set aside too.
    """
    assignment = SplitAssignment(np.zeros(len(staged), np.uint8), place_in_splits(staged.keys.group[:, 1], settings))
    assignment.split[staged.golden] = TEST
    if not staged.compared_already:
        _drop_copies_across_tables(staged, assignment)
        _drop_near_heldout(staged, assignment)
    for position in np.flatnonzero(staged.prompt_hits & (assignment.code == 0) & (assignment.split == TRAIN)).tolist():
        assignment.set_aside(position, OVERLAP, "its prompt shares 13 words in a row with the general suite", None)
    return assignment


def _drop_copies_across_tables(staged: ConversationRows, assignment: SplitAssignment) -> None:
    """Set aside rows that duplicate a row of an earlier table. Golden rows stay.

    Duplicates inside a table have already been set aside.
    """
    for number in range(1, len(staged.tables)):
        earlier = np.flatnonzero((staged.table < number) & (assignment.code == 0) & ~staged.golden)
        later = np.flatnonzero((staged.table == number) & ~staged.golden)
        if not len(earlier) or not len(later):
            continue
        matches = match_against(staged.keys.take(later), staged.keys.take(earlier))
        for position in np.flatnonzero(~matches.kept).tolist():
            origin = staged.origin(earlier[matches.of[position]])
            code, relation = (DUPLICATE, "equal to") if matches.exact[position] else (NEAR_DUPLICATE, "nearly equal to")
            assignment.set_aside(later[position], code, f"{relation} {origin}", origin)


def _drop_near_heldout(staged: ConversationRows, assignment: SplitAssignment) -> None:
    stays = assignment.code == 0
    train, heldout = (
        np.flatnonzero(stays & (assignment.split == TRAIN)),
        np.flatnonzero(stays & (assignment.split != TRAIN)),
    )
    matches = near_heldout(staged.keys.take(train), staged.keys.take(heldout))
    for position in np.flatnonzero(matches >= 0).tolist():
        matched = heldout[matches[position]]
        origin = staged.origin(matched)
        message = f"near the {SPLITS[assignment.split[matched]]} row {origin}, or asks the same"
        assignment.set_aside(train[position], OVERLAP, message, origin)


def split_of(group: str, settings: DataSettings) -> str:
    """Return train, validation or test for a group (32 hex digits of a SHA-256)."""
    return SPLITS[int(place_in_splits(np.array([int(group[16:], 16)], dtype=np.uint64), settings)[0])]


def place_in_splits(low: np.ndarray, settings: DataSettings) -> np.ndarray:
    """Return an index into SPLITS for the low half of each group (uint64).

    The test share takes the lowest hashes and the validation share the next. A larger share takes rows from its
    neighbor and moves no other rows.
    """
    place = low / 2.0**64
    splits = np.full(len(low), TRAIN, dtype=np.uint8)
    splits[place < settings.test_share + settings.validation_share] = VALIDATION
    splits[place < settings.test_share] = TEST
    return splits

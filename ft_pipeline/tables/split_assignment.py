"""What becomes of each conversation: its split, or why it is set aside."""

from dataclasses import dataclass, field

import numpy as np

from ft_pipeline.settings.project import DataSettings
from ft_pipeline.tables.conversation_rows import ConversationRows
from ft_pipeline.tables.dedup.contamination import near_heldout
from ft_pipeline.tables.dedup.minhash import match_against
from ft_pipeline.tables.splits import SPLITS, TEST, TRAIN, place_in_splits

CODES = ("", "duplicate", "near_duplicate", "train_test_overlap")
DUPLICATE, NEAR_DUPLICATE, OVERLAP = 1, 2, 3


@dataclass
class SplitAssignment:
    """One entry per row of Staged."""

    code: np.ndarray
    """uint8, an index of CODES; 0 stays."""
    split: np.ndarray
    """uint8, an index of SPLITS."""
    notes: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    """Position → (message, origin of the row it copies or is near to), of rows that are set aside."""

    def set_aside(self, at: int, code: int, message: str, copy_of: str | None) -> None:
        """Take a row out, once."""
        self.code[at] = code
        self.notes[int(at)] = (message, copy_of)


def assign_splits(staged: ConversationRows, settings: DataSettings) -> SplitAssignment:
    """Drop copies across the tables, split by group, and take out of training what is near a held-out row or the
    general suite."""
    fates = SplitAssignment(np.zeros(len(staged), np.uint8), place_in_splits(staged.keys.group[:, 1], settings))
    fates.split[staged.golden] = TEST
    if not staged.compared_already:
        _drop_copies_across_tables(staged, fates)
        _drop_near_heldout(staged, fates)
    for at in np.flatnonzero(staged.prompt_hits & (fates.code == 0) & (fates.split == TRAIN)).tolist():
        fates.set_aside(at, OVERLAP, "its prompt shares 13 words in a row with the general suite", None)
    return fates


def _drop_copies_across_tables(staged: ConversationRows, fates: SplitAssignment) -> None:
    """ShareGPT rows that an Alpaca row holds already. (Each table has dropped its own copies; golden rows stay.)"""
    first = np.flatnonzero((staged.table == 0) & ~staged.golden)
    second = np.flatnonzero((staged.table == 1) & ~staged.golden)
    if not len(first) or not len(second):
        return
    copies = match_against(staged.keys.take(second), staged.keys.take(first))
    for at in np.flatnonzero(~copies.kept).tolist():
        origin = staged.origin(first[copies.of[at]])
        code, words = (DUPLICATE, "equal to") if copies.exact[at] else (NEAR_DUPLICATE, "nearly equal to")
        fates.set_aside(second[at], code, f"{words} {origin}", origin)


def _drop_near_heldout(staged: ConversationRows, fates: SplitAssignment) -> None:
    stays = fates.code == 0
    train, heldout = np.flatnonzero(stays & (fates.split == TRAIN)), np.flatnonzero(stays & (fates.split != TRAIN))
    found = near_heldout(staged.keys.take(train), staged.keys.take(heldout))
    for at in np.flatnonzero(found >= 0).tolist():
        other = heldout[found[at]]
        origin = staged.origin(other)
        message = f"near the {SPLITS[fates.split[other]]} row {origin}, or asks the same"
        fates.set_aside(train[at], OVERLAP, message, origin)

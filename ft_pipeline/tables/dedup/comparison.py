"""Which of some rows a row is near to, by the shingles that they share and by how many rows have each.

Two rows are near if they share nine tenths of their shingles (of the question and of the answer, each) and, besides,
nine tenths of those that are no boilerplate, or if a third of what they differ in is boilerplate: then they are copies
of one text, which were edited at different places. Two questions under one instruction differ in what few rows have.
"""

from dataclasses import dataclass

import numpy as np

PAIR_ROWS = 2
"""Boilerplate is in more rows: with two rows, nobody can tell an instruction from a copied text."""


@dataclass
class Comparison:
    """The shingles of a row and of others."""

    row_counts: np.ndarray
    """int64 per shingle of the row: how many rows have it; 0 for its answer, which is no boilerplate."""
    other_counts: np.ndarray
    """The same for the shingles of the other rows, one row after the other."""
    begins: np.ndarray
    """int64 per other row: the position of its first shingle."""
    shared: np.ndarray
    """bool per shingle of the other rows: whether the row has it."""
    have: np.ndarray
    """bool per other row and shingle of the row: whether the other row has it."""
    answers: tuple[np.ndarray, np.ndarray] | None = None
    """bool per shingle of the row, and of the others: it is one of the answer. None if only whole rows are compared."""

    def near(self, least: float) -> np.ndarray:
        """Return a bool for each other row. least: boilerplate is in more rows."""
        both = self.row_counts, self.other_counts
        if self.answers is None:
            parts = [tuple(np.ones(len(counts), dtype=bool) for counts in both)]
        else:
            parts = [self.answers, tuple(~is_answer for is_answer in self.answers)]
        share_most, in_one = np.ones(len(self.begins), dtype=bool), np.zeros(len(self.begins), dtype=np.int64)
        for in_row, in_others in parts:
            in_both, in_one_of_part = self._count(in_row, in_others)
            share_most &= in_both >= 9 * in_one_of_part
            in_one += in_one_of_part
        asked = self.row_counts[self.row_counts > 0]
        usual = np.median(asked) if asked.size else 0
        if usual <= least:
            return share_most
        own_in_both, own_in_one = self._count(*(2 * counts <= usual for counts in both))
        # A phrase that still more rows have comes from elsewhere.
        is_usual = ((3 * counts >= 2 * usual) & (2 * counts <= 3 * usual) for counts in both)
        _, usual_in_one = self._count(*is_usual)
        return share_most & ((own_in_both >= 9 * own_in_one) | (3 * usual_in_one >= in_one))

    def _count(self, in_row: np.ndarray, in_others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (in both, in one alone) for each other row: the number of the selected shingles. Both: bool each."""
        in_both = (self.have & in_row).sum(axis=1)
        others_alone = np.add.reduceat((in_others & ~self.shared).astype(np.int64), self.begins)
        return in_both, in_row.sum() - in_both + others_alone

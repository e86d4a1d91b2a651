"""Near copies of held-out rows, of which there may be many: rows that differ in a few words, here and there.

What many training rows have is common and shows nothing (leaks.py). But ten copies of a held-out row, each with other
changed words, have almost everything in common, and each of them shows the row. They differ from it at several places.
Rows that an application makes with one instruction differ from it at one place, by a longer text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ft_pipeline.tables.dedup.windows import WindowIndex, cover, gaps_of, joined

ASKED, ANSWERED, WHOLE_CONVERSATION, OTHER = range(4)
"""What a turn that is searched by windows is: the only question of its owner, an answer, all turns, a question beside
others."""
MIN_COVERED = 0.75
"""Share of the words of a question, or of a whole conversation, that a near copy has."""
MIN_ANSWER_COVERED = 0.5
"""The same for the answer, if it is long enough to be searched."""
MIN_GAPS, MAX_GAP = 2, 16
"""A near copy differs at so many places at least, by at most so many words in a row."""
MAX_COPIES = 32
"""Number of training rows that may have a window that counts here. What more of them have is no copy."""


@dataclass(frozen=True)
class SearchedTurns:
    """The turns that are searched by windows, by number."""

    owner: np.ndarray
    """int32"""
    role: np.ndarray
    """uint8: ASKED, ANSWERED, WHOLE_CONVERSATION or OTHER."""
    length: np.ndarray
    """int32: the number of words."""

    @classmethod
    def join(cls, parts: "Sequence[SearchedTurns]") -> "SearchedTurns":
        """Return all turns."""
        return cls(*joined(parts, owner=np.int32, role=np.uint8, length=np.int32))


def near_copies(
    index: WindowIndex, turns: SearchedTurns, common: np.ndarray, documents: np.ndarray, windows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (documents, owners): the documents that are near copies of a row whose windows are common.

    common: bool per window. documents, windows: of each window that was found, also of those that are common.
    """
    hits, postings = index.turns_of(windows)
    has_common = np.zeros(len(turns.owner), dtype=bool)
    has_common[index.turn[index.turns_of(np.flatnonzero(common))[1]]] = True
    owners_with_common = np.zeros(int(turns.owner.max(initial=-1)) + 1, dtype=bool)
    owners_with_common[turns.owner[has_common]] = True
    kept = owners_with_common[turns.owner[index.turn[postings]]]
    document, turn, place = documents[hits[kept]], index.turn[postings[kept]], index.place[postings[kept]]
    covered = cover(document, turn, place)
    role, length = turns.role[covered.turn], turns.length[covered.turn]
    gaps, longest = gaps_of(document, turn, place, turns.length)
    is_copy = (covered.words >= MIN_COVERED * length) & (gaps >= MIN_GAPS) & (longest <= MAX_GAP)
    is_copy &= (role == ASKED) | (role == WHOLE_CONVERSATION)
    shows_answer = (role == ANSWERED) & (covered.words >= MIN_ANSWER_COVERED * length)
    has_answer = np.zeros(len(owners_with_common), dtype=bool)
    has_answer[turns.owner[turns.role == ANSWERED]] = True
    pairs = covered.key << 32 | turns.owner[covered.turn]
    owner = turns.owner[covered.turn]
    is_copy &= ~has_answer[owner] | np.isin(pairs, pairs[shows_answer])
    return covered.key[is_copy], owner[is_copy]

"""Rows that are near as a whole stay in one split: the same text with a few words changed here and there.

Each row is compared with the first rows that share windows with it (dedup/lowest_windows.py), in the order of a
hash of their content. It joins one that it is near to and that joined no other: near to near is not near.
"""

from dataclasses import dataclass, field

import numpy as np

from ft_pipeline.tables.conversation_rows import ConversationRows
from ft_pipeline.tables.dedup.hashes import PLACES, WINDOW, mix
from ft_pipeline.tables.dedup.keys import read_windows
from ft_pipeline.tables.dedup.lowest_windows import NONE, common_windows, share_windows, triples_of
from ft_pipeline.tables.dedup.matching import first_index
from ft_pipeline.tables.dedup.shingles import ANSWER
from ft_pipeline.tables.dedup.windows import cover, gaps_of
from ft_pipeline.tables.leak_copies import MAX_GAP, MIN_COVERED, MIN_GAPS

MIN_WORDS = 20
"""Number of words from which a row is compared. In a shorter one, a few words are its content."""
MAX_SHARE = 0.1
"""Share of the rows from which a group is not kept together: it says more of the data than of a text."""
BOILERPLATE = 0.5
"""Share of the rows from which on those that have a window in common do not resemble each other by it."""
MAX_ROWS = 1_000_000
"""Number of rows that share windows up to which rows are compared: this bounds the time and the memory."""
BLOCK_PAIRS = 20_000
"""Number of pairs of rows that are compared at a time."""


@dataclass
class NearGroups:
    """Which rows are near others."""

    group: np.ndarray
    """uint64, shape (rows, 2): the group of each row, that of the row that it is near to."""
    joined: int = 0
    """Number of rows that joined others."""
    large: list[tuple[str, int]] = field(default_factory=list)
    """(origin of a row, number of rows) of groups that are too large to be kept together."""


def near_groups(rows: ConversationRows) -> NearGroups:
    """Return the groups of the rows: of each prompt, or of one that it is near to as a whole.

    Golden rows and rows of a named group stay where they are.
    """
    result = NearGroups(rows.keys.group)
    units = first_index(rows.keys.group[:, 1])
    compared = np.flatnonzero((units == np.arange(len(rows))) & ~rows.golden & ~rows.keys.has_own_group)
    windows = read_windows([folder / "keys.parquet" for folder in rows.folders.values()])[compared]
    shared = share_windows(windows)
    compared, windows = compared[shared], windows[shared]
    if not 1 < len(compared) <= MAX_ROWS:
        return result
    order = np.argsort(mix(rows.keys.group[compared, 1] ^ rows.keys.answer[compared]), kind="stable")
    compared = compared[order]
    centers = _centers(_Texts.of(rows, compared), _pairs(_without_boilerplate(windows[order], len(rows))))
    center_of = np.arange(len(rows))
    center_of[compared] = compared[centers]
    center_of = center_of[units]
    counts = np.bincount(center_of, minlength=len(rows))
    own = np.bincount(units, minlength=len(rows))
    too_large = (counts > max(MAX_SHARE * len(rows), 2)) & (counts > own)
    result.large = [(rows.origin(at), int(counts[at])) for at in np.flatnonzero(too_large).tolist()]
    center_of = np.where(too_large[center_of], units, center_of)
    result.joined = int((center_of != units).sum())
    result.group = rows.keys.group[center_of]
    return result


def _without_boilerplate(windows: np.ndarray, rows: int) -> np.ndarray:
    """Return the windows with NONE in the place of those of an instruction that many rows share."""
    distinct, numbers, counts = np.unique(windows, return_inverse=True, return_counts=True)
    distinct[counts > BOILERPLATE * rows] = NONE
    return distinct[numbers.reshape(windows.shape)]


def _pairs(windows: np.ndarray) -> np.ndarray:
    """Return the pairs of a row and the first one that shares windows with it, ascending; shape (2, pairs).

    windows: of each row, as `lowest_windows` returns them.
    """
    common, windows, first = common_windows(windows)
    parts = [_distinct(common, common[first])]
    for triples, rows in triples_of(windows, first):
        order = np.argsort(rows, kind="stable")
        rows = common[rows[order]]
        parts.append(_distinct(rows, rows[first_index(triples[order])]))
    return _distinct(*np.concatenate(parts, axis=1))


def _centers(texts: "_Texts", pairs: np.ndarray) -> np.ndarray:
    """Return, for each row, the one that it joins, or itself. pairs: of rows that may be near."""
    pairs = pairs[:, texts.are_near(*pairs)]
    centers = np.arange(len(texts.lengths))
    has_members = np.zeros(len(centers), dtype=bool)
    for row, leader in pairs.T.tolist():  # ascending
        if centers[row] == row and centers[leader] == leader and not has_members[row]:
            centers[row] = leader
            has_members[leader] = True
    # A row whose leader joined another may be near to that one, too.
    alone = pairs[:, (centers[pairs[0]] == pairs[0]) & ~has_members[pairs[0]]]
    second = _distinct(alone[0], centers[alone[1]])
    for row, center in second[:, texts.are_near(*second)].T.tolist():
        if centers[row] == row and not has_members[row]:
            centers[row] = center
    return centers


def _distinct(row: np.ndarray, leader: np.ndarray) -> np.ndarray:
    """Return the distinct pairs of a row and one that comes before it, ascending; shape (2, pairs)."""
    before = leader < row
    keys = np.unique(row[before] << 32 | leader[before])
    return np.stack([keys >> 32, keys & 0xFFFFFFFF])


@dataclass
class _Texts:
    """The shingles of some rows, in the order of their words."""

    shingles: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    known: np.ndarray
    """uint64, ascending: each shingle together with its row."""

    @classmethod
    def of(cls, rows: ConversationRows, compared: np.ndarray) -> "_Texts":
        order = np.argsort(compared)
        shingles, lengths, _ = rows.read_shingles(compared[order])
        starts, of_rows = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
        starts[order], of_rows[order] = np.cumsum(lengths) - lengths, lengths
        plain = shingles & ~ANSWER
        known = np.sort(_together(plain, np.repeat(order, lengths)))
        return cls(plain, starts, of_rows, known)

    def are_near(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return a bool for each pair of rows."""
        words = self.lengths + WINDOW - 1
        smaller, larger = np.minimum(words[first], words[second]), np.maximum(words[first], words[second])
        near = (smaller >= MIN_WORDS) & (smaller >= MIN_COVERED * larger)
        places = np.flatnonzero(near)
        for begin in range(0, len(places), BLOCK_PAIRS):
            block = places[begin : begin + BLOCK_PAIRS]
            near[block] = self._is_covered(first[block], second[block]) & self._is_covered(second[block], first[block])
        return near

    def _is_covered(self, row: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return whether each row differs from the other at several places, by few words each."""
        lengths = self.lengths[row]
        pairs = np.repeat(np.arange(len(row)), lengths)
        places = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        wanted = _together(self.shingles[self.starts[row][pairs] + places], other[pairs])
        at = np.minimum(np.searchsorted(self.known, wanted), len(self.known) - 1)
        shared = self.known[at] == wanted
        pairs, places = pairs[shared], places[shared]
        words = lengths + WINDOW - 1
        covered = cover(np.zeros(len(pairs), np.int64), pairs, places, WINDOW)
        gaps, longest = gaps_of(np.zeros(len(pairs), np.int64), pairs, places, words, WINDOW)
        is_near = np.zeros(len(row), dtype=bool)
        enough = covered.words >= MIN_COVERED * words[covered.turn]
        is_near[covered.turn] = enough & (gaps >= MIN_GAPS) & (longest <= MAX_GAP)
        return is_near


def _together(shingles: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return mix(shingles ^ mix(rows.astype(np.uint64) * PLACES[1] + np.uint64(1)))

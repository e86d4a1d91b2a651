"""Sliding windows of words: every 4 words in a row of a text, and an index of those of some turns.

Numbers are masked in a window in which they are at most half of it: "order 10432" and "order 99817" are one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ft_pipeline.tables.dedup.hashes import SpanHashes, run_starts
from ft_pipeline.tables.dedup.in_threads import in_threads
from ft_pipeline.tables.dedup.templates import MASK
from ft_pipeline.tables.dedup.tokens import NUMBER, Tokens

WORDS = 4
"""Number of words in a window; characters of scripts without spaces are words. benchmarks/leaks.py compares others."""
MAX_MASKED = 2
"""Number of masked numbers in a window. With more of them, they are its content."""
MAX_TURNS = 16
"""Number of turns that may have a window. One that more turns have is a stock phrase, and left out of the index."""
_FILTER_BITS = range(16, 30)
"""The first test of a window is a table of so many bits of its hash that about one of 32 windows passes by chance. The
table itself has one bit per entry, so that it stays in the processor's cache."""
_PARTS_BITS = 2
"""The index is sorted in parts, one for each value of so many upper bits."""
_BIT = np.left_shift(1, np.arange(8)).astype(np.uint8)
_BLOCK = 1 << 20
"""Number of windows that are looked at together, in temporary arrays of 8 bytes for each."""


def _blocks(count: int) -> Iterator[slice]:
    return (slice(begin, begin + _BLOCK) for begin in range(0, count, _BLOCK))


def windows_of(words: Tokens, masks_numbers: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 of each window, position of its first word). The words are without signs."""
    windows, ends = words.span_hashes.windows(WORDS), words.ends
    inside = np.ones(len(windows), dtype=bool)
    for back in range(1, WORDS):  # a window that begins here would extend into the next text
        starts = ends - back
        inside[starts[(starts >= 0) & (starts < len(windows))]] = False
    begins = np.flatnonzero(inside)
    hashes = windows[begins]
    if masks_numbers and (is_number := words.kinds == NUMBER).any():
        before = np.concatenate([[0], np.cumsum(is_number)])
        masks = before[begins + WORDS] - before[begins]
        is_masked = (masks > 0) & (masks <= MAX_MASKED)
        masked = SpanHashes(np.where(is_number, MASK, words.hashes)).windows(WORDS)[begins]
        hashes = np.where(is_masked, masked, hashes)
    return hashes, begins


class HashFilter:
    """A quick test whether a hash may be one of some hashes: a table of bits."""

    def __init__(self, hashes: np.ndarray) -> None:
        bits = min(max((32 * len(hashes)).bit_length(), _FILTER_BITS[0]), _FILTER_BITS[-1])
        # By the upper bits, hashes in order fill the table from its begin to its end.
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << (bits - 3), dtype=np.uint8)
        for part in _blocks(len(hashes)):
            places = hashes[part] >> self._shift
            np.bitwise_or.at(self._table, places >> np.uint64(3), _BIT[places & np.uint64(7)])

    def passing(self, hashes: np.ndarray) -> np.ndarray:
        """Return the positions of the hashes that may be among them."""
        places = hashes >> self._shift
        return np.flatnonzero(self._table[places >> np.uint64(3)] & _BIT[places & np.uint64(7)])


def joined(parts: Sequence[Any], **types: type) -> Iterator[np.ndarray]:
    """Yield each column of all parts. types: by the name of the column."""
    for name, dtype in types.items():
        yield np.concatenate([np.empty(0, dtype), *(getattr(part, name) for part in parts)])


@dataclass(frozen=True)
class Postings:
    """Windows of turns: one entry for each window and turn."""

    hashes: np.ndarray
    """uint64"""
    turn: np.ndarray
    """int32: the number of the turn."""
    place: np.ndarray
    """uint16: the position in the turn."""

    @classmethod
    def join(cls, parts: "Sequence[Postings]") -> "Postings":
        """Return all postings."""
        return cls(*joined(parts, hashes=np.uint64, turn=np.int32, place=np.uint16))

    def select(self, kept: np.ndarray) -> "Postings":
        """Return some of the postings. kept: a bool for each, or their positions."""
        return Postings(self.hashes[kept], self.turn[kept], self.place[kept])


@dataclass(frozen=True)
class Covered:
    """How many words of turns are in windows: an entry for each pair of a key and a turn."""

    key: np.ndarray
    """int64"""
    turn: np.ndarray
    """int64"""
    words: np.ndarray
    """int64: the number of words of the turn in its windows, each counted once."""


def cover(key: np.ndarray, turn: np.ndarray, place: np.ndarray, size: int = WORDS) -> Covered:
    """Return how many words of each turn the windows cover that have one key. All: one entry per window.

    size: the number of words of a window.
    """
    key, turn, place, begins = _in_order(key, turn, place)
    # A window adds the words that do not overlap with the window before it.
    new = np.full(len(key), size)
    new[1:] = np.where(begins[1:], size, np.minimum(place[1:] - place[:-1], size))
    starts = np.flatnonzero(begins)
    words = np.add.reduceat(new, starts) if len(starts) else new
    return Covered(key[starts], turn[starts], words)


def gaps_of(
    key: np.ndarray, turn: np.ndarray, place: np.ndarray, lengths: np.ndarray, size: int = WORDS
) -> tuple[np.ndarray, np.ndarray]:
    """Return (number of gaps, words in the longest one) of each pair of `cover`: words of the turn that are in none of
    the windows. lengths: the number of words of each turn."""
    key, turn, place, begins = _in_order(key, turn, place)
    before = place.copy()
    before[1:] = np.where(begins[1:], place[1:], place[1:] - place[:-1] - size)
    starts = np.flatnonzero(begins)
    if not len(starts):
        return starts, starts
    after = lengths[turn[starts]] - place[np.append(starts[1:], len(place)) - 1] - size
    gaps = np.add.reduceat((before > 0).astype(np.int64), starts) + (after > 0)
    return gaps, np.maximum(np.maximum.reduceat(before, starts), after)


def _in_order(
    key: np.ndarray, turn: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the columns in order, as int64, and whether each entry is the first of its key and turn."""
    order = np.lexsort((place, turn, key))
    key, turn, place = key[order], turn[order].astype(np.int64), place[order].astype(np.int64)
    begins = np.ones(len(key), dtype=bool)
    begins[1:] = (key[1:] != key[:-1]) | (turn[1:] != turn[:-1])
    return key, turn, place, begins


class WindowIndex:
    """The windows of turns, sorted by their hash."""

    def __init__(self, postings: list[Postings]) -> None:
        """postings: of all turns. To save memory, the list is emptied."""
        ordered = in_threads(partial(_ordered_part, postings), range(1 << _PARTS_BITS))
        postings.clear()
        postings_in_order = Postings.join(ordered)
        ordered.clear()
        starts = run_starts(postings_in_order.hashes)
        self.hashes = postings_in_order.hashes[starts]
        """uint64: the distinct windows, ascending."""
        self.starts = np.append(starts, len(postings_in_order.hashes))
        self.turn, self.place = postings_in_order.turn, postings_in_order.place
        del postings_in_order, starts
        self._filter = HashFilter(self.hashes)

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (position in `hashes`, number of the window) of each hash that is in the index."""
        places = self._filter.passing(hashes) if len(self) else np.empty(0, np.int64)
        places = places[np.argsort(hashes[places])]  # in order of the windows, the search stays in the cache
        numbers = np.minimum(np.searchsorted(self.hashes, hashes[places]), max(len(self) - 1, 0))
        known = self.hashes[numbers] == hashes[places] if len(self) else np.empty(0, dtype=bool)
        return places[known], numbers[known]

    def turns_of(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (index in `windows`, position of a posting) for each turn that has one of these windows."""
        counts = self.starts[windows + 1] - self.starts[windows]
        places = np.repeat(self.starts[windows] - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))
        return np.repeat(np.arange(len(windows)), counts), places

    def _parts(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Yield (some windows, their postings, the number of postings of each)."""
        for windows in _blocks(len(self)):
            starts = self.starts[windows.start : windows.stop + 1]
            yield windows, slice(starts[0], starts[-1]), np.diff(starts)

    def own_words(self, is_found: np.ndarray, common: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return, for each turn that has a window that was found, how many of its words are in windows that are not
        common; 0 for other turns.

        is_found, common: bool per window. lengths: the number of words of each turn.
        """
        is_asked = np.zeros(len(lengths), dtype=bool)
        for windows, postings, counts in self._parts():
            is_asked[self.turn[postings][np.repeat(is_found[windows], counts)]] = True
        # The last window of a turn that is longer than MAX_PLACES ends after it.
        sizes = np.where(is_asked, lengths.astype(np.int64) + WORDS, 0)
        begins = np.cumsum(sizes) - sizes
        covered = np.zeros(int(sizes.sum()), dtype=bool)
        for windows, postings, counts in self._parts():
            turn, place = self.turn[postings], self.place[postings]
            counted = np.repeat(~common[windows], counts) & is_asked[turn]
            covered[begins[turn[counted]] + place[counted]] = True
        for _ in range(WORDS - 1):  # in order, which is faster than where each window ends
            covered[1:] |= covered[:-1]
        own = np.zeros(len(lengths), dtype=np.int64)
        if len(covered):
            own[is_asked] = np.add.reduceat(covered, begins[is_asked], dtype=np.int64)
        return own


def _ordered_part(postings: Sequence[Postings], part: int) -> Postings:
    """Return the postings of a part of the index, in order of their windows. Those that too many turns have are left
    out."""
    upper = np.uint64(64 - _PARTS_BITS)
    of_part = Postings.join([some.select(some.hashes >> upper == part) for some in postings])
    of_part = of_part.select(np.argsort(of_part.hashes))
    starts = run_starts(of_part.hashes)
    counts = np.diff(np.append(starts, len(of_part.hashes)))
    if (counts <= MAX_TURNS).all():
        return of_part
    return of_part.select(np.repeat(counts <= MAX_TURNS, counts))

"""Near duplicates: rows whose questions and answers share nine tenths of their 3-word shingles, without boilerplate.

They are found in three steps. The windows that rows are known by (lowest_windows.py) select those that are probably
near another row; only their texts are read again. Their rarest shingles select the pairs to compare. An exact count
over the shingle sets decides.

Two sets with Jaccard >= 9/10 share at least one of the rarest tenth of their shingles. So the second step loses no
duplicate (except by MAX_POSTINGS), and a million rows of one template are not all compared with each other.

Boilerplate is what several rows share beside the answer, such as the instructions that an application sends with
every request. By it, rows that differ only in a short question would all be near each other (comparison.py).
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import IO

import numpy as np

from ft_pipeline.tables.dedup.comparison import PAIR_ROWS, Comparison
from ft_pipeline.tables.dedup.hashes import run_starts
from ft_pipeline.tables.dedup.keys import Keys
from ft_pipeline.tables.dedup.lowest_windows import share_windows
from ft_pipeline.tables.dedup.shingles import ANSWER

BLOCK_SHINGLES, BLOCK_ROWS = 4_000_000, 1 << 16
"""Number of shingles, and of their rows, that are sorted at a time."""
MAX_POSTINGS = 256
"""Rows remembered per shingle, which are the first ones that have it. Limits the work on hostile data: a duplicate of a
row that is not remembered may be missed."""
MAX_CANDIDATES = 32
"""Rows that a row is compared with: those with which it shares the most rare shingles."""
RARITY_BITS = 22
"""Shingles are counted by this many of their bits, in 32 MiB. Shingles that agree in these bits count as one."""
MIN_EMPTY = 0.001
"""Share of empty places from which their number tells how full all are."""
_FREQUENCY_BITS = 40
"""A frequency has at most so many bits."""
MEMORY_BYTES = 1 << 30
"""Shingles of more bytes are in a temporary file."""

ReadShingles = Callable[[np.ndarray], tuple[np.ndarray, ...]]
"""Returns (uint64 shingles, int64 number per row, uint64 of each row's answer, which near rows have in common) of the
rows at these positions, which ascend. Without the last, only whole rows are compared."""
MayReplace = Callable[[np.ndarray, int], np.ndarray]
"""Returns a bool for each of some rows: whether it may take the place of the given row, which is near it."""


class Spill:
    """Numbers that are appended: in memory, and from MEMORY_BYTES on in a temporary file."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None

    def append(self, numbers: np.ndarray) -> None:
        """Append uint64 numbers."""
        self._parts.append(numbers)
        self._bytes += numbers.nbytes
        if self._bytes > MEMORY_BYTES:
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
            for part in self._parts:
                part.tofile(self._file)
            self._file.flush()
            self._parts, self._bytes = [], MEMORY_BYTES

    def read(self) -> np.ndarray:
        """Return all numbers."""
        if self._file is None:
            return np.concatenate(self._parts) if self._parts else np.empty(0, dtype=np.uint64)
        return np.memmap(self._file, dtype=np.uint64, mode="r")


def find_near(
    keys: Keys, rows: np.ndarray, read_shingles: ReadShingles, may_replace: MayReplace | None = None
) -> dict[int, int]:
    """Return row → the first kept row before it that the row nearly equals. Rows without such a row are left out.

    rows: positions in the keys, in the order in which they are kept. may_replace: None compares all rows.
    """
    rows = rows[share_windows(keys.windows, compared=rows)[rows]]
    if not len(rows):
        return {}
    ascending = np.sort(rows)
    sets = ShingleSets.of_rows(*read_shingles(ascending))
    frequencies = sets.frequencies(enough_bits(len(sets.shingles)))
    rare = drop_unshared(*select_rarest(sets, frequencies))
    return match_sets(ascending, np.searchsorted(ascending, rows), sets, rare, frequencies, may_replace)


@dataclass
class ShingleSets:
    """The sets of shingles of rows."""

    shingles: np.ndarray
    """uint64: the distinct shingles of each row, ascending, row after row."""
    starts: np.ndarray
    """int64 per row: the position of its first shingle."""
    sizes: np.ndarray
    """int64 per row: its number of distinct shingles."""
    answers: np.ndarray | None = None
    """uint64 per row: what answers of near rows have in common."""

    @classmethod
    def of_rows(cls, shingles: np.ndarray, lengths: np.ndarray, answers: np.ndarray | None = None) -> "ShingleSets":
        """Return the sets of rows, from their shingles in any order."""
        sets, sizes = Spill(), np.zeros(len(lengths), dtype=np.int64)
        for begin, end, first, last in _blocks(lengths):
            owners, block = np.repeat(np.arange(begin, end), lengths[begin:end]), shingles[first:last]
            # By shingle, then (stable) by row: in 16 bits numpy does it without comparisons. Faster than lexsort.
            order = np.argsort(block)
            order = order[np.argsort((owners[order] - begin).astype(np.uint16), kind="stable")]
            owners, block = owners[order], block[order]
            distinct = np.ones(len(block), dtype=bool)
            distinct[1:] = (block[1:] != block[:-1]) | (owners[1:] != owners[:-1])
            sets.append(block[distinct])
            sizes[begin:end] = np.bincount(owners[distinct] - begin, minlength=end - begin)
        return cls(sets.read(), np.cumsum(sizes) - sizes, sizes, answers)

    def of(self, row: int) -> np.ndarray:
        return self.shingles[self.starts[row] : self.starts[row] + self.sizes[row]]

    def compare(self, row: int, others: np.ndarray, counts: np.ndarray) -> Comparison:
        """Compare a row with others. counts: of rows, for each value of a shingle's lowest bits."""
        row_set, sizes = self.of(row), self.sizes[others]
        begins = np.cumsum(sizes) - sizes
        shingles = self.shingles[np.repeat(self.starts[others] - begins, sizes) + np.arange(int(sizes.sum()))]
        places = np.minimum(np.searchsorted(row_set, shingles), len(row_set) - 1)
        shared = row_set[places] == shingles
        have = np.zeros((len(others), len(row_set)), dtype=bool)
        have[np.repeat(np.arange(len(others)), sizes)[shared], places[shared]] = True
        answers = row_set >= ANSWER, shingles >= ANSWER
        of_row, of_others = (
            np.where(is_answer, 0, counts[_places(part, counts)])
            for part, is_answer in zip((row_set, shingles), answers, strict=True)
        )
        return Comparison(of_row, of_others, begins, shared, have, None if self.answers is None else answers)

    def frequencies(self, bits: int = RARITY_BITS) -> np.ndarray:
        """Return, for each value of a shingle's lowest bits, the number of sets that have it."""
        frequencies = np.zeros(1 << bits, dtype=np.int64)
        for _, _, first, last in _blocks(self.sizes):
            places = _places(self.shingles[first:last], frequencies)
            frequencies += np.bincount(places, minlength=len(frequencies))
        return frequencies


def enough_bits(shingles: int) -> int:
    """Return the number of bits by which so few shingles can be told apart: a table of few rows needs no long count."""
    return min(RARITY_BITS, (shingles << 6).bit_length())


def _blocks(lengths: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first row, end, first shingle, end) of consecutive rows with about BLOCK_SHINGLES shingles together.

    There are at most BLOCK_ROWS of them.
    """
    ends = np.cumsum(lengths)
    begin = 0
    while begin < len(lengths):
        done = int(ends[begin - 1]) if begin else 0
        end = min(max(int(np.searchsorted(ends, done + BLOCK_SHINGLES)), begin + 1), begin + BLOCK_ROWS)
        yield begin, end, done, int(ends[end - 1])
        begin = end


@dataclass
class RareShingles:
    """The rarest shingles of each row that another row's rarest shingles include, too."""

    owners: np.ndarray
    """int64, ascending: the row of each shingle."""
    ids: np.ndarray
    """int64: a number for each shingle, equal for equal shingles."""


def select_rarest(sets: ShingleSets, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (owners, shingles) of the rarest shingles of each set; the owners ascend. With different answers, equal
    shingles become different ones, so that their rows are not compared.

    frequencies: over all sets that are compared, also those that are not in `sets`.
    """
    parts = []
    for begin, end, first, last in _blocks(sets.sizes):
        owners = np.repeat(np.arange(begin, end), sets.sizes[begin:end])
        parts.append(_rarest(owners, sets.shingles[first:last], frequencies))
    owners, shingles = (np.concatenate(column) for column in zip(*parts, strict=True))
    return owners, shingles if sets.answers is None else shingles ^ sets.answers[owners]


def drop_unshared(owners: np.ndarray, shingles: np.ndarray) -> RareShingles:
    """Drop the rare shingles that only one row has among its own."""
    _, ids, counts = np.unique(shingles, return_inverse=True, return_counts=True)
    is_shared = counts[ids] > 1
    return RareShingles(owners[is_shared], ids[is_shared])


def _rare_count(sizes: np.ndarray) -> np.ndarray:
    """Return how many of n distinct shingles are rare: n - ceil(9n/10) + 1."""
    return sizes - (9 * sizes + 9) // 10 + 1


def _places(shingles: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Return the place of each shingle among the frequencies: its lowest bits."""
    return (shingles & np.uint64(len(frequencies) - 1)).astype(np.int64)


def _rarest(owners: np.ndarray, shingles: np.ndarray, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (owners, shingles) of the rarest n - ceil(9n/10) + 1 of each row's n distinct shingles.

    A set with Jaccard >= 9/10 to the row's has at least ceil(9n/10) of its shingles, and so one of these. The
    shingles of each row ascend, and a stable sort decides ties by them: the order must be the same for all rows.
    """
    order = np.argsort(
        (owners - owners[0] << _FREQUENCY_BITS) + frequencies[_places(shingles, frequencies)], kind="stable"
    )
    owners, shingles = owners[order], shingles[order]
    starts = run_starts(owners)
    sizes = np.diff(np.append(starts, len(owners)))
    rank = np.arange(len(owners)) - np.repeat(starts, sizes)
    is_rare = rank < np.repeat(_rare_count(sizes), sizes)
    return owners[is_rare], shingles[is_rare]


def match_sets(
    rows: np.ndarray,
    order: np.ndarray,
    sets: ShingleSets,
    rare: RareShingles,
    frequencies: np.ndarray,
    may_replace: MayReplace | None,
) -> dict[int, int]:
    """Return row → the first kept row before it that the row nearly equals.

    rows: the row of each set. order: the sets in the order in which they are kept. frequencies: as for select_rarest.
    """
    chance = _agreeing(frequencies)
    counts, least = frequencies - int(chance), PAIR_ROWS + 2 * chance

    def may_replace_set(candidates: np.ndarray, number: int) -> np.ndarray:
        return may_replace(rows[candidates], int(rows[number]))  # type: ignore[misc]

    def are_near(candidates: np.ndarray, number: int) -> np.ndarray:
        return sets.compare(number, candidates, counts).near(least)

    matches = _match_in_order(sets, order, rare, may_replace_set if may_replace else None, are_near)
    return {int(rows[number]): int(rows[original]) for number, original in matches}


def _agreeing(frequencies: np.ndarray) -> float:
    """Return how many other shingles, about, agree with a shingle in the bits by which they are counted.

    Of places that are taken at random, a share of exp(-number for each place) stays empty.
    """
    empty = np.count_nonzero(frequencies == 0) / len(frequencies)
    return -float(np.log(empty)) if empty > MIN_EMPTY else float(np.median(frequencies))


def _match_in_order(
    sets: ShingleSets, order: np.ndarray, rare: RareShingles, may_replace: MayReplace | None, are_near: MayReplace
) -> Iterator[tuple[int, int]]:
    """Go through the sets in this order. Compare each with the kept sets that share enough rare shingles with it."""
    begins, ends = (np.searchsorted(rare.owners, order, side=side) for side in ("left", "right"))
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    rows_by_id: dict[int, list[int]] = {}
    for row, begin, end in zip(order.tolist(), begins.tolist(), ends.tolist(), strict=True):
        shingle_ids = rare.ids[begin:end].tolist()
        lists = [rows_by_id[shingle] for shingle in shingle_ids if shingle in rows_by_id]
        candidates = _sharing_enough(sets, row, lists)
        if may_replace is not None and candidates.size:
            candidates = candidates[may_replace(candidates, row)]
        candidates = _of_similar_size(sets, row, candidates)
        near = candidates[are_near(candidates, row)] if candidates.size else candidates
        if near.size:
            yield row, int(near[np.argmin(places[near])])
            continue
        for shingle in shingle_ids:
            remembered = rows_by_id.setdefault(shingle, [])
            if len(remembered) < MAX_POSTINGS:
                remembered.append(row)


def _sharing_enough(sets: ShingleSets, row: int, lists: list[list[int]]) -> np.ndarray:
    """Return the rows in the lists, ascending, that are in enough of them. lists: the kept rows with each rare shingle.

    Two sets of a and b shingles with Jaccard >= 9/10 have at least o = 9(a + b)/19 in common, so that the first misses
    at most a - o shingles of the other. Of its rarest a - ceil(9a/10) + 1, at least that many less a - o are in both,
    and among the rarest of both; the same holds for b. Letters built of the same parts share a few of them.
    """
    if not lists:
        return np.empty(0, np.int64)
    rows, counts = np.unique(np.fromiter(chain.from_iterable(lists), np.int64), return_counts=True)
    # A full list may lack rows, so that fewer are wanted, but half of them. The nearest rows share the most.
    full = sum(len(remembered) >= MAX_POSTINGS for remembered in lists)
    common = -(-9 * (sets.sizes[row] + sets.sizes[rows]) // 19)
    wanted = np.minimum(*(_rare_count(size) - (size - common) for size in (sets.sizes[row], sets.sizes[rows])))
    enough = np.flatnonzero(counts >= np.maximum(wanted - full, (wanted + 1) // 2))
    if len(enough) > MAX_CANDIDATES:
        enough = np.sort(enough[np.argsort(-counts[enough], kind="stable")[:MAX_CANDIDATES]])
    return rows[enough]


def _of_similar_size(sets: ShingleSets, row: int, candidates: np.ndarray) -> np.ndarray:
    """Return the candidates that are not too large or small to share nine tenths with the row."""
    row_size, sizes = sets.sizes[row], sets.sizes[candidates]
    return candidates[10 * np.minimum(row_size, sizes) >= 9 * np.maximum(row_size, sizes)]

"""Which rows duplicate others: equal, equal after normalization, or near."""

from dataclasses import dataclass

import numpy as np

from ft_pipeline.tables.dedup.hashes import PLACES, mix, run_starts
from ft_pipeline.tables.dedup.keys import Keys, merge
from ft_pipeline.tables.dedup.near_duplicates import ReadShingles, find_near

TRAIN_RANK = 2
PART_KEYS = 1 << 20
"""Number of keys that are sorted at a time: this bounds the memory."""


@dataclass
class DuplicateMatches:
    """For each row, the row that it duplicates."""

    of: np.ndarray
    """int64: the position of the row that it duplicates, -1 if it is kept."""
    exact: np.ndarray
    """bool: the strings are equal."""

    @property
    def kept(self) -> np.ndarray:
        return self.of < 0


def first_index(keys: np.ndarray) -> np.ndarray:
    """Return, for each hash, the position of its first occurrence. A part of the hashes is sorted at a time."""
    if len(keys) <= PART_KEYS:
        return _first_index(keys)
    result = np.empty(len(keys), dtype=np.int64)
    for positions in divide(keys, -(-len(keys) // PART_KEYS)):
        result[positions] = positions[_first_index(keys[positions])]
    return result


def divide(hashes: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the positions of the hashes of each of `count` parts, ascending. Equal hashes are in one part."""
    parts = (mix(hashes.astype(np.uint64)) % np.uint64(count)).astype(np.min_scalar_type(count))
    order = np.argsort(parts, kind="stable")
    return np.split(order, np.cumsum(np.bincount(parts, minlength=count))[:-1])


def _first_index(keys: np.ndarray) -> np.ndarray:
    order = np.argsort(keys)  # not stable, and three times as fast
    ordered = keys[order]
    starts = run_starts(ordered)
    result = np.empty(len(keys), dtype=np.int64)
    if len(keys):
        first = np.minimum.reduceat(order, starts)
        result[order] = np.repeat(first, np.diff(np.append(starts, len(keys))))
    return result


def find_duplicates(
    keys: Keys,
    read_shingles: ReadShingles,
    ranks: np.ndarray | None = None,
    files: np.ndarray | None = None,
) -> DuplicateMatches:
    """Find duplicates. Of equal rows, and of rows near each other, the first is kept.

    ranks: 0 test, 1 validation, 2 train; without ranks, all rows are training rows. Rows of a lower rank come first.
    files: the file of each row. A held-out row is dropped only for an equal row, for a row of a lower rank, or for a
    row of its own file: so no file that is added can take its place.
    """
    count = len(keys)
    positions = np.arange(count)
    ranks = np.full(count, TRAIN_RANK, np.uint8) if ranks is None else ranks
    files = np.zeros(count, np.int32) if files is None else files
    is_held_out = ranks < TRAIN_RANK
    first_equal = first_index(keys.exact)
    first_normal = first_index(_per_file(keys.normal, files, is_held_out))
    equal = first_equal < positions
    of = np.full(count, -1, dtype=np.int64)
    alike = (first_normal < positions) & ~equal
    of[alike] = first_normal[alike]
    of[equal] = first_equal[equal]

    def may_replace(kept: np.ndarray, row: int) -> np.ndarray:
        if not is_held_out[row]:
            return np.ones(len(kept), dtype=bool)
        return (ranks[kept] < ranks[row]) | (files[kept] == files[row])

    rows = np.flatnonzero(of < 0)
    order = rows[np.argsort(ranks[rows], kind="stable")]
    for row, original in find_near(keys, order, read_shingles, may_replace).items():
        of[row] = original
    return DuplicateMatches(of, equal)


def _per_file(keys: np.ndarray, files: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Return the keys, with different keys for the selected rows of different files."""
    if not selected.any():
        return keys
    return np.where(selected, mix(keys ^ (files.astype(np.uint64) + np.uint64(1)) * PLACES[1]), keys)


def match_against(new: Keys, old: Keys, read_shingles: ReadShingles, *, same_answer: bool = False) -> DuplicateMatches:
    """Return, for each row of `new`, the first row of `old` that it equals or is near to.

    Rows of `new` are not compared with each other. read_shingles: its positions count the rows of `old`, then those of
    `new`. same_answer: whether rows with different answers are near to none, as duplicates are. To show a held-out row,
    its question is enough.
    """
    old_count = len(old)
    if not old_count or not len(new):
        return DuplicateMatches(np.full(len(new), -1, dtype=np.int64), np.zeros(len(new), dtype=bool))
    both = merge([old, new])
    first_equal, first_normal = first_index(both.exact)[old_count:], first_index(both.normal)
    of = np.where(first_normal[old_count:] < old_count, first_normal[old_count:], -1)
    of = np.where(first_equal < old_count, first_equal, of)
    # One row represents all rows that are equal after normalization.
    fresh_old = np.flatnonzero(first_normal[:old_count] == np.arange(old_count))
    rows = np.concatenate([fresh_old, old_count + np.flatnonzero(of < 0)])

    def may_replace(kept: np.ndarray, row: int) -> np.ndarray:
        return (kept < old_count) & (row >= old_count)

    read = read_shingles if same_answer else lambda positions: read_shingles(positions)[:2]
    for row, original in find_near(both, rows, read, may_replace).items():
        of[row - old_count] = original
    return DuplicateMatches(of, first_equal < old_count)
